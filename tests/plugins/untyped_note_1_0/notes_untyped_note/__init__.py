"""A plugin without a single annotation: what its values are, only the spec says."""

import dataclasses

from notes_api import hookimpl


class Untyped:
    @hookimpl
    def note(self, note):  # type: ignore[no-untyped-def]  # this is the case it makes
        return dataclasses.replace(note, title=f"untyped {note.title} of {note.when.year}")
