"""What long work reports to its callbacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tfstyle.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Progress:
    """The state of a run, a training or a film, about four times a second.

    Attributes:
      step: Steps so far: evaluations of the loss over all scales, training steps, or
        finished frames of a film.
      steps: Steps in all; None where a film does not tell its length.
      scale: The current scale, from 0.
      scales: The number of scales.
      columns: Names of the columns of ``rows``: ``total`` and the terms of the loss.
      rows: One row per step since the last report, float32 ``[steps, columns]``.
      row_steps: The step of each row.
      seconds: Seconds since the run began.
      size: Height and width of the picture so far.
      image: Returns the picture so far, float32 ``[N, H, W, 3]`` in [0, 1], read-only.
    """

    step: int
    steps: int | None
    scale: int
    scales: int
    columns: tuple[str, ...]
    rows: np.ndarray
    row_steps: np.ndarray
    seconds: float
    size: tuple[int, int]
    image: Callable[[], np.ndarray]

    @property
    def total(self) -> float:
        """The first column of the last row: the loss."""
        return float(self.rows[-1, 0])

    @property
    def terms(self) -> dict[str, float]:
        """The other columns of the last row by name; those of a loss add up to it."""
        values = self.rows[-1, 1:].tolist()
        return dict(zip(self.columns[1:], values, strict=True))


Callback = Callable[[Progress], bool | None]
"""Receives each report; returns True to stop the run and keep the picture so far."""


def checked_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    """Refuses callbacks that cannot be called.

    Args:
      callbacks: What a caller gave as a list of callbacks.

    Returns:
      The callbacks.

    Raises:
      UsageError: If it is no list, or holds something that is no function.
    """
    found = tuple(callbacks) if isinstance(callbacks, Iterable) else (None,)
    if not all(map(callable, found)):
        raise UsageError(
            f"callbacks={callback_names(callbacks)}: give a list of functions, as "
            "[callback]"
        )
    return found


def callback_names(callbacks: Any) -> str:
    """What a caller gave as callbacks, for a message, without addresses in memory."""
    if isinstance(callbacks, list | tuple):
        return f"[{', '.join(map(callback_names, callbacks))}]"
    if " at 0x" not in repr(callbacks):
        return repr(callbacks)
    return getattr(callbacks, "__name__", f"{type(callbacks).__name__}()")
