"""Motion between the frames of a film: optical flow, warping, consistency, flicker."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfstyle.extras import import_extra

LEAST_SIDE = 16
"""Shortest side, in pixels, for which there is a flow."""

_SAME = 0.08  # a difference in [0, 1] that is more than noise: the flow is wrong


@dataclasses.dataclass(frozen=True)
class Motion:
    """Where the pixels of a frame were in the frame before.

    Attributes:
      flow: Float32 ``[H, W, 2]`` in pixels: what is at (x, y) was at (x, y) + flow.
      consistent: Bool ``[1, H, W, 1]``, see ``consistency``.
      trust: Float32 ``[1, H, W, 1]`` in [0, 1]: ``consistent`` with soft borders, which
        lie inside it. It is lower where the two frames look different all the same: at
        a cut, in a flash, behind glass.
    """

    flow: np.ndarray
    consistent: np.ndarray
    trust: np.ndarray


def find_motion(frame: np.ndarray, previous: np.ndarray) -> Motion:
    """Finds the motion from a frame back to the one before.

    Args:
      frame: Float32 ``[1, H, W, 3]`` in [0, 1], with sides of at least ``LEAST_SIDE``.
      previous: The frame before, of the same shape.

    Returns:
      The flow, and how far it can be trusted.

    Raises:
      MissingExtraError: If OpenCV is not installed; so for the functions below.
    """
    flow = optical_flow(frame, previous)
    consistent = consistency(flow, optical_flow(previous, frame))
    return Motion(flow, consistent, _trust(frame, warp(previous, flow), consistent))


def optical_flow(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Dense optical flow: where in ``source`` each pixel of ``target`` is.

    Dense inverse search on grey levels: Kroeger, Timofte, Dai and Van Gool (2016),
    arXiv:1603.03590, with OpenCV's medium preset.

    Args:
      target: Float32 ``[1, H, W, 3]`` in [0, 1], with sides of at least ``LEAST_SIDE``.
      source: Of the same shape.

    Returns:
      Float32 ``[H, W, 2]``, displacements in x and y in pixels.
    """
    cv2: Any = import_extra("cv2", extra="video")
    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return search.calc(_grey(target), _grey(source), None)


def _grey(frame: np.ndarray) -> np.ndarray:
    cv2: Any = import_extra("cv2", extra="video")
    levels = np.rint(frame[0] * 255).astype("uint8")
    return cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)


def warp(source: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Moves the pixels of a frame along a flow, with bicubic interpolation.

    Bilinear interpolation would blur: in a film, what one frame shows is warped from
    frame to frame.

    Args:
      source: Float32 ``[1, H, W, C]`` with at most 4 channels.
      flow: Float32 ``[H, W, 2]``, see ``optical_flow``.

    Returns:
      Float32 of the same shape: the value at (x, y) is the source's at (x, y) + flow,
      or at the nearest border if that is outside. Values may overshoot at edges.
    """
    cv2: Any = import_extra("cv2", extra="video")
    x, y = _positions(flow)
    moved = cv2.remap(source[0], x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(source.shape)


def _positions(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The x and y that a flow leads to, in float32, as OpenCV needs them."""
    height, width, _ = flow.shape
    y, x = np.mgrid[:height, :width].astype("float32")
    return x + flow[..., 0].astype("float32"), y + flow[..., 1].astype("float32")


def consistency(flow: np.ndarray, reverse: np.ndarray) -> np.ndarray:
    """Finds where a flow can be trusted.

    A flow ŵ = (û, v̂) cannot be trusted in three places (Ruder, Dosovitskiy and Brox
    2016, arXiv:1604.08610). At disocclusions, where the flow there and back does not
    return to its start (equation 5): |w̃ + ŵ|² > 0.01·(|w̃|² + |ŵ|²) + 0.5 with
    w̃(x) = w(x + ŵ(x)). At the boundaries of motion, where the flow changes abruptly
    (equation 6): |∇û|² + |∇v̂|² > 0.01·|ŵ|² + 0.002. And where it leads out of the
    frame.

    Args:
      flow: ŵ, from a frame to the one before: float32 ``[H, W, 2]``.
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
    """``Motion.trust``, given the frame before as the flow moves it."""
    cv2: Any = import_extra("cv2", extra="video")
    core = cv2.erode(consistent[0].astype("float32"), np.ones([5, 5], "uint8"))
    soft = cv2.GaussianBlur(core, (5, 5), 0)
    differs = cv2.GaussianBlur(np.abs(frame - warped)[0].max(-1), (0, 0), 1.5)
    return (soft * np.exp(-np.square(differs / _SAME)))[None, ..., None]


def frame_flicker(picture: np.ndarray, previous: np.ndarray, motion: Motion) -> float:
    """Measures how much a stylized frame differs from the one before, once moved.

    Args:
      picture: Float32 ``[1, H, W, 3]`` in [0, 1].
      previous: The stylized frame before.
      motion: The motion of the film's frames, not of the stylized ones.

    Returns:
      The root of the mean squared difference where the motion is consistent: 1 is the
      difference between black and white. NaN if the motion is consistent nowhere.
    """
    squares = np.square(picture - warp(previous, motion.flow))
    count = 3 * np.count_nonzero(motion.consistent)
    total = np.sum(squares * motion.consistent, dtype="float64")
    return math.sqrt(total / count) if count else math.nan


def mean_flicker(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; 0 if there are none."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / max(len(known), 1)
