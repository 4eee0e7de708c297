"""Regions of pictures: masks, and the styles that the regions take.

A mask is a picture. A grey mask has two regions, white and black; grey pixels belong to
both in part. A coloured mask is labelled: each colour stands for the nearest of the
eight labels, and edges are as soft as resizing makes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tfstyle.errors import UsageError
from tfstyle.images import load_image, resize_image

LABELS = {
    "white": (1, 1, 1),
    "black": (0, 0, 0),
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
}
"""Colours that label regions, in the order in which styles are given to them."""

Mask = dict[str, np.ndarray]
"""How much of each pixel belongs to a region, ``[1, H, W, 1]`` in [0, 1], by label."""

_GREY = 0.1  # by which the channels of a grey picture differ at most after JPEG
_LEAST_SHARE = 0.002  # of all pixels; fewer are the fringe of another label
_STRETCH = 0.02  # of the proportions, from which on there is a notice


def read_mask(name: str, source: Any, size: tuple[int, int]) -> Mask:
    """Reads the mask of a picture.

    Args:
      name: What messages call the mask.
      source: Same as in ``load_image``.
      size: Height and width of the picture. A mask of other proportions is stretched,
        with a notice.

    Returns:
      The regions of the mask, in the order of ``LABELS``; they add up to 1 at every
      pixel.

    Raises:
      UsageError: Same as in ``load_image``.
      ImageError: Same as in ``load_image``.
    """
    picture = load_image(source, name=name)
    _notice_stretch(name, picture.shape[1:3], size)
    if (np.ptp(picture, axis=-1) > _GREY).mean() < _LEAST_SHARE:
        white = _resized(picture.mean(-1, keepdims=True), size)
        regions = {"white": white, "black": 1 - white}
        return {label: part for label, part in regions.items() if part.max() > 0.5}
    labels = _present(picture, list(LABELS))
    nearest = _nearest(picture, labels)
    return {
        label: _resized((nearest == i).astype("float32"), size)
        for i, label in enumerate(labels)
    }


def read_protection(source: Any, size: tuple[int, int]) -> np.ndarray:
    """Reads the mask of what stays as it is: white pixels, and grey ones in part.

    Args:
      source: Same as in ``load_image``.
      size: Height and width of the picture.

    Returns:
      Float32 ``[1, H, W, 1]`` in [0, 1].

    Raises:
      UsageError: If nothing or everything is white, or the mask has colours; or same
        as in ``load_image``.
      ImageError: Same as in ``load_image``.
    """
    mask = read_mask("protect", source, size)
    for label, problem in (("white", "no part is white"), ("black", "all is white")):
        if label not in mask:
            raise UsageError(
                f"protect: {problem}; paint white what is kept, and black the rest"
            )
    if len(mask) > 2:
        raise UsageError("protect: the mask has colours; use white, grey and black")
    return mask["white"]


def protected(
    picture: np.ndarray, original: np.ndarray, protect: np.ndarray
) -> np.ndarray:
    """Puts the original back where a picture is protected.

    Args:
      picture: Float32 ``[N, H, W, 3]``.
      original: The original pictures, of the same shape.
      protect: How much of each pixel is protected, from ``read_protection``.

    Returns:
      An array of the same shape; the original to the last bit where ``protect`` is 1.
    """
    # The sum of both products could round what is wholly protected.
    mixed = protect * original + (1 - protect) * picture
    return np.where(protect == 1, original, mixed)


def assign_styles(
    weights: Sequence[float],
    content_mask: Mask | None,
    style_masks: Sequence[Mask] | None,
) -> tuple[np.ndarray, list[str]]:
    """Decides which styles each region takes.

    Args:
      weights: The weight of each style.
      content_mask: The regions of the content picture; None if it has no mask.
      style_masks: The regions of each style picture: a region of the content picture
        takes the statistics of what has its label; without a content mask, what is
        white counts. None if the styles have no masks: the first region takes the
        first style, and so on.

    Returns:
      The share of each style in each region, ``[styles, regions]``, whose columns add
      up to 1; and the labels of the regions (``white`` where there is no mask).

    Raises:
      UsageError: If a region has no style, or a style has no region.
    """
    if content_mask is None:
        labels = ["white"]
    else:
        labels = list(content_mask)
        if len(labels) < 2:
            raise UsageError(
                f"content_mask has one region only, {labels[0]}; paint each region in "
                f"a colour of its own: {', '.join(LABELS)}"
            )
    if style_masks is not None:
        return _shares_by_label(weights, labels, style_masks), labels
    if content_mask is None:
        return _normalized(np.asarray(weights, "float64")[:, None]), labels
    if len(labels) != len(weights):
        raise UsageError(
            f"content_mask has {len(labels)} regions ({', '.join(labels)}), but there "
            f"{'is 1 style' if len(weights) == 1 else f'are {len(weights)} styles'}; "
            "give a style for each region, in this order, or a style_mask for each "
            "style"
        )
    return np.eye(len(labels)), labels


def check_style_masks(masks: Sequence[Any], styles: Sequence[Any]) -> None:
    """Refuses more or fewer style masks than styles.

    Raises:
      UsageError: If there are not as many masks as styles.
    """
    if len(masks) != len(styles):
        raise UsageError(
            f"style_mask: {len(masks)} mask{'s' * (len(masks) != 1)} for {len(styles)} "
            f"style{'s' * (len(styles) != 1)}; give one for each, in the same order"
        )


def regions_array(mask: Mask, labels: Sequence[str]) -> np.ndarray:
    """Stacks the regions of a mask.

    Args:
      mask: The regions by label.
      labels: Which labels, in which order.

    Returns:
      Float32 ``[1, H, W, R]`` in [0, 1]; 0 for a label that the mask does not have.
    """
    blank = np.zeros_like(next(iter(mask.values())))
    return np.concatenate([mask.get(label, blank) for label in labels], -1)


def _shares_by_label(
    weights: Sequence[float], labels: list[str], style_masks: Sequence[Mask]
) -> np.ndarray:
    check_style_masks(style_masks, weights)
    shares = np.array(
        [
            [weight * (label in mask) for label in labels]
            for weight, mask in zip(weights, style_masks, strict=True)
        ]
    )
    for label, share in zip(labels, shares.T, strict=True):
        if not share.any():
            raise UsageError(
                f"no style has a region for {label}, which content_mask has; paint one "
                "in a style_mask"
                if len(labels) > 1
                else "no part of a style_mask is white; paint white what counts"
            )
    return _normalized(shares)


def _normalized(shares: np.ndarray) -> np.ndarray:
    return shares / shares.sum(0)


def _present(picture: np.ndarray, labels: list[str]) -> list[str]:
    """The labels of which there is more than a fringe."""
    counts = np.bincount(_nearest(picture, labels).ravel(), minlength=len(labels))
    least = _LEAST_SHARE * counts.sum()
    return [
        label for label, count in zip(labels, counts, strict=True) if count >= least
    ]


def _nearest(picture: np.ndarray, labels: Sequence[str]) -> np.ndarray:
    """The number of the nearest label of each pixel, ``[1, H, W, 1]``."""
    distances = [
        np.square(picture - np.array(LABELS[label], "float32")).sum(-1)
        for label in labels
    ]
    return np.argmin(distances, axis=0)[..., None]


def _resized(part: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    # This filter has no overshoot, so that the regions still add up to 1.
    part = resize_image(part, size, resample=Image.Resampling.BILINEAR)
    # Rounding would leave a trace of one region within another.
    return np.where(part > 0.999, 1.0, np.where(part < 0.001, 0.0, part)).astype(
        "float32"
    )


def _notice_stretch(name: str, shape: tuple[int, ...], size: tuple[int, int]) -> None:
    ratio = shape[0] * size[1] / (shape[1] * size[0])
    if abs(ratio - 1) > _STRETCH:
        logging.getLogger("tfstyle").warning(
            "%s: %d×%d pixels are stretched to the proportions of %d×%d",
            name,
            shape[1],
            shape[0],
            size[1],
            size[0],
        )
