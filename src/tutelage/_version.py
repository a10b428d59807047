"""The version, alone, so that packages without torch can read it."""

__version__ = "0.1.0"
