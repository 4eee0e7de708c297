"""Files of films <-> frames.

ffmpeg does it; imageio-ffmpeg, which is imported where it is used, brings it along with
``tfstyle[video]``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import subprocess
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
from PIL import Image

from tfstyle.errors import UsageError, VideoError
from tfstyle.files import replaced
from tfstyle.video.flow import LEAST_SIDE

EXTENSIONS = (".mp4", ".mov", ".mkv")
FRAME_NAME = "%06d.png"
"""Of the picture of a frame, by its number from 0."""

_LIKELY_RATE = 25  # frames per second, where the file does not tell
_MP4_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")
# Sound that players expect in a container; other sound becomes AAC.
_KEPT_SOUND = {
    ".mp4": _MP4_SOUND,
    ".mov": (*_MP4_SOUND, "pcm_s16le", "pcm_s16be", "pcm_s24le"),
    ".mkv": (*_MP4_SOUND, "pcm_s16le", "pcm_s24le", "flac", "opus", "vorbis"),
}


@dataclasses.dataclass(frozen=True)
class Clip:
    """A file of a film.

    Attributes:
      path: Where it is.
      size: Height and width of its frames, upright and of square pixels.
      rate: Frames per second.
      seconds: How long it is; 0 if the file does not tell.
      sound: The codec of its sound, or None if there is none.
    """

    path: pathlib.Path
    size: tuple[int, int]
    rate: Fraction
    seconds: float
    sound: str | None

    @property
    def count(self) -> int | None:
        """About how many frames there are, if the file tells."""
        return round(self.seconds * self.rate) or None

    def scaled(self, longest: int | None) -> tuple[int, int]:
        """Height and width for a film whose longest side is at most ``longest``.

        Both are even, as H.264 needs them; frames are never enlarged.

        Raises:
          UsageError: A side would be too short.
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
        """Reads the frames one after the other, at an even rate.

        Args:
          size: Height and width to scale them to.

        Yields:
          ``[1, H, W, 3]`` float32, RGB in [0, 1].

        Raises:
          VideoError: The file is damaged, or has no frames.
        """
        scale = f"scale={size[1]}:{size[0]}:flags=lanczos+full_chroma_int+accurate_rnd"
        # A film of uneven rate, as phones make them, gets an even one.
        with _reader(self.path, ["-r", str(self.rate), "-vf", scale]) as (_, pictures):
            empty = True
            for picture in pictures:
                levels = np.frombuffer(picture, "uint8").reshape(1, *size, 3)
                yield np.divide(levels, 255, dtype="float32")
                empty = False
        if empty:
            raise _unreadable(self.path, "there are no frames in it")


def check_extras() -> None:
    """Refuses to go on without the libraries of ``tfstyle[video]``.

    Raises:
      UsageError: One is missing.
    """
    try:
        import cv2  # noqa: F401
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise UsageError(
            "video needs imageio-ffmpeg and OpenCV: pip install 'tfstyle[video]'"
        ) from error


def open_clip(path: str | os.PathLike[str]) -> Clip:
    """Finds out what a file of a film is like.

    Args:
      path: The file, of whatever kind ffmpeg reads.

    Returns:
      What its header tells.

    Raises:
      UsageError: There is no such file.
      VideoError: It is no film, or is damaged.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        problem = "no such file" if not path.exists() else "is not a regular file"
        raise UsageError(f"{path}: {problem}; give the file of a film")
    if _is_picture(path):
        raise VideoError(f"{path}: is a single picture; tfstyle apply is for pictures")
    with _reader(path, ["-vf", "scale=iw*sar:ih,setsar=1"]) as (facts, _):
        width, height = facts["size"]
        sound = facts.get("audio_codec")
        return Clip(
            path=path,
            size=(height, width),
            rate=_exact_rate(facts["fps"] or _LIKELY_RATE),
            seconds=facts["duration"],
            sound=sound and sound.strip(","),
        )


def _is_picture(path: pathlib.Path) -> bool:
    try:
        with Image.open(path) as picture:
            return not getattr(picture, "is_animated", False)
    except Exception:  # Pillow raises whatever comes along
        return False


def _exact_rate(rate: float) -> Fraction:
    """A rate that ffmpeg told in two decimals: 23.98 stands for 24000/1001."""
    television = Fraction(1000 * round(rate), 1001)
    if rate != round(rate) and abs(television - rate) < 0.005:
        return television
    return Fraction(rate).limit_denominator(100)


@contextlib.contextmanager
def _reader(
    path: pathlib.Path, parameters: list[str]
) -> Iterator[tuple[dict[str, Any], Iterator[bytes]]]:
    """What a film's header tells, and its frames."""
    import imageio_ffmpeg

    # It remarks upon every film whose frames are scaled or turned.
    logging.getLogger("imageio_ffmpeg").setLevel(logging.ERROR)
    # Without `file:`, a name such as a:b.mp4 would be taken for an address.
    reader = imageio_ffmpeg.read_frames(f"file:{path}", output_params=parameters)
    with contextlib.closing(reader):
        try:
            yield next(reader), reader
        except (OSError, RuntimeError, LookupError, AttributeError) as error:
            raise _unreadable(path, _reason(str(error))) from error


def _reason(said: str) -> str:
    """What of ffmpeg's words a person would want to know."""
    if "does not contain any stream" in said:
        return "there are no frames in it"
    last = said.strip().splitlines()[-1] if said.strip() else "ffmpeg failed"
    return last.rpartition(": ")[2][:200]


def _unreadable(path: pathlib.Path, reason: str) -> VideoError:
    return VideoError(
        f"{path}: cannot be read as a film ({reason}); get or save it again"
    )


def write_film(
    folder: pathlib.Path, clip: Clip, output: str | os.PathLike[str]
) -> None:
    """Makes a film of pictures, with the sound of a clip and at its rate.

    The film is H.264 in yuv420p and BT.709, which players everywhere know. Sound is
    copied where the container is known for its codec, and else becomes AAC.

    Args:
      folder: Has the pictures, of even sides, under ``FRAME_NAME``.
      clip: The film that they were made of.
      output: Where to; its extension is one of ``EXTENSIONS``.

    Raises:
      VideoError: ffmpeg could not write it.
    """
    import imageio_ffmpeg

    suffix = pathlib.Path(output).suffix.lower()
    sound = "copy" if clip.sound in _KEPT_SOUND[suffix] else "aac"
    colours = "scale=out_color_matrix=bt709,setparams=color_primaries=bt709"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
    command += ["-framerate", str(clip.rate), "-i", FRAME_NAME]
    command += ["-i", f"file:{clip.path.resolve()}", "-map", "0:v", "-map", "1:a:0?"]
    command += ["-c:v", "libx264", "-crf", "17", "-pix_fmt", "yuv420p"]
    command += ["-vf", f"{colours}:color_trc=bt709", "-c:a", sound]
    if suffix != ".mkv":
        command += ["-movflags", "+faststart"]
    with replaced(output) as temporary:
        done = subprocess.run(
            [*command, f"file:{temporary.resolve()}"],
            cwd=folder,  # its name may have a % in it
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,  # out of reach of Ctrl-C
        )
        if done.returncode:
            reason = _reason(done.stderr.decode(errors="replace"))
            raise VideoError(f"{output}: could not be written ({reason})")
