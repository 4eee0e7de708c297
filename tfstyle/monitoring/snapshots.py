"""Pictures of a run so far."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from tfstyle.images import save_image
from tfstyle.optimizers.progress import Progress


class Snapshots:
    """A callback that writes the picture so far as ``step_00150.png``.

    Pictures of one batch stand side by side.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int):
        """Makes the folder if there is none.

        Args:
          folder: Where the pictures go.
          every: Steps between pictures; the first report at or after each is written.
            The last picture is always written: by ``close``, if the run ends early.
        """
        self._folder, self._every, self._next = pathlib.Path(folder), every, every
        self._folder.mkdir(parents=True, exist_ok=True)
        self._unwritten: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Writes a picture if one is due.

        Raises:
          TfstyleError: If it cannot be written.
        """
        self._unwritten = progress
        if progress.step >= self._next or progress.step == progress.steps:
            self._next = (progress.step // self._every + 1) * self._every
            self.close()

    def close(self) -> None:
        """Writes the last picture, if it is not written yet.

        Raises:
          TfstyleError: If it cannot be written.
        """
        progress, self._unwritten = self._unwritten, None
        if progress is not None:
            picture = np.concatenate(progress.image(), axis=1)
            save_image(picture, self._folder / f"step_{progress.step:05d}.png")
