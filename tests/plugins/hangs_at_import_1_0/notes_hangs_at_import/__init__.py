"""A module whose import never ends by itself."""

from notes_api import hang

hang()
