"""Turns the progress of a run into what a page shows."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from PIL import Image

from tfstyle.optimizers.progress import Progress
from tfstyle.options import Options

_PREVIEW_SIDE = 768
_SECONDS_BETWEEN = 0.4
_MOST_POINTS = 150  # of a curve
_LEAST_SHARE = 1e-4  # of the total; a picture that starts as its content has less


@dataclasses.dataclass(frozen=True)
class Update:
    """What a page shows of a run; what is None stays as it was.

    Attributes:
      status: One line.
      preview: The picture so far, ``[H, W, 3]`` uint8.
      share: How much of the work is done, 0 to 1; None where nobody can tell.
      losses: Rows of step, kind of loss (``total``, ``content``, ``style`` and the
        like) and the sum of the terms of that kind.
      scales: The first step and the size of each scale so far.
      files: The result, then the mask that it was made with, or the pictures of a
        sweep.
      command: The command that makes the result again.
      failed: Whether the status tells of a problem.
    """

    status: str
    preview: np.ndarray | None = None
    share: float | None = None
    losses: list[tuple[int, str, float]] | None = None
    scales: tuple[tuple[int, str], ...] = ()
    files: tuple[pathlib.Path, ...] = ()
    command: str = ""
    failed: bool = False


class Watch:
    """Collects the progress of a run, and gives an update when one is due."""

    def __init__(self, options: Options):
        """Begins with nothing."""
        self._options = options
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._next = 0.0
        self._scales: list[tuple[int, str]] = []
        self._pace = (0, 0.0)  # first step of the scale that was timed, and when

    def update(self, progress: Progress) -> Update | None:
        """What to show now; None if it is too soon for another update."""
        self._add(progress)
        if progress.scale >= len(self._scales):
            # The first steps of a scale trace its graph: they say nothing of the rest.
            self._pace = progress.step, progress.seconds
            first = int(progress.row_steps[0]) if len(progress.row_steps) else 0
            self._scales.append((first, f"{max(progress.size)} pixels"))
        if progress.seconds < self._next:
            return None
        self._next = progress.seconds + _SECONDS_BETWEEN
        height, width = progress.size
        parts = [
            f"Step {progress.step} of {progress.steps}",
            f"{width}×{height}",
        ]
        if (left := self._seconds_left(progress)) is not None:
            parts.append(
                f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"
            )
        return Update(
            " · ".join(parts),
            shown(progress.image()[0]),
            self._share(progress),
            self._losses(),
            tuple(self._scales),
        )

    def _add(self, progress: Progress) -> None:
        for step, row in zip(progress.row_steps, progress.rows.tolist(), strict=True):
            kinds: dict[str, float] = {}
            for column, value in zip(progress.columns, row, strict=True):
                kind = column.split("/")[0]
                kinds[kind] = kinds.get(kind, 0.0) + value
            self._rows.append((int(step), kinds))

    def _losses(self) -> list[tuple[int, str, float]]:
        every = len(self._rows) // _MOST_POINTS + 1
        return [
            (step, kind.replace("_", " "), max(value, _LEAST_SHARE * kinds["total"]))
            for step, kinds in self._rows[::-every][::-1]
            for kind, value in kinds.items()
            if kinds["total"] > 0
        ]

    def _seconds_left(self, progress: Progress) -> float | None:
        step, seconds = self._pace
        if progress.step - step < 3:
            return None
        pace = (progress.seconds - seconds) / (progress.step - step)
        return pace * self._left(progress)

    def _share(self, progress: Progress) -> float:
        counts = self._options.steps_per_scale(progress.scales)
        all_of_it = sum(
            count * _cost(i - progress.scale) for i, count in enumerate(counts)
        )
        return min(1.0, max(0.0, 1 - self._left(progress) / all_of_it))

    def _left(self, progress: Progress) -> float:
        """The work that is left, in steps of the current scale."""
        counts = self._options.steps_per_scale(progress.scales)
        now = sum(counts[: progress.scale + 1]) - progress.step
        later = enumerate(counts[progress.scale + 1 :], 1)
        return now + sum(count * _cost(i) for i, count in later)


def _cost(scales: int) -> float:
    """What a step costs so many scales later: each has four times the pixels."""
    return 4.0**scales


def shown(picture: np.ndarray) -> np.ndarray:
    """A picture as a page shows it: uint8, and no larger than the page can show."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype("uint8")
    every = -(-max(picture.shape[:2]) // _PREVIEW_SIDE)
    return np.asarray(Image.fromarray(levels).reduce(every))
