"""Hostile pictures: a corpus that tests and the fuzzer write into a folder.

Each of them must become a picture or one clear line, within seconds and little memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import random
import resource
import stat
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageCms

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import load_image

PICTURE, REFUSED, EITHER = "picture", "refused", "either"
FORMATS = {
    "png": "PNG",
    "jpg": "JPEG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "gif": "GIF",
}
MODES = (
    *("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX"),
    *("CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B", "I;16L"),
)
_EXIF = 0x0112, 0x010E  # orientation, description

Files = Iterator[tuple[str, bytes, str]]
"""File name, content and what is expected of it."""


class Case(NamedTuple):
    """One item of the corpus.

    Attributes:
      name: What it is, unique.
      path: Where it is.
      expected: ``picture``, ``refused`` or ``either``.
    """

    name: str
    path: Path
    expected: str


def write_corpus(folder: str | os.PathLike[str]) -> list[Case]:
    """Writes every hostile item into an empty folder.

    Returns:
      The items; some are links, pipes, folders, or not there at all.
    """
    root, cases = Path(folder), []
    for name, data, expected in hostile_files():
        (root / name).write_bytes(data)
        cases.append(Case(name, root / name, expected))
    return [*cases, *_special(root)]


def hostile_files() -> Files:
    """The part of the corpus that is plain files."""
    for name, data in valid_files().items():
        # Pillow 12 cannot read the YCbCr TIFF that it writes.
        yield name, data, EITHER if name == "mode-ycbcr.tif" else PICTURE
    for part in (
        *(_oriented, _truncated, _flipped, _misnamed, _other_formats, _sides),
        *(_profiles, _metadata, _values, _bombs, _slow),
    ):
        yield from part()


# What a picture is made of


def drawn(mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Image.Image:
    """A picture of any of Pillow's modes, opaque in most places."""
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * 11 % 256, y * 13 % 256, (x + y) * 7 % 256], -1)
    colours = Image.fromarray(pixels.astype(np.uint8))
    grey = np.asarray(colours.convert("L"))
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32) / 255)
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * 257)
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        deep = (grey.astype(np.uint16) * 257).astype(f"{order}u2")
        return Image.frombytes(mode, size, deep.tobytes())
    if mode == "LAB":
        return Image.merge("LAB", colours.split())
    if mode in ("La", "RGBa", "PA"):
        between = {"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]
        return colours.convert(between).convert(mode)
    return colours.convert(mode)


def encoded(picture: Image.Image, image_format: str, **options: Any) -> bytes:
    """A file, or nothing where Pillow does not write such pictures."""
    file = io.BytesIO()
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    try:
        picture.save(file, image_format, **lossless | options)
    except (OSError, ValueError, KeyError):
        return b""
    return file.getvalue()


def srgb() -> bytes:
    """An ICC profile of sRGB, without the time at which it was made."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + bytes(12) + profile[36:]


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(
    width: int,
    height: int,
    rows: bytes,
    extra: bytes = b"",
    kind: tuple[int, int, int] = (8, 2, 0),
) -> bytes:
    """A PNG of filtered rows, with chunks before them.

    Args:
      width: In pixels.
      height: In pixels.
      rows: Not compressed yet.
      extra: Chunks before the pixels.
      kind: Depth, colour type and interlacing.
    """
    depth, colour, interlacing = kind
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlacing)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def bmp(
    width: int, height: int, bits: int, data: bytes, *, run_lengths: bool = False
) -> bytes:
    """A BMP, with a palette of greens up to 8 bits."""
    colours = 2**bits if bits <= 8 else 0
    palette = b"".join(bytes([0, level, 0, 0]) for level in range(colours))
    compression = {8: 1, 4: 2}[bits] if run_lengths else 0
    header = 40, width, height, 1, bits, compression, len(data), 0, 0, colours, 0
    start = 54 + len(palette)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(data), 0, 0, start)
        + struct.pack("<IiiHHIIiiII", *header)
        + palette
        + data
    )


def gif(
    screen: tuple[int, int], frame: tuple[int, int], extensions: bytes = b""
) -> bytes:
    """A GIF of one frame that has no more than a pixel."""
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", *screen, 0x80, 0, 0)
        + bytes(6)
        + extensions
        + b","
        + struct.pack("<HHHHB", 0, 0, *frame, 0)
        + b"\x02\x02\x44\x01\x00;"
    )


def tiff(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    """A TIFF of grey pixels, which are the bytes of the file itself.

    Args:
      width: In pixels.
      height: In pixels.
      *more: Tags besides the usual ones or in their place: number, type, count, and
        value or offset.
    """
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1)}
    tags |= {262: (3, 1, 1), 273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height)}
    tags |= {279: (4, 1, 1)} | {tag: tuple(rest) for tag, *rest in more}
    entries = [struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags)]
    count = struct.pack("<H", len(entries))
    return b"II*\0\x08\0\0\0" + count + b"".join(entries) + bytes(4)


def webp(width: int, height: int) -> bytes:
    """The header of a lossless WebP."""
    bits = (width - 1) | (height - 1) << 14
    data = b"VP8L" + struct.pack("<IBI", 6, 0x2F, bits) + bytes(1)
    return b"RIFF" + struct.pack("<I", 4 + len(data)) + b"WEBP" + data


def jpeg_segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(data)) + data


def exif_of(entries: int, size: int, small: int = 0) -> bytes:
    """EXIF of ``size`` bytes, all of which are each entry's value but for the first."""
    tags = [struct.pack("<HHII", 1000 + i, 7, size - 8, 8) for i in range(entries)]
    tags[:small] = [struct.pack("<HHII", i, 7, 1, 8) for i in range(small)]
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + b"".join(tags) + bytes(4)
    return data + bytes(size - len(data))


# Whole pictures


def valid_files() -> dict[str, bytes]:
    """Small whole pictures: every format, mode, depth and compression."""
    files = {}
    for extension, image_format in FORMATS.items():
        for mode in MODES:
            word = mode.replace(";", "_") + (
                "-premultiplied" if mode[-1] == "a" else ""
            )
            if data := encoded(drawn(mode), image_format):
                files[f"mode-{word.lower()}.{extension}"] = data
    return files | dict(_compressions()) | dict(_depths()) | dict(_extras())


def _compressions() -> Iterator[tuple[str, bytes]]:
    colours = drawn()
    kinds = {
        **dict.fromkeys(("packbits", "tiff_lzw", "tiff_deflate", "jpeg"), colours),
        **dict.fromkeys(("tiff_adobe_deflate", "zstd", "lzma"), colours),
        **dict.fromkeys(("group3", "group4", "tiff_ccitt"), drawn("1")),
    }
    for name, picture in kinds.items():
        if data := encoded(picture, "TIFF", compression=name):
            yield f"{name}.tif", data
    yield "big.tif", encoded(colours, "TIFF", big_tiff=True)
    yield "strips.tif", encoded(colours, "TIFF", strip_size=70)
    yield "progressive.jpg", encoded(colours, "JPEG", progressive=True)
    yield "rough.jpg", encoded(colours, "JPEG", quality=1, subsampling=2)
    yield "restarts.jpg", encoded(colours, "JPEG", restart_marker_blocks=1)
    yield "lossy.webp", encoded(drawn("RGBA"), "WEBP", lossless=False, quality=30)
    yield "optimized.png", encoded(colours, "PNG", optimize=True)
    yield "interlaced.png", png(1, 1, b"\0\1\2\3", kind=(8, 2, 1))
    yield "sequential.gif", encoded(drawn("P"), "GIF", interlace=0)
    yield "runs-8.bmp", bmp(3, 1, 8, b"\x02\x09\x01\x08\0\0\0\x01", run_lengths=True)
    yield "runs-4.bmp", bmp(4, 1, 4, b"\x04\x12\0\0\0\x01", run_lengths=True)
    cmyk = encoded(drawn("CMYK"), "JPEG")
    at = cmyk.index(b"\xff\xeeX" if b"\xff\xeeX" in cmyk else b"\xff\xee")
    (length,) = struct.unpack(">H", cmyk[at + 2 : at + 4])
    yield "cmyk-without-adobe.jpg", cmyk[:at] + cmyk[at + 2 + length :]
    for transform in (0, 1, 2, 255):
        changed = bytearray(cmyk)
        changed[cmyk.index(b"Adobe") + 11] = transform
        yield f"cmyk-adobe-{transform}.jpg", bytes(changed)


def _depths() -> Iterator[tuple[str, bytes]]:
    for bits in (1, 2, 4):
        few = drawn().quantize(2**bits)
        yield f"palette-{bits}.png", encoded(few, "PNG", bits=bits)
        row = b"\0" + b"\x1b\xb1\xe4"[: -(-5 * bits // 8)]
        yield f"grey-{bits}.png", png(5, 1, row, kind=(bits, 0, 0))
    for colour, samples in ((2, 3), (4, 2), (6, 4)):
        row = b"\0" + bytes(range(99, 99 + 2 * samples))
        yield f"deep-{colour}.png", png(1, 1, row, kind=(16, colour, 0))
    yield "bits-1.bmp", bmp(9, 1, 1, b"\xb1\x80\0\0")
    yield "bits-4.bmp", bmp(3, 1, 4, b"\x12\x30\0\0")
    yield "bits-16.bmp", bmp(2, 1, 16, b"\x1f\x7c\xe0\x03")
    yield "bits-32.bmp", bmp(1, 1, 32, b"\1\2\3\4")
    yield "upside-down.bmp", bmp(1, -1, 24, b"\1\2\3\0")


def _extras() -> Iterator[tuple[str, bytes]]:
    """Frames, transparency, comments and what follows the end."""
    colours, palette = drawn(), drawn("P")
    turned = [colours.transpose(Image.Transpose.ROTATE_180)]
    for extension in ("png", "webp", "tif", "gif"):
        frames = {"save_all": True, "append_images": turned * 3}
        yield f"animated.{extension}", encoded(colours, FORMATS[extension], **frames)
    yield "clear.gif", encoded(palette, "GIF", transparency=3)
    yield "comment.gif", encoded(palette, "GIF", comment=b"a comment")
    levels = bytes(range(256))
    yield "clear-palette.png", encoded(palette, "PNG", transparency=levels)
    yield "clear-colour.png", encoded(colours, "PNG", transparency=(0, 0, 0))
    texts = [(b"tEXt", b"a\0b"), (b"zTXt", b"c\0\0" + zlib.compress(b"d" * 99))]
    texts += [(b"iTXt", b"e\0\0\0\0\0f")]
    chunks = b"".join(chunk(kind, data) for kind, data in texts)
    yield "texts.png", png(1, 1, bytes(4), chunks)
    yield "more-after-the-end.png", encoded(colours, "PNG") + b"PK\x03\x04" + levels
    yield "twice.jpg", encoded(colours, "JPEG") * 2


# What is wrong with them


def _oriented() -> Files:
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[_EXIF[0]], exif[_EXIF[1]] = orientation, "a description"
        for extension in ("png", "jpg", "webp", "tif"):
            data = encoded(drawn(), FORMATS[extension], exif=exif)
            yield f"oriented-{orientation}.{extension}", data, PICTURE


def _whole() -> dict[str, bytes]:
    """One whole picture in each format, larger than its header."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    return {ext: encoded(picture, name) for ext, name in FORMATS.items()}


def _truncated() -> Files:
    for extension, data in _whole().items():
        for tenth in range(10):
            part = data[: len(data) * tenth // 10]
            yield f"truncated-{tenth}.{extension}", part, REFUSED


def _flipped() -> Files:
    rng = random.Random(0)
    for extension, data in _whole().items():
        for number in range(20):
            # Every other one in the header, where it matters more.
            at = rng.randrange(len(data) if number % 2 else 120)
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            yield f"flipped-{number}.{extension}", bytes(changed), EITHER


def _misnamed() -> Files:
    for extension, data in _whole().items():
        for other in FORMATS:
            if other != extension:
                yield f"really-{extension}.{other}", data, PICTURE
    yield "really-png.txt", _whole()["png"], PICTURE
    yield "really-jpg", _whole()["jpg"], PICTURE
    yield "really-text.png", b"Just a text.\n", REFUSED
    yield "empty.png", b"", REFUSED


def _other_formats() -> Files:
    """What Pillow or a browser would open, and this program does not."""
    page = b"<html><script>alert(1)</script></html>"
    yield "page.png", page, REFUSED
    yield "drawing.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>', REFUSED
    yield "postscript.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n", REFUSED
    yield "document.jpg", b"%PDF-1.7\n", REFUSED
    yield "archive.png", b"PK\x03\x04" + bytes(30), REFUSED
    yield "program.png", b"\x7fELF" + bytes(60), REFUSED
    yield "sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(28), REFUSED
    for name in ("PPM", "TGA", "ICO", "PCX", "SGI", "JPEG2000", "AVIF", "DDS"):
        if data := encoded(drawn(), name):
            yield f"{name.lower()}.png", data, REFUSED


def _sides() -> Files:
    """Sides of no pixel, of one, and long ones."""
    yield "none-by-1.png", png(0, 1, b"\0"), REFUSED
    yield "1-by-none.png", png(1, 0, b"\0"), REFUSED
    yield "none.gif", gif((0, 0), (0, 0)), REFUSED
    yield "none.bmp", bmp(0, 0, 24, b""), REFUSED
    yield "none.tif", tiff(0, 0), REFUSED
    jpeg = encoded(drawn(), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "none.jpg", jpeg[:at] + bytes(4) + jpeg[at + 4 :], REFUSED
    for width, height in ((1, 1), (1, 9), (9, 1), (1, 20_000), (20_000, 1)):
        for extension, name in FORMATS.items():
            # The longest side that a WebP may have.
            size = tuple(min(n, 16_383) for n in (width, height))
            picture = drawn(size=size if extension == "webp" else (width, height))
            yield f"{width}-by-{height}.{extension}", encoded(picture, name), PICTURE


def _profiles() -> Files:
    """Colour profiles that are none, and some that lie."""
    noise = random.Random(1).randbytes(3000)
    whole = srgb()
    lies = {
        "noise": noise,
        "cut": whole[: len(whole) // 2],
        "header": whole[:128],
        "noise-after-header": whole[:132] + noise,
        "many-tags": whole[:128] + b"\xff\xff\xff\xff" + whole[132:],
        "other-space": whole[:16] + b"CMYK" + whole[20:],
        "huge": whole + bytes(500_000),
        "sizes": whole[:132] + b"\x7f" * (len(whole) - 132),
        "empty": b"\0",
    }
    for name, profile in lies.items():
        for extension in ("png", "jpg", "webp", "tif"):
            data = encoded(drawn(), FORMATS[extension], icc_profile=profile)
            yield f"profile-{name}.{extension}", data, PICTURE
    cmyk = encoded(drawn("CMYK"), "JPEG", icc_profile=noise)
    yield "profile-noise-cmyk.jpg", cmyk, PICTURE


def _metadata() -> Files:
    """EXIF and XMP that are broken."""
    noise = random.Random(2).randbytes(999)
    for name, exif in {
        "noise": b"Exif\0\0" + noise,
        "cut": b"Exif\0\0II*\0\x08\0\0\0\xff",
        "far": b"Exif\0\0MM\0*\xff\xff\xff\xf0",
        "none": b"Exif\0\0",
    }.items():
        jpeg = encoded(drawn(), "JPEG")
        yield f"exif-{name}.jpg", jpeg[:2] + jpeg_segment(0xE1, exif) + jpeg[2:], EITHER
        yield f"exif-{name}.png", png(1, 1, bytes(4), chunk(b"eXIf", exif[6:])), EITHER
        yield f"exif-{name}.webp", encoded(drawn(), "WEBP", exif=exif), EITHER
    text = b"Raw profile type exif\0\nexif\n   9999\nzz"
    yield "exif-in-a-text.png", png(1, 1, bytes(4), chunk(b"tEXt", text)), EITHER


def _values() -> Files:
    """Pixels that are no colours."""
    for name, values in {
        "nan": np.array([[0, np.nan]], np.float32),
        "infinite": np.array([[0, np.inf]], np.float32),
        "large": np.array([[0, 70_000]], np.int32),
        "negative": np.array([[-1, 0]], np.int32),
    }.items():
        yield f"{name}.tif", encoded(Image.fromarray(values), "TIFF"), REFUSED
    for mode in ("LA", "RGBA"):
        clear = encoded(Image.new(mode, (3, 3)), "PNG")
        yield f"all-clear-{mode.lower()}.png", clear, REFUSED
    short = chunk(b"PLTE", b"\1\2\3")
    beyond = png(2, 1, b"\0\0\xff", short, kind=(8, 3, 0))
    yield "beyond-the-palette.png", beyond, EITHER
    yield "without-palette.png", png(2, 1, b"\0\0\xff", kind=(8, 3, 0)), EITHER


def _bombs() -> Files:
    """Small files of huge pictures."""
    yield "bomb-header.png", png(50_000, 50_000, b""), REFUSED
    yield "bomb-sides.png", png(2**31 - 1, 2**31 - 1, b""), REFUSED
    rows = zlib.compress(bytes(3 * 10**7), 9)
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    yield "bomb.png", start + chunk(b"IDAT", rows) + chunk(b"IEND", b""), REFUSED
    yield "bomb.tif", tiff(50_000, 50_000), REFUSED
    yield "bomb-deflate.tif", tiff(2**31 - 1, 2**31 - 1, (259, 3, 1, 8)), REFUSED
    tile = (322, 4, 1, 65_520), (323, 4, 1, 65_520), (324, 4, 1, 8), (325, 4, 1, 9)
    yield "bomb-tile.tif", tiff(9, 9, *tile), REFUSED
    bits = [(258, 3, 1, 1), (259, 3, 1, 8), (325, 4, 1, 500)]
    packed = zlib.compress(bytes(10**6), 9)
    data = tiff(9, 9, *tile, *bits)
    start = tiff(9, 9, *tile, *bits, (324, 4, 1, len(data)))
    yield "bomb-bits-tile.tif", start + packed, REFUSED
    yield "bomb-packed-tile.tif", tiff(9, 9, *tile, (259, 3, 1, 8)), REFUSED
    yield "bomb.gif", gif((65_535, 65_535), (1, 1)), REFUSED
    yield "bomb-frame.gif", gif((1, 1), (65_535, 65_535)), REFUSED
    yield "bomb.bmp", bmp(2**31 - 1, 2**31 - 1, 24, b""), REFUSED
    yield "bomb.webp", webp(16_383, 16_383), REFUSED
    jpeg = encoded(drawn(), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    yield "bomb.jpg", jpeg[:at] + b"\xff\xdc\xff\xdc" + jpeg[at + 4 :], REFUSED
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000), 9))
    yield "bomb-text.png", png(1, 1, bytes(4), text), EITHER
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2_000_000), 9))
    yield "bomb-profile.png", png(1, 1, bytes(4), profile), EITHER


def _slow() -> Files:
    """Small files that keep a careless reader busy, or fill its memory."""
    skip = b"\0\x02\0\xff"  # 255 rows down
    yield "runs-skip.bmp", bmp(10**7, 1, 8, skip, run_lengths=True), REFUSED
    ends = b"\x01\x01\0\0" * 100
    yield "runs-ends.bmp", bmp(10**6, 100, 8, ends, run_lengths=True), REFUSED
    # Every tag of a directory has the same megabyte.
    for kind in (7, 17):  # of which Pillow and libtiff know one each
        tags = [
            (40_000 + i, kind, 10**6 // (8 if kind == 17 else 1), 8)
            for i in range(4000)
        ]
        for name, packed in (("raw", 1), ("packed", 8)):
            data = tiff(1, 1, (259, 3, 1, packed), *tags)
            yield f"shared-{kind}-{name}.tif", data + bytes(10**6), REFUSED
    tags = b"".join(struct.pack("<HHII", 2000 + i, 7, 10**6, 8) for i in range(4000))
    end = len(tiff(1, 1, (34665, 4, 1, 0)))
    data = tiff(1, 1, (34665, 4, 1, end)) + struct.pack("<H", 4000) + tags + bytes(4)
    yield "shared-subdirectory.tif", data + bytes(10**6), PICTURE
    strips = (273, 4, 2 * 10**6, 200)
    yield "strips-many.tif", tiff(1, 1, strips) + bytes(8 * 10**6 + 99), REFUSED
    fractions = (282, 5, 10**6, 200)
    yield "fractions.tif", tiff(1, 1, fractions) + bytes(8 * 10**6 + 99), REFUSED
    jpeg = encoded(drawn(), "JPEG")
    shared = exif_of(20_000, 10**6)
    segments = b"".join(
        jpeg_segment(0xE1, b"Exif\0\0" + shared[at : at + 65_000])
        for at in range(0, len(shared), 65_000)
    )
    yield "exif-shared.jpg", jpeg[:2] + segments + jpeg[2:], PICTURE
    for name, exif in {
        "shared": exif_of(20_000, 10**6),
        "shared-late": exif_of(20_000, 10**6, small=9000),
        "nested": b"Exif\0\0" * 500_000,
        "nested-whole": b"Exif\0\0" * 500_000 + exif_of(0, 99),
    }.items():
        data = png(1, 1, bytes(4), chunk(b"eXIf", exif))
        yield f"exif-{name}.png", data, PICTURE
        yield f"exif-{name}.webp", encoded(drawn(), "WEBP", exif=exif), PICTURE
    text = b"Raw profile type exif\0\n\n\n" + exif_of(20_000, 10**6).hex().encode()
    yield "exif-text-shared.png", png(1, 1, bytes(4), chunk(b"tEXt", text)), PICTURE
    many = jpeg_segment(0xE1, b"Exif\0\0a") * 500_000
    yield "exif-many.jpg", jpeg[:2] + many + jpeg[2:], REFUSED
    yield "junk.jpg", b"\xff\xd8\xff\xe0\0\x02" + b"a" * 3 * 10**7, REFUSED
    scans = encoded(drawn(size=(3000, 3000)), "JPEG", progressive=True)
    refined = b"\xff\xda\0\x08\x01\x01\0\x06\x3f\x02" * 20_000
    yield "scans.jpg", scans[:-2] + refined + b"\xff\xd9", REFUSED
    block = b"\xff" + b"a" * 255
    comment = b"!\xfe" + block * 60_000 + b"\0"
    yield "comment-long.gif", gif((1, 1), (1, 1), comment), REFUSED
    start, _, end = png(1, 1, bytes(4)).partition(b"\0\0\0\x0cIDAT")
    assert end
    yield "chunks-many.png", start + chunk(b"IDAT", b"") * 10**6, REFUSED
    texts = chunk(b"tEXt", b"a\0b") * 10**6
    yield "texts-many.png", png(1, 1, bytes(4), texts), REFUSED


def _special(root: Path) -> list[Case]:
    """Links, folders, pipes and devices, and names that are odd or nowhere."""
    whole = encoded(drawn(), "PNG")
    (root / "whole.png").write_bytes(whole)
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    os.mknod(root / "socket.png", stat.S_IFSOCK | 0o600)
    links = {
        "link.png": ("whole.png", PICTURE),
        "link-to-nowhere.png": ("nowhere", REFUSED),
        "link-to-itself.png": ("link-to-itself.png", REFUSED),
        "link-to-folder.png": ("folder.png", REFUSED),
        "link-to-pipe.png": ("pipe.png", REFUSED),
        "link-to-zero.png": ("/dev/zero", REFUSED),
        "link-to-memory.png": ("/proc/self/mem", REFUSED),
    }
    for name, (target, _) in links.items():
        (root / name).symlink_to(target)
    names = {
        "a\nb.png": PICTURE,
        "a\x1b[31mb.png": PICTURE,
        "a\udcff.png": PICTURE,
        "-a=b,c:d.png": PICTURE,
        "Größe 画像.png": PICTURE,
    }
    for name in names:
        (root / name).write_bytes(whole)
    sparse = {"sparse.webp": b"RIFF\0\0\0\x80WEBPVP8L", "sparse.jpg": b"\xff\xd8\xff"}
    for name, start in sparse.items():
        with (root / name).open("wb") as file:
            file.write(start)
            file.truncate(3 * 2**30)
    there = {"whole.png": PICTURE, "folder.png": REFUSED, "pipe.png": REFUSED}
    there |= {"socket.png": REFUSED, "nowhere.png": REFUSED, "whole.png/a": REFUSED}
    there |= {name: expected for name, (_, expected) in links.items()} | names
    there |= dict.fromkeys(sparse, REFUSED) | {"a" * 300: REFUSED, "a\0.png": REFUSED}
    devices = ("/dev/zero", "/dev/null", "/dev/full")
    return [
        *(Case(name, root / name, expected) for name, expected in there.items()),
        *(Case(name, Path(name), REFUSED) for name in devices),
    ]


# What becomes of them


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of a picture that was read.

    Attributes:
      outcome: ``picture``, ``refused``, or what is wrong.
      detail: The message, the error or the shape.
      place: Where in the code it ended.
      seconds: Of processor time.
      megabytes: Of memory at most, beyond what the process had.
    """

    outcome: str
    detail: str = ""
    place: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0

    @property
    def wrong(self) -> bool:
        """Whether it should not be so."""
        return self.outcome not in (PICTURE, REFUSED)


def judge(source: Path | io.BytesIO) -> Verdict:
    """Reads a picture in this process."""
    _reset_peak()
    before, began = _peak(), time.process_time()
    outcome, detail, place = _outcome(source)
    seconds = time.process_time() - began
    return Verdict(outcome, detail, place, seconds, _peak() - before)


def _outcome(source: Path | io.BytesIO) -> tuple[str, str, str]:
    try:
        picture = load_image(source)
    except (ImageError, UsageError) as error:
        text, place = str(error), _place(error.__cause__ or error)
        if isinstance(error.__cause__, MemoryError):
            return "memory error", text, place
        clear = text.isprintable() and ": " in text and "; " in text and len(text) < 900
        return (REFUSED if clear else "odd message"), text, place
    except BaseException as error:
        return "other error", repr(error), _place(error)
    good = (
        picture.dtype == np.float32
        and picture.ndim == 4
        and picture.shape[0] == 1
        and picture.shape[3] == 3
        and picture.size > 0
        and picture.min() >= 0  # false for NaN
        and picture.max() <= 1
    )
    return (PICTURE if good else "no picture"), str(picture.shape), ""


def _place(error: BaseException) -> str:
    """The last lines of code that an error came through."""
    lines, trace = [], error.__traceback__
    while trace:
        name = Path(trace.tb_frame.f_code.co_filename).name
        lines.append(f"{name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__} {' '.join(lines[-3:])}"


def _reset_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> float:
    """The most memory in megabytes since ``_reset_peak``, or ever."""
    with contextlib.suppress(OSError, StopIteration):
        status = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in status if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(folder: str) -> None:
    """Writes the corpus, reads it, and prints a verdict on each item as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    for case in write_corpus(folder):
        print(json.dumps([case.name, case.expected]), flush=True)
        print(json.dumps(dataclasses.asdict(judge(case.path))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
