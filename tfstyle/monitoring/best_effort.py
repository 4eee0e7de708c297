"""Lets a run go on without a callback that cannot write its files."""

from __future__ import annotations

import logging
from collections.abc import Callable

import tensorflow as tf

from tfstyle.errors import TfstyleError, one_line
from tfstyle.optimizers.progress import Callback, Progress


class BestEffort:
    """Calls another callback until that fails to write; a context manager.

    The failure is logged as a warning and does not end the run. Leaving the context
    closes the other callback.
    """

    def __init__(self, callback: Callback, name: str):
        """Wraps a callback.

        Args:
          callback: A callback that writes files, with or without a method ``close``.
          name: What the run goes on without after a failure, for the warning.
        """
        self._callback, self._name, self._failed = callback, name, False

    def __enter__(self) -> BestEffort:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C at the command line exits without writing anything.
        if kind is not SystemExit:
            self._try(getattr(self._callback, "close", lambda: None))

    def __call__(self, progress: Progress) -> bool | None:
        """Passes the progress on."""
        return self._try(lambda: self._callback(progress))

    def _try(self, action: Callable[[], bool | None]) -> bool | None:
        if self._failed:
            return None
        try:
            return action()
        # TensorFlow raises ResourceExhaustedError for a full disk, as for full memory.
        except (TfstyleError, OSError, tf.errors.OpError) as error:
            self._failed = True
            logging.getLogger("tfstyle").warning(
                "the run goes on without %s: %s", self._name, one_line(error)
            )
            return None
