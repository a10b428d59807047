"""Hydra's entry to Tutelage's search: `hydra/sweeper=optuna`. Found by Hydra in its namespace package."""
