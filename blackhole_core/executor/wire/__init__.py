"""The protocol between host and worker: frames, codec, connection state. No I/O here."""
