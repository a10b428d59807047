"""From a plan to finished runs: launching, ranks, sweeps, clusters and searches. Imports nothing heavy before it is needed."""
