"""The version, in a file that imports nothing, so that every layer and the build can read it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
