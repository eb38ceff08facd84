"""What can be wrong with an image."""

from __future__ import annotations

__all__ = ["BadImage"]


class BadImage(Exception):
    """An image that cannot be had or cannot be used; the message says why, as a part of a sentence, and what to do."""
