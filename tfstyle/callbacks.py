"""What can be done with the progress of a run, each a callback of ``stylize``."""

from __future__ import annotations

import os
import pathlib
import types

from tfstyle.images import save_image
from tfstyle.optimize import Progress


class ProgressBar:
    """A bar on standard error with the loss and the time left; a context manager."""

    _LAYOUT = (
        "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} "
        "[{remaining} left{postfix}]"
    )

    def __init__(self) -> None:
        import tqdm

        self._bar = tqdm.tqdm(
            bar_format=self._LAYOUT, dynamic_ncols=True, leave=False, disable=None
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Moves the bar."""
        height, width = progress.image().shape[1:3]
        self._bar.total = progress.steps
        self._bar.set_description_str(f"{width}×{height}", refresh=False)
        self._bar.set_postfix_str(f"loss {progress.total:.4g}", refresh=False)
        self._bar.update(progress.step - self._bar.n)


class Snapshots:
    """Writes the picture so far, every so many steps, as ``step_00150.png``."""

    def __init__(self, folder: str | os.PathLike[str], every: int):
        """Makes the folder if need be.

        Args:
          folder: Where to.
          every: Steps between pictures; the first report at or after each is written.
        """
        self._folder, self._every, self._next = pathlib.Path(folder), every, every
        self._folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, progress: Progress) -> None:
        """Writes a picture if one is due."""
        if progress.step >= self._next:
            save_image(progress.image(), self._folder / f"step_{progress.step:05d}.png")
            self._next = (progress.step // self._every + 1) * self._every


class TensorBoard:
    """Writes every term of every step, and pictures, for TensorBoard."""

    def __init__(self, folder: str | os.PathLike[str], image_every: int = 50):
        """Opens an event file.

        Args:
          folder: The log folder.
          image_every: Steps between pictures.
        """
        import tensorflow as tf

        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(os.fspath(folder))
        self._every, self._next = image_every, 0

    def __call__(self, progress: Progress) -> None:
        """Writes what is new since the last call."""
        with self._writer.as_default():
            for step, row in zip(progress.row_steps, progress.rows, strict=True):
                for column, value in zip(progress.columns, row, strict=True):
                    self._summary.scalar(column, value, step=int(step))
            if progress.step >= self._next or progress.step == progress.steps:
                self._summary.image("picture", progress.image(), step=progress.step)
                self._next = (progress.step // self._every + 1) * self._every
        self._writer.flush()
