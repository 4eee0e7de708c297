"""Photographs to train on: random crops, each a function of its number alone."""

from __future__ import annotations

import functools
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import load_image, resize_image


class Photos:
    """An endless stream of random crops of photographs.

    The i-th crop depends on the seed and on i only, so that a run can go on anywhere.

    Attributes:
      files: The photographs.
      unreadable: Those that were skipped, with the reason.
    """

    def __init__(
        self,
        files: list[pathlib.Path],
        size: int,
        seed: int,
        warn: Callable[[str], None] = lambda message: None,
    ):
        """Prepares the stream; no file is read yet.

        Args:
          files: The photographs.
          size: Side of the crops in pixels.
          seed: Seed of the order, of place and size of the crops, and of mirroring.
          warn: Called once for each photograph that cannot be read.
        """
        self.files, self.unreadable = files, dict[pathlib.Path, str]()
        self._size, self._seed, self._warn = size, seed, warn
        self._lock = threading.Lock()
        self._order = functools.lru_cache(4)(self._shuffled)

    def crop(self, index: int) -> np.ndarray:
        """The crop of a number, float32 ``[size, size, 3]`` in [0, 1].

        Args:
          index: The number, from 0.

        Returns:
          The crop; where a photograph cannot be read, one of the next in order.

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
                # Crops are at most twice as wide as they become.
                photo = load_image(file, 2 * self._size, size_of="shortest")[0]
            except (ImageError, UsageError) as error:
                self._skip(file, str(error))
                continue
            return self._crop(photo, random)
        raise UsageError(f"none of the {len(self.files)} photographs can be read")

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
