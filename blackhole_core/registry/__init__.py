"""Finding plugins and ordering them, without importing any."""
