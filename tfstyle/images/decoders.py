"""Files <-> arrays: the only reader and writer of pictures.

Everywhere in tfstyle a picture is one array: [1, height, width, 3] (NHWC), float32,
RGB, in [0, 1]. Files become such arrays in `load_image` and arrays become files in
`save_image`; rounding and clipping happen nowhere else.

TensorFlow is not imported here, so that a command can refuse a bad input at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import json
import logging
import operator
import os
import re
import stat
import struct
import threading
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from tfstyle.errors import ImageError, UsageError
from tfstyle.files import beside

# Just under the 179 megapixels at which some of Pillow's decoders refuse by
# themselves, so that one limit, ours, holds for every format.
MAX_PIXELS = 175_000_000
MAX_BYTES = 8 * MAX_PIXELS
"""Of a file: what so many pixels take in 16-bit RGBA without compression."""

SAVE_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

_READABLE = "PNG, JPEG, WebP, BMP, TIFF or GIF"
# More than pictures need, and far less than what keeps Pillow busy for minutes.
_HEADER_READS = 4_096
_READS = 2**20
_MOST_SCANS = 500
_MOST_RUN_PIXELS = 2**24
_MOST_TAG_NUMBERS = 300_000
_MOST_EXIF_TEXT = 2**17
_ROWS_AT_ONCE = 256  # that are rounded, lest a large picture is there twice


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
    """Makes no remarks about what follows the pixels."""

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
# Bytes of a TIFF tag's number by its kind, and how many plain numbers it counts for:
# Pillow keeps text as it is, and reduces fractions.
_TAG_NUMBERS = {
    **dict.fromkeys((1, 2, 7), (1, 0)),
    **{6: (1, 1), 3: (2, 1), 8: (2, 1)},
    **dict.fromkeys((4, 9, 11, 13), (4, 1)),
    **dict.fromkeys((12, 16, 17, 18), (8, 1)),
    **dict.fromkeys((5, 10), (8, 200)),
}
_GREY_MODES = ("1", "L", "LA", "La")
_UNNAMED = "the picture"
_ROUNDING = 1e-5


def load_image(
    source: str | os.PathLike[str] | BinaryIO | Image.Image | npt.ArrayLike,
    size: int | None = None,
    *,
    size_of: Literal["longest", "shortest"] = "longest",
    allow_upscale: bool = False,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Reads a picture, upright, in sRGB and without transparency.

    Files are PNG, JPEG, WebP, BMP, TIFF or GIF (the first frame). The EXIF orientation
    is applied, an embedded ICC profile is converted to sRGB (one that is broken or is
    for other channels is ignored), and transparent parts are laid on white. 16-bit
    grey keeps its precision and is taken for sRGB grey; Pillow, which decodes the
    files, reads 16-bit colour as 8-bit.

    Args:
      source: A path, a file that is open for reading bytes and can `seek`, or a
        `PIL.Image` (neither is closed), or an array or tensor of shape [H, W],
        [H, W, 1|3|4] or [1, H, W, 1|3|4]: uint8 in [0, 255], uint16 in [0, 65535], or
        bool or float in [0, 1]; a fourth channel is alpha.
      size: Length in pixels of the side that `size_of` names; the other side follows
        in proportion. None keeps the picture's own size.
      size_of: "longest" or "shortest" side.
      allow_upscale: Whether a picture smaller than `size` is enlarged; otherwise it
        keeps its own size.
      resample: Pillow's filter, which is widened when it shrinks (antialiased).

    Returns:
      The picture, [1, H, W, 3], float32, RGB, in [0, 1].

    Raises:
      UsageError: The source is no file or no array of that kind, or the size is not a
        whole number of at least 1.
      ImageError: The file is empty, damaged, of another kind, over `MAX_PIXELS`, or
        wholly transparent.
    """
    if size is not None:
        size = _checked_size(size, size_of)
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        name = _shown(path)
        with _open_regular_file(path) as file:
            pixels = _decode(_open_picture(file, name), name)
    elif isinstance(source, Image.Image):
        name = _UNNAMED
        pixels = _decode(source, name)
    elif hasattr(source, "read") and hasattr(source, "seek"):
        name = _name_of(source)
        pixels = _decode(_open_picture(_rewound(source, name), name), name)
    else:
        name = "the array"
        pixels = _from_array(np.asarray(source), name)

    if isinstance(pixels, Image.Image):
        width, height = pixels.size
    else:
        height, width = pixels.shape[:2]
    target = (height, width)
    if size is not None:
        target = _scaled(target, size, size_of, allow_upscale, name)

    if isinstance(pixels, Image.Image):
        if target != (height, width):
            pixels = pixels.resize((target[1], target[0]), resample)
        return np.divide(np.asarray(pixels)[None], 255, dtype=np.float32)
    if target != (height, width):
        return resize_image(pixels[None], target, resample=resample)
    return pixels[None]


def resize_image(
    image: npt.ArrayLike,
    size: tuple[int, int],
    *,
    resample: Image.Resampling = Image.Resampling.LANCZOS,
) -> np.ndarray:
    """Resizes a picture in float32, antialiased.

    Args:
      image: Array or tensor [N, H, W, C], float, in [0, 1].
      size: The new (height, width).
      resample: Pillow's filter, which is widened when it shrinks (antialiased).

    Returns:
      The pictures, [N, height, width, C], float32, clipped to [0, 1]: Lanczos and
      bicubic overshoot at edges. The array itself if it has that size.

    Raises:
      UsageError: The shape is another, or the size is not two whole numbers of at
        least 1.
    """
    array = np.asarray(image, dtype=np.float32)
    if array.ndim != 4 or 0 in array.shape:
        raise UsageError(
            f"the picture has shape {list(array.shape)}; give [1, height, width, 3]"
        )
    height, width = (_checked_size(side) for side in size)
    if (height, width) == array.shape[1:3]:
        return array
    resized = np.empty((len(array), height, width, array.shape[-1]), np.float32)
    for picture, channel in np.ndindex(len(array), array.shape[-1]):
        plane = Image.fromarray(np.ascontiguousarray(array[picture, ..., channel]))
        resized[picture, ..., channel] = np.asarray(
            plane.resize((width, height), resample)
        )
    return np.clip(resized, 0, 1, out=resized)


def save_image(
    image: npt.ArrayLike,
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    quality: int = 95,
) -> None:
    """Writes a picture as an 8-bit file whose format follows from the extension.

    Values are clipped to [0, 1] and rounded to the nearest of the 256 levels. The file
    is written beside its place and then moved there, so that a failure leaves what was
    there before.

    Args:
      image: Array or tensor [1, H, W, 3] or [H, W, 3], float, nominally in [0, 1].
      path: Where to: .png, .jpg, .jpeg or .webp, in a folder that exists.
      metadata: Texts to put in the file. In PNG each is a text chunk under its key; in
        JPEG and WebP they are one JSON object in EXIF's ImageDescription.
      quality: Of JPEG and WebP, 1 to 100.

    Raises:
      UsageError: The path cannot be written to (see `check_writable`), or the image or
        the quality is of another kind.
      ImageError: The image holds NaN or infinity, or writing failed.
    """
    check_writable(path)
    path = Path(path)
    name = _shown(path)
    target = _link_target(path)
    picture = _to_picture(image, quality, name)
    try:
        with beside(target) as temporary, temporary.open("xb") as file:
            _encode(picture, file, path.suffix, metadata, quality)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(
            f"{name}: could not be written ({_one_line(error)}) and is as it was "
            "before; check the free space and the folder, or save a .png elsewhere"
        ) from error


def encode_image(
    image: npt.ArrayLike,
    extension: str,
    *,
    metadata: Mapping[str, str] | None = None,
    quality: int = 95,
) -> bytes:
    """The bytes of the file that `save_image` would write.

    Args:
      image: As of `save_image`.
      extension: .png, .jpg, .jpeg or .webp.
      metadata: As of `save_image`.
      quality: As of `save_image`.

    Returns:
      The file's content.

    Raises:
      UsageError: The extension, the image or the quality is of another kind.
      ImageError: The image holds NaN or infinity, or the format cannot hold it.
    """
    if extension.lower() not in SAVE_FORMATS:
        raise UsageError(
            f"the extension {extension!r} is not supported; use one of "
            f"{', '.join(SAVE_FORMATS)}"
        )
    picture, file = _to_picture(image, quality, _UNNAMED), io.BytesIO()
    try:
        _encode(picture, file, extension, metadata, quality)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(
            f"{_UNNAMED} could not be encoded as {extension} ({_one_line(error)}); "
            "make it a .png"
        ) from error
    return file.getvalue()


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Reads the texts that `save_image` put in a file.

    Args:
      path: A picture file.

    Returns:
      Texts by key; empty if there is none, or none that `save_image` writes.

    Raises:
      UsageError: There is no such file.
      ImageError: It is empty, damaged, or of another kind.
    """
    path = Path(path)
    name = _shown(path)
    with _open_regular_file(path) as file, _open_picture(file, name) as picture:
        if isinstance(picture, PngImageFile):
            # Those before the pixels, which are not decoded.
            info = picture.info.items()
            return {str(k): str(text) for k, text in info if isinstance(text, str)}
        try:
            texts = json.loads(_exif(picture).get(ExifTags.Base.ImageDescription, "{}"))
        except Exception:  # anything may stand there, from any program
            return {}
        return texts if isinstance(texts, dict) else {}


def check_writable(
    path: str | os.PathLike[str],
    *,
    extensions: Collection[str] = tuple(SAVE_FORMATS),
) -> None:
    """Refuses, before any work is done, a path that a file could not be written to.

    Args:
      path: Where a file is to be written.
      extensions: Those it may have, in lower case with the dot; empty allows any.

    Raises:
      UsageError: The extension is another; the folder does not exist, is no folder or
        may not be written to; or the path is a folder, a device, or a file that may
        not be written to.
    """
    path = Path(path)
    name = _shown(path)
    if extensions and path.suffix.lower() not in extensions:
        *others, last = extensions
        choice = f"{', '.join(others)} or {last}" if others else last
        problem = (
            f"the extension {path.suffix} is not supported"
            if path.suffix
            else "the name has no extension"
        )
        raise UsageError(f"{name}: {problem}; use {choice}")
    path = _link_target(path)
    folder = path.parent
    folder_mode = _file_mode(folder)
    if folder_mode is None:
        raise UsageError(
            f"{name}: the folder {_shown(folder)} does not exist; "
            "create it first or choose another"
        )
    if not stat.S_ISDIR(folder_mode):
        raise UsageError(
            f"{name}: {_shown(folder)} is a file, not a folder; choose another folder"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{name}: you may not write to the folder {_shown(folder)}; "
            "choose another or change its permissions"
        )
    mode = _file_mode(path)
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise UsageError(f"{name}: is a folder; add a file name")
    if not stat.S_ISREG(mode):
        raise UsageError(f"{name}: is not a regular file; choose another name")
    if not os.access(path, os.W_OK):
        raise UsageError(
            f"{name}: exists and may not be changed; "
            "choose another name or change its permissions"
        )


def _shown(path: Path | str) -> str:
    """Returns the path as text for a one-line message."""
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _name_of(file: Any) -> str:
    """Returns what messages call an open file."""
    name = getattr(file, "name", None)  # a number for a file without a path
    return _shown(name) if name and isinstance(name, str) else _UNNAMED


def _rewound(file: Any, name: str) -> BinaryIO:
    """Returns an open file, at its beginning."""
    try:
        file.seek(0)
    except OSError as error:
        raise UsageError(
            f"{name}: cannot be read from its beginning ({_one_line(error)}); read it "
            "into an io.BytesIO first"
        ) from error
    return file


def _link_target(path: Path) -> Path:
    """Returns what a link points to: that is replaced by a save, not the link."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return _shown(" ".join(str(error).split())[:200]) or type(error).__name__


def _file_mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return None


def _checked_size(size: Any, size_of: str = "longest") -> int:
    if size_of not in ("longest", "shortest"):
        raise UsageError(f'size_of is {size_of!r}; give "longest" or "shortest"')
    try:
        whole = operator.index(size)
    except TypeError:
        whole = 0
    if whole < 1 or isinstance(size, bool | np.bool_):
        raise UsageError(f"size is {size!r}; give a whole number of pixels, at least 1")
    return whole


def _scaled(
    shape: tuple[int, int], size: int, size_of: str, allow_upscale: bool, name: str
) -> tuple[int, int]:
    """Returns the (height, width) at which the named side of `shape` is `size` long."""
    side = max(shape) if size_of == "longest" else min(shape)
    if size == side or (size > side and not allow_upscale):
        return shape
    height, width = (max(1, round(length * size / side)) for length in shape)
    if height * width > MAX_PIXELS:
        raise UsageError(
            f"{name}: at size {size} it would be {width}×{height}, over the limit of "
            f"{MAX_PIXELS / 1e6:g} megapixels; give a smaller size"
        )
    return height, width


def _open_regular_file(path: Path) -> BinaryIO:
    name = _shown(path)
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
            f"{name}: cannot be opened ({_one_line(error)}); "
            "check the path and its permissions"
        ) from error


_quiet_lock = threading.Lock()


@contextlib.contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keeps Pillow's remarks about odd metadata from the user.

    The lock is there because `catch_warnings` changes the whole process: two threads
    whose blocks overlap could leave the filters changed for good.
    """
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_picture(file: BinaryIO, name: str) -> Image.Image:
    """Reads the header of a picture file and refuses what should not be decoded.

    `Image.open` is not used: its decompression bomb check has a limit of its own,
    global to the process, and it lets many more formats in.
    """
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
      OSError: They are, or there are more tags or numbers than a picture needs.
      struct.error: The file ends before.
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
        width, cost = _TAG_NUMBERS.get(kind, (0, 0))
        taken, numbers = taken + number * width, numbers + number * cost
        if name in (TILEWIDTH, TILELENGTH):
            side = int.from_bytes(value[:width], "little" if little else "big")
            tile *= max(side, 1)
    file.seek(0)
    most = tags <= _HEADER_READS and numbers <= _MOST_TAG_NUMBERS
    if not most or taken > size or tile > MAX_PIXELS:
        raise OSError("there is too much in its tags")


@functools.cache
def _silence_libtiff() -> None:
    """Keeps libtiff from writing to standard error what Pillow raises anyway."""
    # Pillow has no way to it, and not everywhere is it to be found in Pillow.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


# Pillow logs a few of the errors that it raises, by default to standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def _damaged(name: str, error: Exception) -> ImageError:
    if isinstance(error, MemoryError):
        return ImageError(
            f"{name}: there is not enough memory to read it; scale it down first, or "
            "end other programs"
        )
    return ImageError(
        f"{name}: the picture is damaged or cut off ({_one_line(error)}); "
        "get or save it again"
    )


def _decode(picture: Image.Image, name: str) -> Image.Image | np.ndarray:
    """Decodes a picture to an upright RGB one.

    Args:
      picture: In any of Pillow's modes; perhaps not decoded yet.
      name: What messages call it.

    Returns:
      A picture of mode RGB, or, where that would lose precision, an array
      [H, W, 3], float32, in [0, 1].
    """
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} is {width * height / 1e6:.0f} megapixels, over "
            f"the limit of {MAX_PIXELS / 1e6:g}; scale it down first"
        )
    # Pillow's decoders raise a dozen unrelated types for damaged data.
    try:
        # Only TIFF has remarks to make while it decodes; others do so in parallel.
        if isinstance(picture, TiffImageFile):
            with _quiet_pillow():
                picture.load()
        picture.load()
        orientation = _exif(picture).get(ExifTags.Base.Orientation)
        if orientation in _UPRIGHT:
            picture = picture.transpose(_UPRIGHT[orientation])
        if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
            return _from_deep(picture, name)
        return _flattened(picture, name)
    except ImageError:
        raise
    except Exception as error:
        raise _damaged(name, error) from error


def _exif(picture: Image.Image) -> Image.Exif:
    """Reads EXIF; none is in it where it is broken, or made to take long."""
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


def _from_deep(picture: Image.Image, name: str) -> np.ndarray:
    """Converts a grey picture of more than 8 bits: [H, W, 3], float32, in [0, 1]."""
    values = np.asarray(picture)
    limit = 1.0 if picture.mode == "F" else 65535.0
    low, high = float(values.min()), float(values.max())
    # Written so that NaN fails, too.
    if not (low >= 0 and high <= limit):
        raise ImageError(
            f"{name}: its values go from {low:g} to {high:g}, not within 0 to "
            f"{limit:g}; convert it to 8 or 16 bits first"
        )
    grey = np.divide(values, limit, dtype=np.float32)[..., None]
    transparent = picture.info.get("transparency")
    if transparent is None:
        return _on_white(grey, None, name)
    alpha = np.asarray(values != transparent, np.float32)
    return _on_white(grey, alpha[..., None], name)


def _flattened(picture: Image.Image, name: str) -> Image.Image:
    """Converts a picture of 8 bits or fewer to sRGB on white, of mode RGB."""
    profile = picture.info.get("icc_profile")
    grey = picture.mode in _GREY_MODES
    if not picture.has_transparency_data:
        if picture.mode != "CMYK":
            picture = picture.convert("RGB")
        return _to_srgb(picture, profile, grey)
    if picture.mode == "La":
        picture = picture.convert("LA")
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    if alpha.getextrema()[1] == 0:
        raise _all_transparent(name)
    colours = _to_srgb(picture.convert("RGB"), profile, grey)
    white = Image.new("RGB", picture.size, "white")
    return Image.composite(colours, white, alpha)


def _all_transparent(name: str) -> ImageError:
    return ImageError(
        f"{name}: every pixel is transparent; lay it on a background first"
    )


def _to_srgb(colours: Image.Image, profile: bytes | None, grey: bool) -> Image.Image:
    """Converts a picture of mode RGB or CMYK to sRGB, of mode RGB."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            if space == "GRAY" and grey:
                colours = colours.convert("L")
            if {"GRAY": "L"}.get(space, space) == colours.mode:
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(
                    colours, source, srgb, outputMode="RGB"
                )
                assert converted is not None
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass
    return colours.convert("RGB")


def _from_array(array: np.ndarray, name: str) -> Image.Image | np.ndarray:
    """Converts as `load_image` says: mode RGB for uint8, else [H, W, 3] float32."""
    if array.dtype.kind in "OUS":
        raise UsageError(
            "the picture is neither a path, a PIL.Image, an array nor a tensor"
        )
    shape = list(array.shape)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise UsageError(
            f"{name} has shape {shape}; give one picture, [H, W], [H, W, 1|3|4] or "
            "[1, H, W, 3]"
        )
    if array.dtype == np.uint8:
        grey = array.shape[-1] == 1
        return _flattened(Image.fromarray(array[..., 0] if grey else array), name)
    values = _unit_floats(array, name)
    if values.shape[-1] == 4:
        return _on_white(values[..., :3], values[..., 3:], name)
    return _on_white(values, None, name)


def _unit_floats(array: np.ndarray, name: str) -> np.ndarray:
    """Converts uint16, bool and floats, bfloat16 too, to float32 in [0, 1]."""
    if array.dtype == np.uint16:
        return np.divide(array, 65535, dtype=np.float32)
    if array.dtype.kind not in "fb" and array.dtype.name != "bfloat16":
        raise UsageError(
            f"{name} holds {array.dtype}; give uint8 in [0, 255], uint16 in "
            "[0, 65535] or float in [0, 1]"
        )
    values = array.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    # Written so that NaN fails, too.
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise UsageError(
            f"{name} holds floats from {low:g} to {high:g}, not within [0, 1]; "
            "scale it, or give uint8 in [0, 255]"
        )
    return np.clip(values, 0, 1)


def _on_white(values: np.ndarray, alpha: np.ndarray | None, name: str) -> np.ndarray:
    """Returns [H, W, 3] for values [H, W, 1|3] and alpha [H, W, 1], in [0, 1]."""
    if alpha is not None:
        if not alpha.any():
            raise _all_transparent(name)
        values = values * alpha + (1 - alpha)
    shape = (*values.shape[:2], 3)
    return np.array(np.broadcast_to(values, shape), dtype=np.float32)


def _to_picture(image: npt.ArrayLike, quality: int, name: str) -> Image.Image:
    """Checks what is to be encoded, and rounds it."""
    if not 1 <= quality <= 100:
        raise UsageError(f"{name}: quality {quality} is not within 1 to 100")
    return Image.fromarray(_to_bytes(np.asarray(image), name))


def _to_bytes(array: np.ndarray, name: str) -> np.ndarray:
    """Rounds [1, H, W, 3] or [H, W, 3] in [0, 1] to uint8 [H, W, 3]."""
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UsageError(
            f"{name}: the picture has shape {list(array.shape)}; give [1, height, "
            "width, 3] or [height, width, 3]"
        )
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise UsageError(
            f"{name}: the picture holds {array.dtype}; give float in [0, 1]"
        )
    levels = np.empty(array.shape, np.uint8)
    for row in range(0, len(array), _ROWS_AT_ONCE):
        values = array[row : row + _ROWS_AT_ONCE].astype(np.float32)
        if not np.isfinite(values).all():
            raise ImageError(
                f"{name}: the picture holds NaN or infinity and was not written; "
                "lower the learning rate or the weights"
            )
        np.clip(values, 0, 1, out=values)
        levels[row : row + _ROWS_AT_ONCE] = np.rint(values * 255)
    return levels


def _encode(
    picture: Image.Image,
    file: BinaryIO,
    extension: str,
    metadata: Mapping[str, str] | None,
    quality: int,
) -> None:
    image_format = SAVE_FORMATS[extension.lower()]
    if image_format == "PNG":
        texts = PngInfo()
        for key, value in (metadata or {}).items():
            # File names may hold what is no text; these are the escapes of JSON, too.
            texts.add_text(key, value.encode("utf-8", "backslashreplace").decode())
        picture.save(file, image_format, pnginfo=texts)
        return
    options: dict[str, Any] = {"quality": quality}
    if metadata:
        exif = Image.Exif()
        # EXIF texts are ASCII, which JSON's escapes keep to.
        exif[ExifTags.Base.ImageDescription] = json.dumps(dict(metadata))
        options["exif"] = exif
    if image_format == "JPEG":
        # Halved colour resolution would blur saturated brush strokes.
        options["subsampling"] = 0
    picture.save(file, image_format, **options)
