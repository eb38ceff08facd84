"""Bringing plugin code in: sources, the versioned store, module universes, watching."""
