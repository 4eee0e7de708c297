"""Motion between the frames of a film: flow, warping, what can be trusted, flicker.

OpenCV is imported where it is used: it comes with ``tfstyle[video]``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

LEAST_SIDE = 16
"""Pixels of a side from which on there is a flow."""

_SAME = 0.08  # a difference in [0, 1] that noise hardly makes, and a wrong flow does


@dataclasses.dataclass(frozen=True)
class Motion:
    """Where the pixels of a frame were in the frame before.

    Attributes:
      flow: Float32 ``[H, W, 2]`` in pixels: what is at (x, y) was at (x, y) + flow.
      consistent: Bool ``[1, H, W, 1]``, see ``consistency``.
      trust: Float32 ``[1, H, W, 1]`` in [0, 1]: ``consistent`` with soft borders that
        do not reach over its own, less where the two frames look different after all:
        at a cut, in a flash, behind glass.
    """

    flow: np.ndarray
    consistent: np.ndarray
    trust: np.ndarray


def find_motion(frame: np.ndarray, previous: np.ndarray) -> Motion:
    """Finds the motion from a frame back to the one before.

    Args:
      frame: ``[1, H, W, 3]`` float32 in [0, 1], of sides from ``LEAST_SIDE``.
      previous: The frame before, of the same shape.

    Returns:
      The flow, and how far it can be trusted.
    """
    flow = optical_flow(frame, previous)
    consistent = consistency(flow, optical_flow(previous, frame))
    return Motion(flow, consistent, _trust(frame, warp(previous, flow), consistent))


def optical_flow(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Dense optical flow: where in ``source`` each pixel of ``target`` is.

    Dense inverse search on grey levels: Kroeger, Timofte, Dai and Van Gool (2016),
    arXiv:1603.03590, in OpenCV's medium preset.

    Args:
      target: ``[1, H, W, 3]`` float32 in [0, 1], of sides from ``LEAST_SIDE``.
      source: Of the same shape.

    Returns:
      Float32 ``[H, W, 2]``, displacements in x and y in pixels.
    """
    import cv2

    search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(_grey(target), _grey(source), None)


def _grey(frame: np.ndarray) -> np.ndarray:
    import cv2

    levels = np.rint(frame[0] * 255).astype("uint8")
    return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)


def warp(source: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Moves the pixels of a frame along a flow, with bicubic interpolation.

    A frame is warped again and again on its way through a film: the variance of its
    Laplacian was a quarter higher than with bilinear interpolation, and Lanczos's was
    no better.

    Args:
      source: ``[1, H, W, C]`` float32, of at most 4 channels.
      flow: Float32 ``[H, W, 2]``, see ``optical_flow``.

    Returns:
      Float32 of the same shape: at (x, y) the source's value at (x, y) + flow, that of
      its border where this is outside. Values may overshoot at edges.
    """
    import cv2

    x, y = _positions(flow)
    moved = cv2.remap(source[0], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(source.shape)


def _positions(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a flow leads, x and y. OpenCV takes float32 only."""
    height, width, _ = flow.shape
    y, x = np.mgrid[:height, :width].astype("float32")
    return x + flow[..., 0].astype("float32"), y + flow[..., 1].astype("float32")


def consistency(flow: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    """Where a flow can be trusted.

    Ruder, Dosovitskiy and Brox (2016), arXiv:1604.08610. Not where the way there and
    back ends elsewhere, which is so at disocclusions (equation 5):
    |w̃ + ŵ|² > 0.01·(|w̃|² + |ŵ|²) + 0.5 with w̃(x) = w(x + ŵ(x)). Not where the flow
    changes abruptly, at the boundaries of motion (equation 6):
    |∇û|² + |∇v̂|² > 0.01·|ŵ|² + 0.002. And not where it leads out of the frame.

    Args:
      flow: ŵ = (û, v̂), from a frame to the one before: float32 ``[H, W, 2]``.
      reverse: w, from the frame before to the frame, of the same shape.

    Returns:
      Bool ``[1, H, W, 1]``.
    """
    back = warp(reverse[None], flow)[0]
    square = np.square(flow).sum(-1)
    disoccluded = np.square(back + flow).sum(-1) > 0.5 + 0.01 * (
        np.square(back).sum(-1) + square
    )
    slopes = np.square(np.gradient(flow, axis=(0, 1))).sum((0, -1))
    boundary = slopes > 0.01 * square + 0.002
    height, width = square.shape
    x, y = _positions(flow)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return (inside & ~disoccluded & ~boundary)[None, ..., None]


def _trust(frame: np.ndarray, warped: np.ndarray, consistent: np.ndarray) -> np.ndarray:
    """``Motion.trust``, from the frame before as the flow moves it."""
    import cv2

    core = cv2.erode(consistent[0].astype("float32"), np.ones([5, 5], "uint8"))
    soft = cv2.GaussianBlur(core, (5, 5), 0)
    differs = cv2.GaussianBlur(np.abs(frame - warped)[0].max(-1), (0, 0), 1.5)
    return (soft * np.exp(-np.square(differs / _SAME)))[None, ..., None]


def flicker(frames: Iterable[np.ndarray], stylized: Iterable[np.ndarray]) -> float:
    """How much a stylized film changes beyond the motion of the film itself.

    Args:
      frames: The film's frames, each ``[1, H, W, 3]`` float32 in [0, 1].
      stylized: As many stylized frames of the same shape.

    Returns:
      The mean of ``frame_flicker`` over all pairs of neighbours, in [0, 1].
    """
    pairs = itertools.pairwise(zip(frames, stylized, strict=True))
    return mean_flicker(
        frame_flicker(after, before, find_motion(frame, previous))
        for (previous, before), (frame, after) in pairs
    )


def frame_flicker(picture: np.ndarray, previous: np.ndarray, motion: Motion) -> float:
    """How much a stylized frame differs from the one before as the film moves it.

    Args:
      picture: ``[1, H, W, 3]`` float32 in [0, 1].
      previous: The stylized frame before.
      motion: Of the film's frames, not of the stylized ones.

    Returns:
      The root of the mean squared difference where the motion is consistent, in the
      picture's units: 1 is from black to white. NaN where it is consistent nowhere.
    """
    squares = np.square(picture - warp(previous, motion.flow))
    count = 3 * np.count_nonzero(motion.consistent)
    total = np.sum(squares * motion.consistent, dtype="float64")
    return math.sqrt(total / count) if count else math.nan


def mean_flicker(values: Iterable[float]) -> float:
    """The mean of what is not NaN; 0 if there is nothing."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / max(len(known), 1)
