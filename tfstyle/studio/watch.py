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
      losses: Rows of step, kind of loss (``total``, ``content``, ``style`` and the
        like) and the sum of the terms of that kind.
      files: The result, and the mask that it was made with.
      command: The command that makes the result again.
      failed: Whether the status tells of a problem.
    """

    status: str
    preview: np.ndarray | None = None
    losses: list[tuple[int, str, float]] | None = None
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
        self._scale = -1
        self._pace = (0, 0.0)  # first step of the scale that was timed, and when

    def update(self, progress: Progress) -> Update | None:
        """What to show now; None if it is too soon for another update."""
        self._add(progress)
        if progress.scale != self._scale:
            # The first steps of a scale trace its graph: they say nothing of the rest.
            self._scale, self._pace = progress.scale, (progress.step, progress.seconds)
        if progress.seconds < self._next:
            return None
        self._next = progress.seconds + _SECONDS_BETWEEN
        height, width = progress.size
        parts = [
            f"Step {progress.step} of {progress.steps}",
            f"{width}×{height}",
            f"loss {progress.total:.4g}",
        ]
        if (left := self._seconds_left(progress)) is not None:
            parts.append(
                f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"
            )
        return Update(" · ".join(parts), shown(progress.image()[0]), self._losses())

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
        counts = self._options.steps_per_scale(progress.scales)
        left = sum(counts[: progress.scale + 1]) - progress.step
        # A step of the next scale has four times the pixels.
        later = (
            count * 4.0**i for i, count in enumerate(counts[progress.scale + 1 :], 1)
        )
        return pace * (left + sum(later))


def shown(picture: np.ndarray) -> np.ndarray:
    """A picture as a page shows it: uint8, and no larger than the page can show."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype("uint8")
    every = -(-max(picture.shape[:2]) // _PREVIEW_SIDE)
    return np.asarray(Image.fromarray(levels).reduce(every))
