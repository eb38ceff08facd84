"""Running one plugin instance at one isolation level."""
