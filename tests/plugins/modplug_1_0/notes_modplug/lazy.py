"""Imported inside a function, relatively."""

VERSION = "1.0.0"
