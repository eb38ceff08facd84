"""Imported inside a function, by ``importlib.import_module``."""

VERSION = "1.0.0"
