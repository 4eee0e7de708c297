"""What can be done with the progress of a run, each a callback of ``stylize``."""

from __future__ import annotations

import logging
import os
import pathlib
import types
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import TfstyleError
from tfstyle.images import save_image
from tfstyle.optimizers.progress import Callback, Progress


class ProgressBar:
    """A bar on standard error with the loss and the time left; a context manager.

    It keeps silent where standard error is no terminal.
    """

    _LAYOUT = (
        "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} "
        "[{remaining} left{postfix}]"
    )

    def __init__(self) -> None:
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Moves the bar."""
        if self._bar is None:
            self._bar = self._started(progress)
        if self._bar.disable:
            return
        self._bar.set_description_str(self._size(progress), refresh=False)
        self._bar.set_postfix_str(f"loss {progress.total:.4g}", refresh=False)
        self._bar.update(progress.step - self._bar.n)

    @staticmethod
    def _size(progress: Progress) -> str:
        height, width = progress.size
        return f"{width}×{height}"

    def _started(self, progress: Progress) -> Any:
        import tqdm

        # Begun only now, the bar does not count the first step, which traces the graph
        # and says nothing about the time left.
        return tqdm.tqdm(
            desc=self._size(progress),
            total=progress.steps,
            initial=progress.step,
            bar_format=self._LAYOUT,
            dynamic_ncols=True,
            leave=False,
            disable=None,
        )


def outliving(callback: Callback, what: str) -> Callback:
    """Calls a callback until it fails to write, which does not end the run.

    Args:
      callback: One that writes files.
      what: What the run goes on without then; a warning says so.
    """
    failed = False

    def call(progress: Progress) -> bool | None:
        nonlocal failed
        if failed:
            return None
        try:
            return callback(progress)
        # TensorFlow calls a full disk ResourceExhaustedError, as it calls full memory.
        except (TfstyleError, OSError, tf.errors.OpError) as error:
            failed = True
            reason = " ".join(str(error).split())[:200]
            logging.getLogger("tfstyle").warning(
                "the run goes on without %s: %s", what, reason
            )
            return None

    return call


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
            # Pictures of one batch stand side by side.
            picture = np.concatenate(progress.image(), axis=1)
            save_image(picture, self._folder / f"step_{progress.step:05d}.png")
            self._next = (progress.step // self._every + 1) * self._every


class TensorBoard:
    """Writes every term of every step, and pictures, for TensorBoard."""

    def __init__(self, folder: str | os.PathLike[str], image_every: int = 50):
        """Opens an event file.

        Args:
          folder: The log folder.
          image_every: Steps between pictures.

        Raises:
          TfstyleError: The file cannot be made.
        """
        try:
            self._writer = tf.summary.create_file_writer(os.fspath(folder))
        except tf.errors.OpError as error:
            raise TfstyleError(
                f"{folder}: TensorBoard's file could not be made; free some space or "
                "choose another folder"
            ) from error
        self._every, self._next = image_every, 0

    def __call__(self, progress: Progress) -> None:
        """Writes what is new since the last call."""
        with self._writer.as_default():
            for step, row in zip(progress.row_steps, progress.rows, strict=True):
                for column, value in zip(progress.columns, row, strict=True):
                    tf.summary.write(column, value, int(step), _SCALAR)
            if progress.step >= self._next or progress.step == progress.steps:
                picture = _encoded(progress.image())
                tf.summary.write("picture", picture, progress.step, _IMAGE)
                self._next = (progress.step // self._every + 1) * self._every
        self._writer.flush()


def _summary_kind(plugin: str, data_class: int) -> Any:
    metadata = tf.compat.v1.SummaryMetadata(data_class=data_class)
    metadata.plugin_data.plugin_name = plugin
    return metadata


# `tf.summary.scalar` and `image` need TensorBoard installed, which TensorFlow no longer
# brings along. These are the kinds of record that they write.
_SCALAR = _summary_kind("scalars", 1)
_IMAGE = _summary_kind("images", 3)


def _encoded(image: np.ndarray) -> tf.Tensor:
    """Width, height and PNGs of pictures, as TensorBoard's image plugin has them."""
    levels = np.rint(image * 255).astype("uint8")
    height, width = image.shape[1:3]
    pictures = [tf.io.encode_png(picture) for picture in levels]
    return tf.stack([str(width), str(height), *pictures])
