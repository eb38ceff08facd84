"""Imported together with the package."""

VERSION = "1.0.0"
