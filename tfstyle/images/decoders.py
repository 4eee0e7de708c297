"""Hostile picture files: what is checked before and while Pillow decodes them.

A small file can claim a huge picture, name the same bytes in thousands of tags, or
consist of millions of parts. Each becomes a picture or one clear error, in seconds and
little memory, and no library prints or warns on the way.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import logging
import re
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tfstyle.errors import ImageError, UsageError, one_line
from tfstyle.files import shown
from tfstyle.images.srgb import from_picture

MAX_PIXELS = 175_000_000
"""Of a picture. Some of Pillow's decoders refuse 179 megapixels by themselves: this
limit lies below, so that it holds for every format."""

MAX_BYTES = 8 * MAX_PIXELS
"""Of a file: what so many pixels take in 16-bit RGBA without compression."""

_READABLE = "PNG, JPEG, WebP, BMP, TIFF or GIF"
# Each is more than pictures need, and far less than what keeps Pillow busy for minutes.
_HEADER_READS = 4_096
_READS = 2**20
_MOST_SCANS = 500
_MOST_RUN_PIXELS = 2**24
_MOST_TAG_NUMBERS = 300_000
_MOST_EXIF_TEXT = 2**17


class _Jpeg(JpegImageFile):
    """Does not look into EXIF for a resolution, and takes few scans only.

    Each scan of a progressive picture goes over all of it, and may be ten bytes long.
    """

    _scans = 0

    def _read_dpi_from_exif(self) -> None:
        pass

    def load_read(self, read_bytes: int) -> bytes:
        data = super().load_read(read_bytes)
        self._scans += data.count(b"\xff\xda")
        if self._scans > _MOST_SCANS:
            raise OSError("it has too many scans")
        return data


class _Png(PngImageFile):
    """Does not warn about what follows the pixels."""

    def load_end(self) -> None:
        with _quiet_pillow():
            super().load_end()


class _Tiff(TiffImageFile):
    """Does not read directories beside the picture's own, such as that of EXIF."""

    def load_end(self) -> None:
        ImageOps.exif_transpose(self, in_place=True)


_SIGNATURES: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", _Png),
    (b"\xff\xd8\xff", _Jpeg),
    (b"GIF87a", GifImageFile),
    (b"GIF89a", GifImageFile),
    (b"BM", BmpImageFile),
    (b"II*\0", _Tiff),
    (b"MM\0*", _Tiff),
    (b"II+\0", _Tiff),
    (b"RIFF", WebPImageFile),
)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# By the kind of a TIFF tag: bytes of one value, and how many plain numbers it costs.
# Pillow keeps text as it is, and reduces fractions.
_TAG_VALUES = {
    **dict.fromkeys((1, 2, 7), (1, 0)),
    **{6: (1, 1), 3: (2, 1), 8: (2, 1)},
    **dict.fromkeys((4, 9, 11, 13), (4, 1)),
    **dict.fromkeys((12, 16, 17, 18), (8, 1)),
    **dict.fromkeys((5, 10), (8, 200)),
}

# Pillow logs some of the errors that it raises; without a handler, Python would print
# them to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading bytes.

    Returns:
      The open file, to be closed by the caller.

    Raises:
      UsageError: If there is no such file, it is not a regular file, or it may not be
        read.
    """
    name = shown(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{name}: is a folder; give a picture inside it")
        if not stat.S_ISREG(mode):
            # Opening a pipe would wait for its other end.
            raise UsageError(f"{name}: is not a regular file; save it to a file first")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{name}: no such file; check the path") from None
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{name}: cannot be opened ({one_line(error)}); "
            "check the path and its permissions"
        ) from error


def open_picture(file: BinaryIO, name: str) -> Image.Image:
    """Reads the header of a picture file and refuses what should not be decoded.

    ``Image.open`` is not used: its check for decompression bombs has a limit of its
    own, global to the process, and it lets many more formats in.

    Returns:
      The picture, not decoded yet.

    Raises:
      UsageError: If the file is open for reading text.
      ImageError: If it is empty, damaged, too large, or of another format.
    """
    start, size = _start_and_size(file, name)
    if size > MAX_BYTES:
        raise ImageError(
            f"{name}: has {size / 1e6:.0f} megabytes, over the limit of "
            f"{MAX_BYTES / 1e6:.0f}; scale it down first"
        )
    if not start:
        raise ImageError(f"{name}: the file is empty; get or save it again")
    kinds = [kind for signature, kind in _SIGNATURES if start.startswith(signature)]
    if not kinds or (kinds[0] is WebPImageFile and start[8:] != b"WEBP"):
        raise ImageError(
            f"{name}: not a {_READABLE} picture; convert it to PNG or JPEG first"
        )
    try:
        if kinds[0] is _Tiff:
            _silence_libtiff()
            _check_tags(file)
        metered = _Metered(file, size)
        with _quiet_pillow():
            # Without its name: Pillow would open what is there now.
            picture = kinds[0](cast(BinaryIO, metered))
        runs = bool(picture.tile) and picture.tile[0][0] == "bmp_rle"
        if runs:
            _check_runs(*picture.size)
        metered.reads = 2 * _MOST_RUN_PIXELS if runs else _READS
        return picture
    except Exception as error:
        raise _damaged(name, error) from error


def decode(picture: Image.Image, name: str) -> Image.Image | np.ndarray:
    """Decodes a picture: upright, in sRGB, on white.

    Args:
      picture: A picture of any of Pillow's modes; perhaps not decoded yet.
      name: What messages call it.

    Returns:
      A picture of mode RGB; or, where 8 bits would lose precision, float32
      ``[H, W, 3]`` in [0, 1].

    Raises:
      ImageError: If it is damaged, over ``MAX_PIXELS``, or wholly transparent.
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} is {width * height / 1e6:.0f} megapixels, over "
            f"the limit of {MAX_PIXELS / 1e6:g}; scale it down first"
        )
    # Pillow's decoders raise a dozen unrelated types for damaged data.
    try:
        # Only TIFF warns while it decodes. The lock would keep others from decoding
        # in parallel.
        if isinstance(picture, TiffImageFile):
            with _quiet_pillow():
                picture.load()
        picture.load()
        orientation = read_exif(picture).get(ExifTags.Base.Orientation)
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
        return from_picture(picture, name)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def read_exif(picture: Image.Image) -> Image.Exif:
    """Reads a picture's EXIF; empty where it is broken, or made to take long.

    Args:
      picture: A picture of any of Pillow's modes.

    Returns:
      Its tags.
    """
    exif = picture.info.get("exif")
    if exif:
        tags = re.sub(rb"\A(Exif\0\0)+", b"", exif)
        try:
            _check_tags(io.BytesIO(tags))
        except (OSError, struct.error):
            return Image.Exif()
        if len(tags) < len(exif) - 60:  # Pillow takes them off one by one
            return Image.Exif()
    elif len(picture.info.get("Raw profile type exif", "")) > _MOST_EXIF_TEXT:
        return Image.Exif()
    with _quiet_pillow():
        return picture.getexif()


def _start_and_size(file: BinaryIO, name: str) -> tuple[bytes, int]:
    """The first bytes of a file and its length; leaves it at its beginning."""
    try:
        start = file.read(12)
        if isinstance(start, str):
            text = f"{name}: is open for reading text; open it with mode 'rb'"
            raise UsageError(text)
        file.seek(0, io.SEEK_END)
        size = file.tell()
        file.seek(0)
    except OSError as error:
        raise _damaged(name, error) from error
    return start, size


class _Metered:
    """A file that may be read in so many pieces only.

    Pillow skips junk byte by byte, and goes through empty parts one by one.

    Attributes:
      reads: How many pieces are left.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size, self.reads = file, size, _HEADER_READS

    def read(self, size: int = -1) -> bytes:
        self.reads -= 1
        if self.reads < 0:
            raise OSError("it has too many parts")
        # Memory is taken for all that is asked for, whether it is there or not.
        return self._file.read(min(size, self._size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _check_runs(width: int, height: int) -> None:
    """Refuses a large BMP of run lengths, which Pillow unpacks in Python."""
    # Four bytes skip 255 rows, whether the picture has them or not.
    if width * max(height, 256) > _MOST_RUN_PIXELS:
        raise OSError(f"run lengths of {width}×{height} pixels")


def _check_tags(file: BinaryIO) -> None:
    """Refuses tags of a TIFF, or of EXIF, that together take more than the file has.

    Any number of tags may name the same bytes, of which Pillow and libtiff would make
    a copy for each. Tiles may be larger than the picture.

    Raises:
      OSError: If they do, or if there are more tags or numbers than a picture needs.
      struct.error: If the file ends within its tags.
    """
    start = file.read(16)
    file.seek(0, io.SEEK_END)
    size = file.tell()
    little, big = start.startswith(b"II"), b"+" in start[2:4]
    order = "<" if little else ">"
    place, count, tag = ("8xQ", "Q", "HHQ8s") if big else ("4xI", "H", "HHI4s")
    file.seek(*struct.unpack_from(order + place, start))
    (tags,) = struct.unpack(order + count, file.read(struct.calcsize(order + count)))
    length = struct.calcsize(order + tag)
    data = file.read(min(tags, _HEADER_READS) * length)
    whole = data[: len(data) // length * length]
    taken, numbers, tile = 0, 0, 1
    for name, kind, number, value in struct.iter_unpack(order + tag, whole):
        width, cost = _TAG_VALUES.get(kind, (0, 0))
        taken, numbers = taken + number * width, numbers + number * cost
        if name in (TILEWIDTH, TILELENGTH):
            side = int.from_bytes(value[:width], "little" if little else "big")
            tile *= max(side, 1)
    file.seek(0)
    few = tags <= _HEADER_READS and numbers <= _MOST_TAG_NUMBERS
    if not few or taken > size or tile > MAX_PIXELS:
        raise OSError("there is too much in its tags")


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's warnings about odd metadata from the user.

    The lock is there because ``catch_warnings`` changes the whole process: two threads
    whose blocks overlap could leave the filters changed for good.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@functools.cache
def _silence_libtiff() -> None:
    """Keeps libtiff from writing to standard error what Pillow raises anyway."""
    # Pillow gives no access to libtiff, which is not part of Pillow's own library on
    # every platform.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def _damaged(name: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(
            f"{name}: there is not enough memory to read it; scale it down first, or "
            "end other programs"
        )
    return ImageError(
        f"{name}: the picture is damaged or cut off ({one_line(error)}); "
        "get or save it again"
    )
