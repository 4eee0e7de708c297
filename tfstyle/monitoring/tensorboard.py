"""Losses and pictures of a run for TensorBoard."""

from __future__ import annotations

import os

import numpy as np
import tensorflow as tf

from tfstyle.errors import TfstyleError
from tfstyle.extras import import_extra
from tfstyle.optimizers.progress import Progress


class TensorBoard:
    """A callback that writes every column of every step, and pictures."""

    def __init__(self, folder: str | os.PathLike[str], image_every: int = 50):
        """Opens an event file.

        Args:
          folder: The log folder.
          image_every: Steps between pictures. The last picture is always written: by
            ``close``, if the run ends early.

        Raises:
          MissingExtraError: If TensorBoard is not installed.
          TfstyleError: If the file cannot be made.
        """
        # `tf.summary` needs it, and TensorFlow no longer installs it.
        import_extra("tensorboard", extra="tensorboard")
        try:
            self._writer = tf.summary.create_file_writer(os.fspath(folder))
        except tf.errors.OpError as error:
            raise TfstyleError(
                f"{folder}: TensorBoard's file could not be made; free some space or "
                "choose another folder"
            ) from error
        self._every, self._next = image_every, 0
        self._unwritten: Progress | None = None

    def __call__(self, progress: Progress) -> None:
        """Writes what is new since the last call.

        Raises:
          tf.errors.OpError: If it cannot be written.
        """
        with self._writer.as_default():
            for step, row in zip(progress.row_steps, progress.rows, strict=True):
                for column, value in zip(progress.columns, row, strict=True):
                    tf.summary.scalar(column, value, step=int(step))
        self._unwritten = progress
        if progress.step >= self._next or progress.step == progress.steps:
            self._next = (progress.step // self._every + 1) * self._every
            self._write_picture()
        self._writer.flush()

    def close(self) -> None:
        """Writes the last picture, if it is not written yet, and closes the file.

        Raises:
          tf.errors.OpError: If it cannot be written.
        """
        self._write_picture()
        self._writer.close()

    def _write_picture(self) -> None:
        progress, self._unwritten = self._unwritten, None
        if progress is None:
            return
        # `tf.summary.image` rounds floats down.
        levels = np.rint(progress.image() * 255).astype("uint8")
        with self._writer.as_default():
            tf.summary.image(
                "picture", levels, step=progress.step, max_outputs=len(levels)
            )
