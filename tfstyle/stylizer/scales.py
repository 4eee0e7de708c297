"""From coarse to fine: the sizes of the scales, and the picture each begins with."""

from __future__ import annotations

import numpy as np

from tfstyle.images import resize_image
from tfstyle.options import Options
from tfstyle.stylizer.pictures import Pictures

SCALE_FACTOR = 2
_LEAST_SIDE = 112
"""Longest side in pixels below which no coarser scale is useful."""
_DETAIL = 0.4
"""The share of the first picture's fine detail that a finer scale begins with."""


def scale_sizes(size: tuple[int, int], scales: int) -> list[tuple[int, int]]:
    """Heights and widths of the scales, coarse to fine; each doubles the one before.

    Args:
      size: Height and width of the result.
      scales: The number of scales; 0 for as many as are useful.

    Returns:
      At least one size; the last one is ``size``.
    """
    sizes = [size]
    while len(sizes) < scales or not scales:
        factor = SCALE_FACTOR ** len(sizes)
        height, width = round(size[0] / factor), round(size[1] / factor)
        if not scales and max(height, width) < _LEAST_SIDE:
            break
        sizes.insert(0, (max(height, 1), max(width, 1)))
    return sizes


def first_picture(
    pictures: Pictures, size: tuple[int, int], options: Options
) -> np.ndarray:
    """What the coarsest scale begins with.

    Returns:
      Float32 ``[N, H, W, 3]`` in [0, 1].
    """
    if not isinstance(pictures.start, str):
        return resize_image(pictures.start, size)
    shape = (pictures.batch, *size, 3)
    random = np.random.default_rng(options.seed)
    if pictures.start == "noise":
        noise = random.uniform(-0.5, 0.5, shape)
    else:
        noise = random.normal(0.0, 0.25, shape)
    return np.clip(0.5 + noise, 0.0, 1.0).astype("float32")


def enlarged(
    picture: np.ndarray, start: np.ndarray | str, size: tuple[int, int]
) -> np.ndarray:
    """What a finer scale begins with: the coarser result, and some fine detail.

    All that the start has would bring the photograph's grain into the painting.

    Args:
      picture: The coarser scale's result, ``[N, h, w, 3]``.
      start: ``Pictures.start``.
      size: Height and width of the finer scale.

    Returns:
      Float32 ``[N, H, W, 3]`` in [0, 1].
    """
    larger = resize_image(picture, size)
    if isinstance(start, str):
        return larger
    # Enlarging makes no fine detail; the first picture has some at no cost.
    if larger is picture:
        larger = larger.copy()
    coarser = resize_image(start, picture.shape[1:3])
    for share, source in ((_DETAIL, start), (-_DETAIL, coarser)):
        resized = resize_image(source, size)
        # Row by row: a large picture is as large as anything here.
        for row in range(size[0]):
            larger[:, row] += share * resized[:, row]
    return np.clip(larger, 0.0, 1.0, out=larger)
