"""Stylizes films frame by frame, each frame steadied by the one before.

TensorFlow is not imported here, so that a command can refuse a bad film at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.files import sha256
from tfstyle.images import check_writable
from tfstyle.optimizers.progress import Callback, Progress, checked_callbacks
from tfstyle.version import __version__
from tfstyle.video.film_files import (
    EXTENSIONS,
    FilmFile,
    check_libraries,
    open_film,
    write_film,
)
from tfstyle.video.finished_frames import FinishedFrames
from tfstyle.video.flow import find_motion, frame_flicker, warp

if TYPE_CHECKING:
    from tfstyle.networks.any_style import AnyStyleNet
    from tfstyle.networks.style_net import StyleNet

TEMPORAL = 0.6
"""Default of ``temporal`` in ``follow_motion``."""


class StylizeFrame(Protocol):
    """Stylizes a frame: a function, or an object such as ``Stylizer.film`` returns."""

    def __call__(
        self,
        frame: np.ndarray,
        warped: np.ndarray | None,
        consistency: np.ndarray | None,
    ) -> np.ndarray:
        """Stylizes a frame.

        The result must depend on the arguments only, not on earlier calls: a run that
        was interrupted goes on with nothing else.

        Args:
          frame: Float32 ``[1, H, W, 3]`` in [0, 1].
          warped: The stylized frame before, moved as the film moves, of the same shape;
            None for the first frame.
          consistency: Float32 ``[1, H, W, 1]`` in [0, 1], how far ``warped`` can be
            trusted; None for the first frame.

        Returns:
          The stylized frame, of the same shape and type.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FilmResult:
    """What a run made.

    Attributes:
      frames: Number of finished frames.
      size: Height and width of the frames.
      flicker: Mean of ``flow.frame_flicker``, in [0, 1].
      seconds: How long this call took.
      stopped: Whether a callback ended the run before the film was written.
    """

    frames: int
    size: tuple[int, int]
    flicker: float
    seconds: float
    stopped: bool


def stylize_video(
    content: str | os.PathLike[str],
    output: str | os.PathLike[str],
    stylize_frame: StylizeFrame,
    *,
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> FilmResult:
    """Stylizes a film frame by frame and keeps its sound.

    Finished frames are PNG files in the folder ``OUTPUT.frames`` until the film is
    written from them. A run that was interrupted goes on from there when it is called
    again, and ends with the same frames.

    Example:
      >>> network = tfstyle.load_network()
      >>> stylize_video("film.mp4", "out.mp4", follow_motion(network, "starry_night"))

    Args:
      content: A film in any format that ffmpeg reads.
      output: A .mp4, .mov or .mkv file, in a folder that exists.
      stylize_frame: Called for each frame.
      size: Longest side in pixels; None keeps the film's own. Sides become even.
      settings: Everything that decides how ``stylize_frame`` draws, in types that JSON
        has: frames of a run with other settings are refused.
      callbacks: Receive the progress after each frame: ``step`` is the number of
        finished frames, ``steps`` about how many there are, and the only column is
        ``flicker``, which is NaN for the first frame. The run stops when one returns
        True.

    Returns:
      Facts about the film.

    Raises:
      UsageError: If ``check_video`` refuses the files, or ``OUTPUT.frames`` has frames
        of another run.
      VideoError: If the content is not a film or is damaged, or the output cannot be
        written.
    """
    began, callbacks = time.monotonic(), checked_callbacks(callbacks)
    film, output = check_video(content, output), pathlib.Path(output)
    height, width = film.scaled_size(size)
    decisive = {
        "tfstyle": __version__,
        "content": sha256(film.path),
        "size": f"{width}×{height}",
        **(settings or {}),
    }
    finished = FinishedFrames(output, decisive)

    def report(picture: np.ndarray, flicker: float) -> bool:
        progress = Progress(
            step=len(finished),
            steps=film.count,
            scale=0,
            scales=1,
            columns=("flicker",),
            rows=np.array([[flicker]], "float32"),
            row_steps=np.array([len(finished)]),
            seconds=time.monotonic() - began,
            size=(height, width),
            image=lambda: np.clip(picture, 0, 1),
        )
        answers = [callback(progress) for callback in callbacks]
        return any(answers)

    stopped = _stylize_frames(film, (height, width), stylize_frame, finished, report)
    flicker, frames = finished.flicker(), len(finished)
    if not stopped:
        write_film(finished.folder, film, output)
        finished.remove()
    seconds = time.monotonic() - began
    return FilmResult(frames, (height, width), flicker, seconds, stopped)


def check_video(
    content: str | os.PathLike[str], output: str | os.PathLike[str]
) -> FilmFile:
    """Refuses files that cannot be read or written, before any work is done.

    Returns:
      The film to read.

    Raises:
      UsageError: If the content does not exist or is the output, or if the output has
        another extension or cannot be written to.
      MissingExtraError: If a library of ``tfstyle[video]`` is not installed.
      VideoError: If the content is not a film, or is damaged.
    """
    check_libraries()
    check_writable(output, extensions=EXTENSIONS)
    film = open_film(content)
    if os.path.realpath(content) == os.path.realpath(output):
        raise UsageError(f"{output}: is the film to read; give another name")
    return film


def follow_motion(
    network: StyleNet | AnyStyleNet,
    style: Any = None,
    *,
    temporal: float = TEMPORAL,
    **options: Any,
) -> StylizeFrame:
    """Stylizes frames with a network, and steadies them.

    A network draws textures that do not move with the film, so they flicker. Each frame
    is therefore blended with the one before as the film moves it:
    (1 − a·c)·network(frame) + a·c·warped, with c the consistency.

    Args:
      network: A trained network.
      style: Same as in the network's ``painter``.
      temporal: a, from 0 to 1. Near 1, textures fade.
      **options: Other arguments of ``painter``, such as ``max_memory``.

    Returns:
      A function for ``stylize_video``.

    Raises:
      UsageError: If the network does not have the style, or a number is out of range.
    """
    if not 0 <= temporal <= 1:
        raise UsageError(f"temporal={temporal}: give a number from 0 to 1")
    paint = network.painter(style, **options)

    def stylize_frame(
        frame: np.ndarray, warped: np.ndarray | None, consistency: np.ndarray | None
    ) -> np.ndarray:
        picture = paint(frame)
        if warped is None or consistency is None:
            return picture
        return picture + temporal * consistency * (warped - picture)

    return stylize_frame


def _stylize_frames(
    film: FilmFile,
    size: tuple[int, int],
    stylize_frame: StylizeFrame,
    finished: FinishedFrames,
    report: Callable[[np.ndarray, float], bool],
) -> bool:
    """Makes the frames that are missing; returns whether ``report`` stopped it."""
    previous = None
    with contextlib.closing(film.frames(size)) as frames:
        for index, frame in enumerate(frames):
            if index >= len(finished):
                # From the file, in 8 bits: a run that is resumed has nothing better.
                last = finished.last()
                picture, flicker = _next_frame(stylize_frame, frame, previous, last)
                finished.append(picture, flicker)
                if report(picture, flicker):
                    return True
            previous = frame
    return False


def _next_frame(
    stylize_frame: StylizeFrame,
    frame: np.ndarray,
    previous: np.ndarray | None,
    last: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """A stylized frame and its flicker; ``last`` is ``previous`` after stylizing."""
    if previous is None or last is None:
        return stylize_frame(frame, None, None), math.nan
    motion = find_motion(frame, previous)
    warped = np.clip(warp(last, motion.flow), 0, 1)
    picture = stylize_frame(frame, warped, motion.trust)
    return picture, frame_flicker(picture, last, motion)
