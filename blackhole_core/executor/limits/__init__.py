"""Limits of one worker and what it uses: control groups where the kernel lets us have them, else what a host can do by itself."""
