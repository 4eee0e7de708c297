"""Optimises the frames of a film one after another, each from the one before."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.stylizer.pictures import Pictures, weighted_sources

if TYPE_CHECKING:
    from tfstyle.stylizer.stylizer import Stylizer


FRAME_STEPS = 20
"""Default of ``frame_steps``: evaluations at each size of each frame but the first."""
TEMPORAL_WEIGHT = 5.0
"""Default of ``temporal_weight``: weight of the difference to the frame before."""


class FrameStylizer:
    """Stylizes a frame so that it goes on with the one before.

    After Ruder, Dosovitskiy and Brox, "Artistic Style Transfer for Videos" (2016): the
    first frame is stylized from coarse to fine like a picture; each further one starts
    from the last result, moved along the motion, and is drawn to it wherever that is
    consistent (equation 7). It goes from coarse to fine, too: what the film has just
    uncovered would get no strokes otherwise.
    """

    def __init__(
        self, stylizer: Stylizer, style: Any, frame_steps: int, temporal_weight: float
    ):
        """Checks the arguments, which are those of ``Stylizer.film``.

        Raises:
          UsageError: If there is no style, or a number is out of range.
        """
        if not isinstance(frame_steps, int) or frame_steps < 1:
            raise UsageError(
                f"frame_steps={frame_steps!r}: give a whole number of at least 1"
            )
        if not 0 <= temporal_weight < np.inf:
            raise UsageError(
                f"temporal_weight={temporal_weight!r}: give a number of at least 0"
            )
        if stylizer.options.needs_style and not weighted_sources(style):
            raise UsageError("no style picture: give one, or style_weight=0")
        self._stylizer, self._style = stylizer, style
        self._frame_steps, self._temporal_weight = frame_steps, temporal_weight
        self._first: Stylizer | None = None
        self._others: Stylizer | None = None

    def __call__(
        self,
        frame: np.ndarray,
        warped: np.ndarray | None,
        consistency: np.ndarray | None,
    ) -> np.ndarray:
        """Stylizes a frame.

        Args:
          frame: ``[1, H, W, 3]`` in [0, 1].
          warped: The last frame's result, moved to this one, of the same shape; None
            for the first frame.
          consistency: ``[1, H, W, 1]`` in [0, 1], 1 where ``warped`` is to be trusted.

        Returns:
          The stylized frame, of the same shape, float32 in [0, 1].
        """
        first, others = self._stylizers(frame)
        pictures = first.read(frame, self._style)
        if warped is None or consistency is None:
            return first.run(pictures).images
        return others.run(
            _continued(pictures, warped, consistency),
            temporal_weight=self._temporal_weight,
        ).images

    def _stylizers(self, frame: np.ndarray) -> tuple[Stylizer, Stylizer]:
        """Those of the first frame and of all others, on one engine."""
        if self._first is None or self._others is None:
            size = {"size": max(frame.shape[1:3]), "size_of": "longest"}
            self._first = self._stylizer.with_options(**size)
            self._others = self._first.with_options(steps=self._frame_steps)
            self._style = self._first.load_styles(self._style)
        return self._first, self._others


def _continued(
    pictures: Pictures, warped: np.ndarray, consistency: np.ndarray
) -> Pictures:
    """The pictures of a frame that goes on with the one before."""
    assert pictures.content is not None
    # Where nothing is known of the last frame, this one's content is a start.
    start = consistency * warped + (1 - consistency) * pictures.content
    return dataclasses.replace(
        pictures,
        start=start.astype("float32"),
        warped=warped,
        consistency=consistency,
    )
