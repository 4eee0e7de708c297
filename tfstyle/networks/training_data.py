"""Photographs to train on: crops and batches, each a function of its number alone."""

from __future__ import annotations

import functools
import pathlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import load_image, resize_image
from tfstyle.options import TrainingOptions

SAMPLE_SIZE = 384
"""Longest side in pixels of the photograph that shows a training's progress."""


class Photos:
    """An endless stream of random crops of photographs.

    The i-th crop depends on the seed and on i only, so that a run can go on anywhere.

    Attributes:
      files: The photographs.
      unreadable: Those that were skipped, with the reason.
      kind: What they are, for messages.
    """

    def __init__(
        self,
        files: list[pathlib.Path],
        size: int,
        seed: int,
        warn: Callable[[str], None] = lambda message: None,
        kind: str = "photographs",
    ):
        """Prepares the stream; no file is read yet.

        Args:
          files: The photographs.
          size: Side of the crops in pixels.
          seed: Seed of the order, of place and size of the crops, and of mirroring.
          warn: Called once for each photograph that cannot be read.
          kind: What they are, for messages.
        """
        self.kind = kind
        self.files, self.unreadable = files, dict[pathlib.Path, str]()
        self._size, self._seed, self._warn = size, seed, warn
        self._lock = threading.Lock()
        self._order = functools.lru_cache(4)(self._shuffled)

    def crop(self, index: int) -> np.ndarray:
        """The crop of a number.

        Args:
          index: The number, from 0.

        Returns:
          The crop, ``[size, size, 3]`` float32 in [0, 1]. Where a photograph cannot be
          read, the next one in order takes its place.

        Raises:
          UsageError: If none of the photographs can be read.
        """
        epoch, place = divmod(int(index), len(self.files))
        random = np.random.default_rng([self._seed, int(index)])
        for number in np.roll(self._order(epoch), -place):
            file = self.files[number]
            if file in self.unreadable:
                continue
            try:
                # The largest crops are twice as wide as their result.
                photo = load_image(file, 2 * self._size, size_of="shortest")[0]
            except (ImageError, UsageError) as error:
                self._skip(file, str(error))
                continue
            return self._crop(photo, random)
        raise none_readable(self.files, self.kind)

    def _crop(self, photo: np.ndarray, random: np.random.Generator) -> np.ndarray:
        height, width = photo.shape[:2]
        shortest = min(height, width)
        side = random.integers(min(self._size, shortest), shortest, endpoint=True)
        top = random.integers(height - side, endpoint=True)
        left = random.integers(width - side, endpoint=True)
        window = photo[None, top : top + side, left : left + side]
        crop = resize_image(window, (self._size, self._size))[0]
        return np.ascontiguousarray(crop[:, ::-1] if random.integers(2) else crop)

    def _shuffled(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng([self._seed, epoch, len(self.files)])
        return random.permutation(len(self.files))

    def _skip(self, file: pathlib.Path, reason: str) -> None:
        with self._lock:
            if file not in self.unreadable:
                self.unreadable[file] = reason
                self._warn(f"skipped: {reason}")


def batches(
    photos: Photos,
    example_of: Callable[[int, np.ndarray], tuple[np.ndarray, Any]],
    style: tf.TensorSpec,
    options: TrainingOptions,
    first_step: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """The batches of one worker, from a step to the last one.

    Args:
      photos: The photographs.
      example_of: Gives the content and the style of a crop, from its number.
      style: Describes what ``example_of`` gives as style.
      options: The options of the training.
      first_step: Steps that are done already.
      context: Says which worker this is, and on how many devices a step runs.

    Returns:
      For each device and step, photographs and the pictures whose content is wanted,
      ``[N, size, size, 3]`` float32 in [0, 1], and their styles.

    Raises:
      UsageError: If the devices cannot share a batch equally.
    """
    size, devices = options.size, context.num_replicas_in_sync
    batch, rest = divmod(options.batch_size, devices)
    if rest:
        raise UsageError(
            f"batch_size={options.batch_size}: give a multiple of the {devices} devices"
        )

    def load(number: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        photo = photos.crop(int(number))
        return photo, *example_of(int(number), photo)

    def example(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # What has no state may run in parallel even where every bit must repeat.
        types = (tf.float32, tf.float32, style.dtype)
        parts = tf.numpy_function(load, [number], types, stateful=False)
        shapes = ([size, size, 3], [size, size, 3], style.shape)
        return tuple(map(tf.ensure_shape, parts, shapes))

    share = options.batch_size // context.num_input_pipelines
    first = tf.constant(context.input_pipeline_id * share, tf.int64)
    numbers = tf.data.Dataset.range(first_step, options.steps).flat_map(
        lambda step: tf.data.Dataset.range(share).map(
            lambda i: step * options.batch_size + first + i
        )
    )
    return (
        numbers.map(example, tf.data.AUTOTUNE, deterministic=True)
        .batch(batch, drop_remainder=True)
        .prefetch(2)
    )


def sample_photo(
    files: list[pathlib.Path], chosen: Any = None
) -> tuple[np.ndarray, list[pathlib.Path]]:
    """Chooses the photograph that shows a training's progress.

    Args:
      files: The photographs.
      chosen: The picture to take, see ``load_image``; None for the first of ``files``
        that can be read, which is then not trained on, unless it is the only one.

    Returns:
      The photograph, ``[1, H, W, 3]`` float32 in [0, 1], at most ``SAMPLE_SIZE`` wide
      and high; and the files to train on.

    Raises:
      UsageError: If no file can be read, or there is no file ``chosen``.
      ImageError: If ``chosen`` cannot be read.
    """
    if chosen is not None:
        return load_image(chosen, SAMPLE_SIZE), files
    for i, file in enumerate(files):
        try:
            photo = load_image(file, SAMPLE_SIZE)
        except ImageError:
            continue  # the training counts it
        return photo, (files[:i] + files[i + 1 :]) or files
    raise none_readable(files)


def none_readable(files: list[pathlib.Path], kind: str = "photographs") -> UsageError:
    """The error of photographs, or other pictures, none of which can be read."""
    return UsageError(f"none of the {len(files)} {kind} can be read")
