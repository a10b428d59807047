"""Hydra's entry to Tutelage's launcher: `hydra/launcher=local`. Found by Hydra in its namespace package."""
