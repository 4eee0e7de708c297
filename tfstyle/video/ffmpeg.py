"""The program ffmpeg, which imageio-ffmpeg brings along with ``tfstyle[video]``."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Sequence

from tfstyle.errors import MissingExtraError
from tfstyle.extras import import_extra


def find_ffmpeg() -> str:
    """Finds the program.

    Returns:
      Its path.

    Raises:
      MissingExtraError: If imageio-ffmpeg is not installed, or has no ffmpeg for this
        platform.
    """
    try:
        return import_extra("imageio_ffmpeg", extra="video").get_ffmpeg_exe()
    except RuntimeError as error:
        raise MissingExtraError(
            "imageio_ffmpeg has no ffmpeg for this platform; install ffmpeg itself"
        ) from error


def run_ffmpeg(
    arguments: Sequence[str],
    *,
    folder: pathlib.Path | None = None,
    pixels: bytes = b"",
) -> None:
    """Runs the program to its end.

    Args:
      arguments: Its arguments; existing files are overwritten.
      folder: Its working directory.
      pixels: What it reads from standard input.

    Raises:
      MissingExtraError: If there is no ffmpeg.
      OSError: If it fails; the message is the reason that it gives.
    """
    done = subprocess.run(
        [find_ffmpeg(), "-y", "-v", "error", *arguments],
        cwd=folder,
        input=pixels,
        capture_output=True,
        start_new_session=True,  # out of reach of Ctrl-C, which may come twice
    )
    if done.returncode < 0:
        raise OSError(f"ffmpeg was ended by signal {-done.returncode}")
    if done.returncode:
        raise OSError(failure_reason(done.stderr.decode(errors="replace")))


def failure_reason(output: str) -> str:
    """The part of ffmpeg's last line that a person wants to know."""
    lines = output.strip().splitlines() or ["ffmpeg failed"]
    return lines[-1].rpartition(": ")[2][:200]
