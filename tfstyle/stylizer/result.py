"""What a run comes to."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.files import as_path, shown
from tfstyle.images import encode_image, save_image


@dataclasses.dataclass(repr=False)
class Result:
    """The picture of a run, or the pictures of a batch, and how the loss fell.

    A notebook shows the picture.

    Attributes:
      images: Float32 ``[N, H, W, 3]``, RGB in [0, 1]; read-only.
      history: Columns ``step``, ``scale``, ``total`` and one per term of the loss; a
        row per step.
      seconds: How long the run took.
      stopped: Whether a callback ended it early.
      files: Absolute paths of the pictures that it was made from, where they are files.
    """

    images: np.ndarray
    history: dict[str, list[float]]
    seconds: float
    stopped: bool = False
    files: frozenset[str] = frozenset()

    @property
    def image(self) -> np.ndarray:
        """The picture, float32 ``[H, W, 3]``; the first one of a batch."""
        return self.images[0]

    @property
    def step(self) -> int:
        """The last step; 0 if there was none."""
        return int(self.history["step"][-1]) if self.history["step"] else 0

    def save(self, path: str | os.PathLike[str], *, quality: int = 95) -> None:
        """Writes the picture.

        Args:
          path: A ``.png``, ``.jpg`` or ``.webp`` file.
          quality: Of JPEG and WebP, from 1 to 100.

        Raises:
          UsageError: If the extension is another, the folder does not exist, or the
            file is a picture that this one was made from.
          ImageError: If the file cannot be written.
        """
        path = as_path(path, "path")
        if os.path.realpath(path) in self.files:
            raise UsageError(
                f"{shown(path)}: the picture was made from this file; choose another "
                "name, so that nothing is lost"
            )
        save_image(self.image, path, quality=quality, metadata={"Software": "tfstyle"})

    def _repr_png_(self) -> bytes:
        return encode_image(self.image, ".png")

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        count = f"{len(self.images)} pictures of " if len(self.images) > 1 else ""
        loss = f", loss {self.history['total'][-1]:.4g}" if self.step else ""
        stopped = ", stopped" if self.stopped else ""
        return (
            f"<Result: {count}{width}×{height}, {self.step} steps{loss}, "
            f"{self.seconds:.1f} s{stopped}>"
        )
