"""Hydra's entry to Tutelage's launcher on a Ray cluster: `hydra/launcher=ray`. Found by Hydra in its namespace package."""
