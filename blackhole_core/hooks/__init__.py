"""Hook callers: the compiled, pluggy-compatible call path and the gate in front of it."""
