"""The control socket of a standing host: its place, its protocol, both ends of it."""
