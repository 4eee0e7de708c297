"""Films of a run: how a picture came about, as a short .gif, .webp or .mp4.

TensorFlow is not imported here, so that a command can refuse a bad path at once.
"""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tfstyle.errors import MissingExtraError, UsageError
from tfstyle.files import replaced
from tfstyle.images import check_writable, resize_image
from tfstyle.video.ffmpeg import find_ffmpeg, run_ffmpeg

if TYPE_CHECKING:
    from tfstyle.optimizers.progress import Progress

_MOST_FRAMES = 95  # without the last picture
# Milliseconds of all frames, of a frame at most, and of the last picture. GIF needs
# whole hundredths of a second for each frame.
_RUN, _SLOWEST, _HOLD = 4000, 500, 1500


class RunFilm:
    """A callback that makes a film of a run; a context manager.

    The film has at most 96 frames, which play in about 4 seconds; the last picture then
    stays for 1.5 seconds. Frames are spaced evenly in √step, because the picture
    changes fastest at first: half of the film shows the first quarter of the run.
    Pictures of one batch stand side by side.

    Leaving the context writes the file, also when Ctrl-C or an error ended the run.

    Example:
      >>> with RunFilm("out.gif") as film:
      ...     tfstyle.stylize("photo.jpg", "painting.jpg", callbacks=[film])
    """

    def __init__(self, path: str | os.PathLike[str], *, size: int = 640):
        """Checks that the film can be written.

        Args:
          path: A .gif, .webp or .mp4 file in a folder that exists.
          size: Longest side of the film in pixels; smaller pictures are not enlarged.

        Raises:
          UsageError: If ``check_run_film`` refuses the path, or the size is not
            positive.
        """
        check_run_film(path)
        if size < 1:
            raise UsageError(f"size={size}: give at least 1 pixel")
        self._path, self._size = pathlib.Path(path), size
        self._clear()

    def _clear(self) -> None:
        # A report gives the picture as it is when asked. The last report is enough for
        # the last picture, without copying the picture at each one.
        self._latest: Progress | None = None
        self._frames: dict[int, np.ndarray] = {}
        self._distance = 1 / 16

    def __enter__(self) -> RunFilm:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A second Ctrl-C at the command line exits without writing anything.
        if kind is not SystemExit:
            self.save()

    def __call__(self, progress: Progress) -> None:
        """Keeps the picture if one is due."""
        self._latest = progress
        slot = int(math.sqrt(progress.step) / self._distance)
        if slot in self._frames:
            return
        self._frames[slot] = self._frame(progress)
        while len(self._frames) > _MOST_FRAMES:
            self._thin_out()

    def save(self) -> None:
        """Writes the film and forgets it. Without any report there is no file.

        Raises:
          TfstyleError: If the file cannot be written.
        """
        if self._latest is None:
            return
        frames, last = [*self._frames.values()], self._frame(self._latest)
        self._clear()
        if not np.array_equal(frames[-1], last):
            frames.append(last)
        height, width, _ = last.shape
        film = [_resized(frame, height, width) for frame in frames]
        with replaced(self._path) as temporary:
            _WRITERS[self._path.suffix.lower()](temporary, film, _duration(len(film)))

    def _thin_out(self) -> None:
        """Doubles the distance between frames; keeps the first frame of each slot."""
        frames, self._frames = self._frames, {}
        self._distance *= 2
        for slot, frame in frames.items():
            self._frames.setdefault(slot // 2, frame)

    def _frame(self, progress: Progress) -> np.ndarray:
        """The picture so far, uint8 ``[h, w, 3]``, no larger than the film."""
        pictures = progress.image()
        count, height, width, _ = pictures.shape
        longest = max(height, count * width)
        if longest > self._size:
            sides = [max(side * self._size // longest, 1) for side in (height, width)]
            pictures = resize_image(pictures, (sides[0], sides[1]))
        return np.rint(np.concatenate(pictures, axis=1) * 255).astype("uint8")


def check_run_film(path: str | os.PathLike[str]) -> None:
    """Refuses a film that could not be written, before any work is done.

    Raises:
      UsageError: If the extension is not .gif, .webp or .mp4, or the file cannot be
        written.
      MissingExtraError: If the extension is .mp4 and there is no ffmpeg.
    """
    check_writable(path, extensions=tuple(_WRITERS))
    if pathlib.Path(path).suffix.lower() == ".mp4":
        try:
            find_ffmpeg()
        except MissingExtraError as error:
            raise MissingExtraError(
                f"{path}: {error}; or write .gif or .webp"
            ) from error


def _duration(count: int) -> int:
    """Milliseconds of each frame but the last, for ``count`` frames."""
    return min(10 * round(_RUN / count / 10), _SLOWEST)


def _resized(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame of a coarser scale, at the size of the last frame."""
    image = Image.fromarray(frame)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _write_gif(path: pathlib.Path, film: Sequence[np.ndarray], duration: int) -> None:
    """Writes a GIF with one palette, dithered by a pattern that stands still.

    A palette for each frame would flicker where nothing changes, and the dots of error
    diffusion would crawl.
    """
    palette, pattern = _palette(film), _pattern(*film[0].shape[:2])
    frames = []
    for frame in film:
        levels = np.clip(frame + pattern, 0, 255).astype("uint8")
        image = Image.fromarray(levels)
        frames.append(image.quantize(palette=palette, dither=Image.Dither.NONE))
    _save_with_pillow(path, "GIF", frames, duration)


def _palette(film: Sequence[np.ndarray]) -> Image.Image:
    """A palette for a film, from some of its frames."""
    indices = np.linspace(0, len(film) - 1, 16).round().astype(int)
    pixels = np.concatenate([film[i].reshape(-1, 3) for i in indices])
    sheet = Image.fromarray(pixels[None, :: len(pixels) // 60_000 + 1])
    # Pillow uses the 256th colour for pixels that do not change: the file halves.
    return sheet.quantize(255, method=Image.Quantize.MEDIANCUT, kmeans=1)


def _pattern(height: int, width: int) -> np.ndarray:
    """Bayer's 4×4 matrix, repeated over a frame: int16 ``[H, W, 1]`` in [-4, 4]."""
    bayer = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]
    levels = np.rint((np.array(bayer) - 7.5) / 2).astype("int16")
    return np.tile(levels, (height // 4 + 1, width // 4 + 1))[:height, :width, None]


def _write_webp(path: pathlib.Path, film: Sequence[np.ndarray], duration: int) -> None:
    frames = [Image.fromarray(frame) for frame in film]
    _save_with_pillow(path, "WEBP", frames, duration, quality=80)


def _save_with_pillow(
    path: pathlib.Path,
    kind: str,
    frames: Sequence[Image.Image],
    duration: int,
    **options: int,
) -> None:
    frames[0].save(
        path,
        kind,
        save_all=True,
        append_images=frames[1:],
        duration=[duration] * (len(frames) - 1) + [_HOLD],
        loop=0,
        **options,
    )


def _write_mp4(path: pathlib.Path, film: Sequence[np.ndarray], duration: int) -> None:
    """Writes H.264 that browsers play: yuv420p, BT.709, about 25 frames per second."""
    height, width, _ = film[0].shape
    # yuv420p has one colour for 2×2 pixels.
    to_even = [(0, 0), (0, height % 2), (0, width % 2), (0, 0)]
    pixels = np.pad(film, to_even, mode="edge")
    filters = (
        f"fps={1000 * round(duration / 40)}/{duration}",
        f"tpad=stop_mode=clone:stop_duration={(_HOLD - duration) / 1000}",
        "scale=out_color_matrix=bt709",
        "setparams=color_primaries=bt709:color_trc=bt709",
    )
    arguments = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    arguments += ["-s", f"{pixels.shape[2]}x{pixels.shape[1]}"]
    arguments += ["-framerate", f"1000/{duration}", "-i", "-", "-vf", ",".join(filters)]
    arguments += ["-c:v", "libx264", "-crf", "20", "-pix_fmt", "yuv420p"]
    arguments += ["-movflags", "+faststart", "-f", "mp4", f"file:{path}"]
    run_ffmpeg(arguments, pixels=pixels.tobytes())


_WRITERS: dict[str, Callable[[pathlib.Path, Sequence[np.ndarray], int], None]] = {
    ".gif": _write_gif,
    ".webp": _write_webp,
    ".mp4": _write_mp4,
}
