"""Hydra's entry to Tutelage's launcher on a cluster: `hydra/launcher=slurm`. Found by Hydra in its namespace package."""
