"""Reads the frames of film files, and writes films from frames, with ffmpeg."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from tfstyle.errors import UsageError, VideoError
from tfstyle.extras import import_extra
from tfstyle.video.ffmpeg import failure_reason, find_ffmpeg, run_ffmpeg
from tfstyle.video.flow import LEAST_SIDE

EXTENSIONS = (".mp4", ".mov", ".mkv")
FRAME_NAME = "%06d.png"
"""Name of the picture of a frame; the first frame is 0."""

_NO_FRAMES = ("does not contain any stream", "received no packets")
_DEFAULT_RATE = 25  # frames per second, where the file does not tell
_MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")
# Sound that players expect in a container. Any other becomes AAC.
_KEPT_SOUND = {
    ".mp4": _MP4_SOUND,
    ".mov": (*_MP4_SOUND, "pcm_s16le", "pcm_s16be", "pcm_s24le"),
    ".mkv": (*_MP4_SOUND, "pcm_s16le", "pcm_s24le", "flac", "opus", "vorbis"),
}


@dataclasses.dataclass(frozen=True)
class FilmFile:
    """A film file, according to its header.

    Attributes:
      path: The file.
      size: Height and width of the frames, once turned upright and with square pixels.
      rate: Frames per second.
      seconds: Duration; 0 if the file does not tell.
      sound: The codec of the sound; None for a silent film.
    """

    path: pathlib.Path
    size: tuple[int, int]
    rate: Fraction
    seconds: float
    sound: str | None

    @property
    def count(self) -> int | None:
        """Approximate number of frames; None if the file does not tell."""
        return round(self.seconds * self.rate) or None

    def scaled_size(self, longest: int | None) -> tuple[int, int]:
        """Height and width of frames whose longest side is at most ``longest``.

        Both are even, because H.264 needs that. Frames are never enlarged.

        Args:
          longest: Pixels; None keeps the film's own size.

        Raises:
          UsageError: If a side would be too short for optical flow.
        """
        scale = min(1, longest / max(self.size)) if longest else 1
        height, width = (round(scale * side) // 2 * 2 for side in self.size)
        if min(height, width) < LEAST_SIDE:
            raise UsageError(
                f"{self.path}: a film of {width}×{height} pixels is too small: each "
                f"side needs at least {LEAST_SIDE} pixels"
            )
        return height, width

    def frames(self, size: tuple[int, int]) -> Generator[np.ndarray, None, None]:
        """Reads the frames in order, at an even rate.

        Args:
          size: Height and width to scale them to.

        Yields:
          Float32 ``[1, H, W, 3]``, RGB in [0, 1].

        Raises:
          VideoError: If the file is damaged, or has no frames.
        """
        scale = f"scale={size[1]}:{size[0]}:flags=lanczos+full_chroma_int+accurate_rnd"
        # Phones record at an uneven rate; frames are repeated or left out to even it.
        with _reader(self.path, ["-r", str(self.rate), "-vf", scale]) as (_, pictures):
            empty = True
            for picture in pictures:
                levels = np.frombuffer(picture, "uint8").reshape(1, *size, 3)
                yield np.divide(levels, 255, dtype="float32")
                empty = False
        if empty:
            raise _unreadable(self.path, "there are no frames in it")


def check_libraries() -> None:
    """Refuses to begin without the libraries of ``tfstyle[video]``.

    Raises:
      MissingExtraError: If one is not installed.
    """
    import_extra("cv2", extra="video")
    find_ffmpeg()


def open_film(path: str | os.PathLike[str]) -> FilmFile:
    """Reads the header of a film file.

    Args:
      path: A file in any format that ffmpeg reads.

    Returns:
      The file, whose frames can then be read.

    Raises:
      UsageError: If there is no such file.
      VideoError: If it is not a film, or is damaged.
      MissingExtraError: If imageio-ffmpeg is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        problem = "no such file" if not path.exists() else "is not a regular file"
        raise UsageError(f"{path}: {problem}; give a film file")
    if _is_picture(path):
        raise VideoError(f"{path}: is a single picture; tfstyle apply is for pictures")
    with _reader(path, ["-vf", "scale=iw*sar:ih,setsar=1"]) as (facts, _):
        width, height = facts["size"]
        sound = facts.get("audio_codec")
        return FilmFile(
            path=path,
            size=(height, width),
            rate=_exact_rate(facts["fps"] or _DEFAULT_RATE),
            seconds=facts["duration"],
            sound=sound and sound.strip(","),
        )


def _is_picture(path: pathlib.Path) -> bool:
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except Exception:  # Pillow raises errors of any kind
        return False


def _exact_rate(rate: float) -> Fraction:
    """The rate that ffmpeg rounded to two decimals: 23.98 stands for 24000/1001."""
    television = Fraction(1000 * round(rate), 1001)
    if rate != round(rate) and abs(television - rate) < 0.005:
        return television
    return Fraction(rate).limit_denominator(100)


@contextlib.contextmanager
def _reader(
    path: pathlib.Path, parameters: list[str]
) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
    """What a film's header tells, and its frames."""
    imageio_ffmpeg = import_extra("imageio_ffmpeg", extra="video")
    # It warns about every film whose frames are scaled or turned.
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)
    # Without `file:`, ffmpeg would take a name such as a:b.mp4 for an address.
    reader = imageio_ffmpeg.read_frames(f"file:{path}", output_params=parameters)
    with contextlib.closing(reader):
        try:
            yield next(reader), reader
        except (OSError, RuntimeError, LookupError, AttributeError) as error:
            raise _unreadable(path, _reading_failure(str(error))) from error


def _reading_failure(output: str) -> str:
    """Why ffmpeg could not read a film."""
    if any(sign in output for sign in _NO_FRAMES):
        return "there are no frames in it"
    return failure_reason(output)


def _unreadable(path: pathlib.Path, reason: str) -> VideoError:
    return VideoError(
        f"{path}: cannot be read as a film ({reason}); download or export it again"
    )


def write_film(
    folder: pathlib.Path, source: FilmFile, output: str | os.PathLike[str]
) -> None:
    """Makes a film from pictures, with the sound and the rate of another film.

    The film is H.264 in yuv420p and BT.709, which players everywhere know. Sound is
    copied where the container usually has that codec; otherwise it becomes AAC.

    Args:
      folder: Holds the pictures, named by ``FRAME_NAME`` and with even sides. The film
        is encoded here, so that nothing is left elsewhere if the program is killed.
      source: The film that the pictures were made from.
      output: The film to write, with one of ``EXTENSIONS``; on the same file system.

    Raises:
      VideoError: If ffmpeg fails, or the film cannot be moved to its place.
    """
    suffix = pathlib.Path(output).suffix.lower()
    sound = "copy" if source.sound in _KEPT_SOUND[suffix] else "aac"
    colors = "scale=out_color_matrix=bt709,setparams=color_primaries=bt709"
    arguments = ["-framerate", str(source.rate), "-i", FRAME_NAME]
    arguments += ["-i", f"file:{source.path.resolve()}", "-map", "0:v"]
    arguments += ["-map", "1:a:0?", "-c:v", "libx264", "-crf", "17"]
    arguments += ["-pix_fmt", "yuv420p", "-vf", f"{colors}:color_trc=bt709"]
    arguments += ["-c:a", sound]
    if suffix != ".mkv":
        arguments += ["-movflags", "+faststart"]
    encoded = folder / f"film{suffix}"
    try:
        # The ffmpeg of a killed run may still be writing to its own file.
        encoded.unlink(missing_ok=True)
        # In the folder: its path may have a % in it, which ffmpeg would replace.
        run_ffmpeg([*arguments, f"file:{encoded.name}"], folder=folder)
        encoded.replace(output)
    except OSError as error:
        raise VideoError(f"{output}: could not be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            encoded.unlink()
