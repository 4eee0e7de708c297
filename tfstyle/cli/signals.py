"""Ctrl-C and SIGTERM: neither is missed, and the picture so far is kept."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfstyle.optimizers.progress import Progress

_interrupts: list[int] = []


@contextlib.contextmanager
def remembering_interrupts() -> Iterator[None]:
    """Lets Ctrl-C raise KeyboardInterrupt as usual, and remembers that it came.

    Python drops an exception that is raised in a destructor or a native callback, and
    the import of a large library runs many of these. ``check_interrupts`` raises it
    again. An import that it ends may also raise an error of its own, in whose place
    KeyboardInterrupt is raised.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return

    def receive(number: int, _: object) -> None:
        _interrupts.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, receive)
    try:
        yield
    except Exception as error:
        if _interrupts:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _interrupts.clear()


def check_interrupts() -> None:
    """Raises the interrupt that Python may have dropped.

    Raises:
      KeyboardInterrupt: If Ctrl-C has come.
    """
    if _interrupts:
        raise KeyboardInterrupt


def signal_awaited() -> Callable[[], int]:
    """Lets SIGINT and SIGTERM end a wait, from now on.

    Returns:
      A function that waits for one of them, and returns the exit code.
    """
    ended, received = threading.Event(), list[int]()

    def end(number: int, _: object) -> None:
        received.append(number)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    check_interrupts()

    def wait() -> int:
        ended.wait()
        return 128 + received[0]

    return wait


class StopOnSignal:
    """Ends a run after SIGINT or SIGTERM with the picture so far; a context manager.

    A second signal ends the program at once.

    Attributes:
      received: Number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        check_interrupts()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, progress: Progress) -> bool:
        """Tells the run to stop once a signal came."""
        return bool(self.received)

    def _receive(self, number: int, _: object) -> None:
        if self.received:
            sys.exit(128 + number)
        self.received = number
