"""Callbacks that write pictures of a run, or of a training, so far."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np

from tfstyle.images import load_image, save_image
from tfstyle.images.sheet import contact_sheet
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


class SampleFigure:
    """A callback that shows one photograph in every style at chosen steps.

    Each picture is a file such as ``samples/step_000100_waves.png`` in the folder of
    the run. All of them together are ``progress.png``: a column for each style and a
    row for each step, below the photograph itself.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        photo: np.ndarray,
        styles: Sequence[str],
        steps: Sequence[int],
    ):
        """Prepares the figure; nothing is written yet.

        Args:
          folder: The folder of the run. Samples of earlier sessions are shown too.
          photo: The photograph, ``[1, H, W, 3]`` in [0, 1], that the training
            stylizes, see ``sample_photo``.
          styles: Names of the styles.
          steps: The steps to show, which the training reports; the last step is shown
            in any case.
        """
        self._folder, self._photo = pathlib.Path(folder), photo
        self._styles, self._steps = list(styles), frozenset(steps)

    def __call__(self, progress: Progress) -> None:
        """Adds a row if the step is one of those to show.

        Raises:
          TfstyleError: If a file cannot be written.
        """
        if progress.step not in self._steps and progress.step != progress.steps:
            return
        (self._folder / "samples").mkdir(parents=True, exist_ok=True)
        for name, picture in zip(self._styles, progress.image(), strict=True):
            save_image(picture, self._file(progress.step, name))
        save_image(
            self._sheet(),
            self._folder / "progress.png",
            metadata={"Software": "tfstyle"},
        )

    def _sheet(self) -> np.ndarray:
        found = (self._folder / "samples").glob("step_*.png")
        steps = sorted({int(file.stem.split("_")[1]) for file in found})
        pictures = [self._photo] * len(self._styles)
        captions = list(self._styles)
        for step in steps:
            for name in self._styles:
                known = self._file(step, name).is_file()
                blank = np.ones_like(self._photo)
                pictures.append(load_image(self._file(step, name)) if known else blank)
                captions.append(f"step {step}" if known else "")
        return contact_sheet(pictures, captions, len(self._styles))

    def _file(self, step: int, style: str) -> pathlib.Path:
        return self._folder / "samples" / f"step_{step:06d}_{style}.png"
