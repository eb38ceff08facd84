"""The pipes between the host and one worker, with each end in the hands of the side it belongs to."""

from __future__ import annotations

import fcntl
import os
from types import TracebackType
from typing import Final, Self

__all__ = ["PIPE_SIZE", "Plumbing"]

#: Bytes of kernel buffer per protocol pipe: the most an unprivileged process may ask for, so a large message needs few wake-ups.
PIPE_SIZE: Final = 1024 * 1024


class Plumbing:
    """Three pipes as a block: two for the protocol, one for the worker's output. All ends are closed at its end, but those handed over.

    ``receive``, ``send`` (non-blocking) and ``output`` are the host's; those of the worker have its name before them.

    :raises OSError: no more descriptors; nothing is left open.
    """

    def __init__(self) -> None:
        self._opened: list[int] = []
        try:
            self.worker_receive, self.send = self._pipe()
            self.receive, self.worker_send = self._pipe()
            self.output, self.worker_output = self._pipe()
            os.set_blocking(self.send, False)
        except BaseException:
            self._close()
            raise

    def hand_over(self) -> None:
        """Keep the host's ends open: somebody else closes them."""
        for descriptor in (self.receive, self.send, self.output):
            self._opened.remove(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())

    def _pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._opened += (reading, writing)
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except PermissionError:  # the user's pipe buffers are used up; the default size works, only slower
            pass
        return reading, writing
