"""The pipes between the host and one worker, with each end in the hands of the side it belongs to."""

from __future__ import annotations

import abc
import fcntl
import os
from types import TracebackType
from typing import Final, Self

__all__ = ["PIPE_SIZE", "Opened", "Plumbing"]

#: Bytes of kernel buffer per protocol pipe: the most an unprivileged process may ask for, so a large message needs few wake-ups.
PIPE_SIZE: Final = 1024 * 1024


class Opened(abc.ABC):
    """Descriptors as a block: all are closed at its end, but those that were kept."""

    def __init__(self) -> None:
        self._opened: list[int] = []
        try:
            self._open()
        except BaseException:
            self._close()
            raise

    @abc.abstractmethod
    def _open(self) -> None:
        """Open all of them, each noted in ``_opened`` at once."""

    def _keep(self, *descriptors: int) -> None:
        for descriptor in descriptors:
            self._opened.remove(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        while self._opened:
            os.close(self._opened.pop())


class Plumbing(Opened):
    """Three pipes: two for the protocol, one for the worker's output.

    ``receive``, ``send`` (non-blocking) and ``output`` are the host's; those of the worker have its name before them.

    :raises OSError: no more descriptors; nothing is left open.
    """

    def _open(self) -> None:
        self.worker_receive, self.send = self._pipe()
        self.receive, self.worker_send = self._pipe()
        self.output, self.worker_output = self._pipe()
        os.set_blocking(self.send, False)

    def hand_over(self) -> None:
        """Keep the host's ends open: somebody else closes them."""
        self._keep(self.receive, self.send, self.output)

    def _pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        self._opened += (reading, writing)
        try:
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except PermissionError:  # the user's pipe buffers are used up; the default size works, only slower
            pass
        return reading, writing
