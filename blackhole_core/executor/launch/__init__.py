"""How a worker is brought up, one module per level."""
