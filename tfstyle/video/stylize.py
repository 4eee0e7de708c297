"""Gives films a style, each frame going on from the one before.

TensorFlow is not imported here, so that a command can refuse a bad film at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

import tfstyle
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.files import replaced
from tfstyle.images import check_writable, load_image, save_image
from tfstyle.video.clips import (
    EXTENSIONS,
    FRAME_NAME,
    Clip,
    check_extras,
    open_clip,
    write_film,
)
from tfstyle.video.flow import find_motion, frame_flicker, mean_flicker, warp

if TYPE_CHECKING:
    from tfstyle.networks.style_net import StyleNet

TEMPORAL = 0.6
"""How much of the frame before stays, unless told otherwise: see ``follow_motion``."""
TEMPORAL_WEIGHT = 5.0
"""Of ``FrameOptimizer``, unless told otherwise."""
FRAME_STEPS = 20
"""Of ``FrameOptimizer``, unless told otherwise."""


class StylizeFrame(Protocol):
    """Makes a stylized frame out of a frame; a function, or an object with a state."""

    def __call__(
        self,
        frame: np.ndarray,
        warped: np.ndarray | None,
        consistency: np.ndarray | None,
    ) -> np.ndarray:
        """Stylizes a frame.

        Its result may depend on nothing else that changes from frame to frame: a run
        that goes on where it was interrupted has no more than this.

        Args:
          frame: ``[1, H, W, 3]`` float32 in [0, 1].
          warped: The stylized frame before, moved as the film moves, of the same kind;
            None for the first frame.
          consistency: ``[1, H, W, 1]`` float32 in [0, 1], how far ``warped`` can be
            trusted; None for the first frame.

        Returns:
          The stylized frame, of the frame's shape and kind.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FrameProgress:
    """What callbacks hear of after each frame.

    Attributes:
      frame: How many frames are finished.
      frames: About how many there are, or None if the film does not tell.
    """

    frame: int
    frames: int | None


@dataclasses.dataclass(frozen=True)
class Film:
    """What a run made.

    Attributes:
      frames: How many frames are finished.
      size: Their height and width.
      flicker: See ``flow.flicker``.
      seconds: How long the run took, since it was last begun.
      stopped: Whether a callback ended the run before the film was written.
    """

    frames: int
    size: tuple[int, int]
    flicker: float
    seconds: float
    stopped: bool


def stylize_video(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    stylize_frame: StylizeFrame,
    *,
    size: int | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callable[[FrameProgress], bool | None]] = (),
) -> Film:
    """Gives a film a style, frame by frame, and keeps its sound.

    Finished frames wait as PNG files in the folder ``OUTPUT.frames`` for the film to be
    written from them at the end. A run that was interrupted goes on there when it is
    begun again, and ends with the same frames.

    Example:
      >>> network = tfstyle.load_network()
      >>> stylize_video("film.mp4", "out.mp4", follow_motion(network, "starry_night"))

    Args:
      source: The film, of whatever kind ffmpeg reads.
      output: .mp4, .mov or .mkv, in a folder that exists.
      stylize_frame: Called for each frame.
      size: Longest side in pixels; None keeps the film's own. Sides become even.
      settings: What decides how frames look, by the names of flags, of JSON's types: a
        run of other settings does not go on.
      callbacks: Each is told of every frame; the run stops when one returns True.

    Returns:
      Facts about the film.

    Raises:
      UsageError: As of ``check_video``, or there are frames of another run.
      VideoError: The film is none or is damaged, or cannot be written.
    """
    began = time.monotonic()
    clip, output = check_video(source, output), pathlib.Path(output)
    height, width = clip.scaled(size)
    facts = {
        "tfstyle": tfstyle.__version__,
        "input": _digest(clip.path),
        "size": f"{width}×{height}",
        **(settings or {}),
    }
    finished = FinishedFrames(output, facts)
    stopped = _stylize_frames(clip, (height, width), stylize_frame, finished, callbacks)
    film = Film(
        frames=len(finished),
        size=(height, width),
        flicker=finished.flicker(),
        seconds=time.monotonic() - began,
        stopped=stopped,
    )
    if stopped:
        return film
    write_film(finished.folder, clip, output)
    finished.remove()
    return dataclasses.replace(film, seconds=time.monotonic() - began)


def check_video(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> Clip:
    """Refuses, before any work is done, what cannot be read or written.

    Args:
      source: The film to read.
      output: The film to write.

    Returns:
      What the source's header tells.

    Raises:
      UsageError: There is no such file, the output has another extension or cannot be
        written to (see ``check_writable``), or a library is missing.
      VideoError: The source is no film, or is damaged.
    """
    check_extras()
    check_writable(output, extensions=EXTENSIONS)
    clip = open_clip(source)
    if os.path.realpath(source) == os.path.realpath(output):
        raise UsageError(f"{output}: is the film to read; give another name")
    return clip


def follow_motion(
    network: StyleNet,
    style_name: str | Mapping[str, float] | None = None,
    *,
    temporal: float = TEMPORAL,
    max_memory: float = 0.0,
) -> StylizeFrame:
    """Stylizes frames by a network and steadies them.

    A network draws textures that do not move with the film, so they flicker. Each frame
    is blended with the one before as the film moves it: (1 − a·c)·net(frame) + a·c·w,
    with w the frame before and c the consistency.

    Measured on 24 frames of 480×270 (pan, zoom, a fast object, noise), a = 0.6 left
    0.40 to 0.45 of the flicker of the five bundled styles; 0.5 left 0.48 to 0.52, and
    0.7 left 0.33 to 0.39. Strokes stay: after a blur of 2 pixels the variance of the
    Laplacian is 0.91 to 0.94 of what it was. Finer grain goes (0.48 to 0.70 without the
    blur), and that is what hangs on the network's grid of 4 pixels, not on the film:
    a mean over all places of that grid keeps 0.19 to 0.60 of it in a single frame.

    Args:
      network: The network.
      style_name: As of ``apply_style``.
      temporal: a, from 0 to 1.
      max_memory: As of ``apply_style``.

    Returns:
      For ``stylize_video``.

    Raises:
      UsageError: There is no such style, or ``temporal`` is another number.
    """
    from tfstyle.networks.apply import apply_network

    if not 0 <= temporal <= 1:
        raise UsageError(f"temporal={temporal}: give a number from 0 to 1")
    blend = network.blend(style_name)

    def stylize_frame(
        frame: np.ndarray, warped: np.ndarray | None, consistency: np.ndarray | None
    ) -> np.ndarray:
        picture = apply_network(network, frame, blend, max_memory)
        if warped is None or consistency is None:
            return picture
        return picture + temporal * consistency * (warped - picture)

    return stylize_frame


class FinishedFrames:
    """The folder of the frames that wait for their film, a PNG each.

    Attributes:
      folder: Where it is: beside the film.
    """

    def __init__(self, output: pathlib.Path, facts: Mapping[str, Any]):
        """Makes the folder, or finds it as an interrupted run left it.

        Args:
          output: The film.
          facts: What the run is, of JSON's types.

        Raises:
          UsageError: The folder is of another run, or of something else.
        """
        self.folder = output.with_name(f"{output.name}.frames")
        self._facts_file = self.folder / "run.json"
        if self._facts_file.exists():
            self._check(dict(facts))
        else:
            self._begin(dict(facts))
        self._count = next(i for i in itertools.count() if not self._file(i).exists())
        while self._count and not _is_whole(self._file(self._count - 1)):
            self._count -= 1

    def __len__(self) -> int:
        return self._count

    def append(self, picture: np.ndarray, flicker: float) -> None:
        """Keeps a frame, ``[1, H, W, 3]``, and its ``frame_flicker``."""
        text = {"Software": "tfstyle", "flicker": str(flicker)}
        save_image(picture, self._file(self._count), metadata=text)
        self._count += 1

    def last(self) -> np.ndarray | None:
        """The last frame, as it was rounded to 8 bits, or None."""
        return load_image(self._file(self._count - 1)) if self._count else None

    def flicker(self) -> float:
        """The mean flicker of the frames."""
        return mean_flicker(_flicker_of(self._file(i)) for i in range(self._count))

    def remove(self) -> None:
        """Deletes the folder, which the film has taken the place of."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, index: int) -> pathlib.Path:
        return self.folder / (FRAME_NAME % index)

    def _begin(self, facts: dict[str, Any]) -> None:
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir()
        if any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder}: is needed for frames, and has something else in it; "
                "move it, or choose another output"
            )
        with replaced(self._facts_file) as temporary:
            temporary.write_text(json.dumps(facts, indent=2))

    def _check(self, facts: dict[str, Any]) -> None:
        try:
            saved = dict(json.loads(self._facts_file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise TfstyleError(
                f"{self._facts_file}: is damaged; delete the folder to start afresh"
            ) from error
        names = [
            name for name in {**facts, **saved} if facts.get(name) != saved.get(name)
        ]
        if names:
            differences = ", ".join(_difference(name, saved, facts) for name in names)
            raise UsageError(
                f"{self.folder}: has frames of a run with other flags: {differences}; "
                "give the same ones, delete the folder, or choose another output"
            )


def _stylize_frames(
    clip: Clip,
    size: tuple[int, int],
    stylize_frame: StylizeFrame,
    finished: FinishedFrames,
    callbacks: Sequence[Callable[[FrameProgress], bool | None]],
) -> bool:
    """Makes the frames that are missing; returns whether a callback stopped it."""
    previous = None
    with contextlib.closing(clip.frames(size)) as frames:
        for index, frame in enumerate(frames):
            if index >= len(finished):
                # From the file: a run that goes on has no more than its 8 bits.
                last = finished.last()
                finished.append(*_next_frame(stylize_frame, frame, previous, last))
                progress = FrameProgress(len(finished), clip.count)
                answers = [callback(progress) for callback in callbacks]
                if any(answers):
                    return True
            previous = frame
    return False


def _next_frame(
    stylize_frame: StylizeFrame,
    frame: np.ndarray,
    previous: np.ndarray | None,
    last: np.ndarray | None,
) -> tuple[np.ndarray, float]:
    """A stylized frame and its flicker, from the frame before and how it came out."""
    if previous is None or last is None:
        return stylize_frame(frame, None, None), math.nan
    motion = find_motion(frame, previous)
    warped = np.clip(warp(last, motion.flow), 0, 1)
    picture = stylize_frame(frame, warped, motion.trust)
    return picture, frame_flicker(picture, last, motion)


def _is_whole(file: pathlib.Path) -> bool:
    """Whether a picture can be read; a power loss may leave one that cannot."""
    try:
        load_image(file)
    except ImageError:
        return False
    return True


def _flicker_of(file: pathlib.Path) -> float:
    with Image.open(file) as picture:
        return float(picture.info["flicker"])


def _difference(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = str(saved.get(name)), str(now.get(name))
    if max(len(before), len(after)) > 40:  # a digest says nothing
        return name
    return f"{name} ({before}, now {after})"


def _digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file of any length."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
