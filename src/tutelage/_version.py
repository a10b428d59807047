"""The version, alone, so that rooms without torch can read it."""

__version__ = "0.1.0"
