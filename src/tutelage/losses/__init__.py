"""Losses: pure functions of tensors, for distillation, features and consistency.

Imports nothing of Tutelage but errors. All compute in float32 (float64 stays), whatever precision surrounds them.
"""
