"""The manifest: what a plugin declares about itself, readable without importing it."""
