"""The version of tfstyle."""

__version__ = "0.2.0"
