"""Imported inside a function, by its absolute name."""

VERSION = "1.0.0"
