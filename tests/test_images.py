import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import (
    check_writable,
    encode_image,
    load_image,
    resize_image,
    save_image,
)
from tfstyle.images import decoders as images

pytestmark = pytest.mark.fast

RNG = np.random.default_rng(0)
COLOURS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[10, 20, 30], [128, 128, 128], [255, 255, 255]],
    ],
    np.uint8,
)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def levels(image):
    """The 0-255 levels of a loaded picture, which must be whole numbers."""
    assert image.dtype == np.float32
    assert image.shape[0] == 1 and image.shape[-1] == 3
    scaled = image[0] * np.float32(255)
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-4)
    return np.rint(scaled).astype(int)


def chunk(kind, data):
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png_bytes(width, height, rows, depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def message(excinfo):
    text = str(excinfo.value)
    assert "\n" not in text
    return text


# Reading: formats and modes


def test_tensorflow_is_not_imported():
    code = "import sys, tfstyle.images.decoders; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp"])
def test_lossless_files_load_exactly(tmp_path, extension):
    pixels = noise(5, 7)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(pixels).save(
        path, **({"lossless": True} if "w" in path.name else {})
    )
    image = load_image(path)
    assert image.shape == (1, 5, 7, 3)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[0], pixels.astype(np.float32) / 255)
    np.testing.assert_array_equal(load_image(str(path)), image)


def test_jpeg_loads_as_pillow_decodes_it(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(16, 16)).save(path)
    np.testing.assert_array_equal(
        levels(load_image(path)), np.asarray(Image.open(path))
    )


def test_the_extension_does_not_decide(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, "PNG")
    np.testing.assert_array_equal(levels(load_image(path)), COLOURS)


def test_first_frame_of_a_gif(tmp_path):
    path = tmp_path / "a.gif"
    red, blue = (Image.new("RGB", (4, 3), colour) for colour in ("red", "blue"))
    red.save(path, save_all=True, append_images=[blue])
    np.testing.assert_array_equal(
        levels(load_image(path)), np.broadcast_to([255, 0, 0], (3, 4, 3))
    )


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("1", 0, (0, 0, 0)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        # 100·(51/255) + 255·(204/255)
        ("LA", (100, 51), (224, 224, 224)),
        ("La", (77, 255), (77, 77, 77)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("RGBA", (200, 100, 0, 255), (200, 100, 0)),
        ("RGBA", (200, 100, 0, 51), (244, 224, 204)),
        ("RGBa", (40, 20, 0, 51), (244, 224, 204)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", (0, 0, 0, 155), (100, 100, 100)),
        ("YCbCr", (76, 85, 255), (254, 0, 0)),
        ("HSV", (0, 255, 255), (255, 0, 0)),
        # L* = 100·137/255 is mid grey; a* and b* are stored with 128 added.
        ("LAB", (137, 128, 128), (128, 128, 128)),
    ],
)
def test_modes(mode, colour, expected):
    picture = Image.new(mode, (2, 2), colour)
    np.testing.assert_allclose(levels(load_image(picture))[0, 0], expected, atol=1)


@pytest.mark.parametrize(
    "mode",
    [
        *("1", "L", "LA", "P", "RGBA", "CMYK", "LAB"),
        pytest.param(
            "YCbCr",
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13,
                reason="Pillow 12 cannot read the YCbCr TIFF that it writes",
            ),
        ),
    ],
)
def test_modes_of_tiff_files(tmp_path, mode):
    if mode == "LAB":
        picture = Image.new(mode, (3, 2), (137, 128, 128))
    else:
        picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / "a.tif")
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.tif")),
        np.asarray(picture.convert("RGB")),
        atol=1,
    )


def test_palette(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "plain.png")
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "plain.png")), [[[10, 20, 30], [200, 100, 0]]]
    )
    picture.save(tmp_path / "alpha.png", transparency=bytes([0, 51]))
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "alpha.png")), [[[255] * 3, [244, 224, 204]]]
    )


@pytest.mark.parametrize(
    ("mode", "colours", "key"),
    [("L", (9, 90), 9), ("RGB", ((1, 2, 3), (4, 5, 6)), None)],
)
def test_a_transparent_colour(tmp_path, mode, colours, key):
    picture = Image.new(mode, (2, 1), colours[0])
    picture.putpixel((1, 0), colours[1])
    picture.save(tmp_path / "a.png", transparency=colours[0] if key is None else key)
    expected = [[[255] * 3, np.broadcast_to(colours[1], 3)]]
    np.testing.assert_array_equal(levels(load_image(tmp_path / "a.png")), expected)


def test_alpha_is_a_mean_with_white(tmp_path):
    pixels = noise(16, 16, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] / 255 * alpha + (1 - alpha)
    np.testing.assert_allclose(
        load_image(tmp_path / "a.png")[0], expected, atol=0.5001 / 255
    )


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_16_bit_grey_keeps_its_precision(tmp_path, extension):
    values = np.array([[0, 1, 255, 256], [32767, 32768, 65534, 65535]], np.uint16)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(values).save(path)
    image = load_image(path)
    np.testing.assert_allclose(image[0, ..., 0], values / 65535, rtol=1e-7)
    np.testing.assert_array_equal(np.rint(image[0, ..., 0] * 65535.0), values)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_16_bit_big_endian_tiff(tmp_path):
    picture = Image.new("I;16B", (1, 1), 32768)
    picture.save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif")[0, 0, 0, 0] == np.float32(32768 / 65535)


def test_16_bit_colour_is_read_as_8_bit(tmp_path):
    row = b"\0" + struct.pack(">6H", 0, 257 * 7, 257 * 128, 257 * 200, 65535, 257)
    (tmp_path / "a.png").write_bytes(png_bytes(2, 1, row, depth=16))
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "a.png")), [[[0, 7, 128], [200, 255, 1]]]
    )


def test_a_transparent_16_bit_grey():
    picture = Image.fromarray(np.array([[500, 13107]], np.uint16))
    picture.info["transparency"] = 500
    np.testing.assert_allclose(load_image(picture)[0, 0, :, 0], [1, 0.2], rtol=1e-6)


def test_32_bit_grey():
    whole = Image.fromarray(np.array([[0, 13107, 65535]], np.int32))
    assert whole.mode == "I"
    np.testing.assert_allclose(load_image(whole)[0, 0, :, 1], [0, 0.2, 1], rtol=1e-6)
    floats = Image.fromarray(np.array([[0, 0.3, 1]], np.float32))
    np.testing.assert_allclose(load_image(floats)[0, 0, :, 1], [0, 0.3, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (np.array([[0, 70000]], np.int32), "from 0 to 70000, not within 0 to 65535"),
        (np.array([[-1, 5]], np.int32), "from -1 to 5, not within 0 to 65535"),
        (np.array([[0, 255]], np.float32), "from 0 to 255, not within 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "not within 0 to 1"),
    ],
)
def test_32_bit_grey_of_another_scale_is_refused(tmp_path, values, text):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.tif")
    assert "a.tif" in message(excinfo)
    assert "convert it to 8 or 16 bits" in message(excinfo)


def test_cmyk_jpeg_with_adobe_inversion(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    assert b"Adobe" in path.read_bytes()
    np.testing.assert_allclose(levels(load_image(path))[8, 8], [255, 0, 0], atol=3)


# Reading: orientation


STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOURS)))
    stored.save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(levels(load_image(path)), COLOURS)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(levels(load_image(picture)), COLOURS)


@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_of_a_jpeg(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    image = levels(load_image(tmp_path / "a.jpg"))
    np.testing.assert_allclose(image[8::16, 8::16], COLOURS, atol=3)


def test_orientation_of_16_bit_grey(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 1000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.shape == (1, 3, 1, 3)
    np.testing.assert_allclose(image[0, :, 0, 0] * 65535, [0, 1000, 65535], rtol=1e-6)


def test_the_size_counts_upright_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png", exif=exif)
    assert load_image(tmp_path / "a.png", 10).shape == (1, 10, 5, 3)


# Reading: colour profiles


def srgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile():
    """A profile in which the first channel is green and the second is red."""
    profile = srgb_profile().replace(b"rXYZ", b"xxxx")
    return profile.replace(b"gXYZ", b"rXYZ").replace(b"xxxx", b"gXYZ")


def linear_grey_profile():
    white = struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061)
    curve = struct.pack(">4s4xI", b"curv", 0)
    tags = struct.pack(">I", 2)
    tags += struct.pack(">4sII", b"wtpt", 156, len(white))
    tags += struct.pack(">4sII", b"kTRC", 156 + len(white), len(curve))
    body = tags + white + curve
    header = struct.pack(
        ">I4sI4s4s4s12s4s28x3i48x",
        *(128 + len(body), b"    ", 0x02100000, b"mntr", b"GRAY", b"XYZ "),
        *(bytes([7, 208, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0]), b"acsp"),
        *(63190, 65536, 54061),
    )
    assert len(header) == 128
    return header + body


def test_an_srgb_profile_changes_nothing(tmp_path):
    pixels = noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb_profile())
    np.testing.assert_array_equal(levels(load_image(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("extension", ["png", "tif", "webp", "jpg"])
def test_a_profile_is_converted_to_srgb(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    options = {"quality": 100} if extension == "jpg" else {"lossless": True}
    picture = Image.new("RGB", (16, 16), (200, 50, 120))
    picture.save(path, icc_profile=swapped_profile(), **options)
    tolerance = 3 if extension == "jpg" else 1
    np.testing.assert_allclose(
        levels(load_image(path))[8, 8], [50, 200, 120], atol=tolerance
    )


def test_a_profile_is_converted_under_alpha(tmp_path):
    picture = Image.new("RGBA", (2, 2), (200, 50, 120, 51))
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.png"))[0, 0], [214, 244, 228], atol=1
    )


def test_a_colour_profile_on_a_palette(tmp_path):
    picture = Image.new("P", (1, 1))
    picture.putpalette([200, 50, 120])
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.png"))[0, 0], [50, 200, 120], atol=1
    )


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_grey_profile(tmp_path, mode):
    # 55/255 of the light is sRGB's level 128.
    picture = Image.new("LA", (2, 2), (55, 255)).convert(mode)
    picture.save(tmp_path / "a.png", icc_profile=linear_grey_profile())
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.png"))[0, 0], [128] * 3, atol=1
    )


@pytest.mark.parametrize(
    ("mode", "profile"),
    [
        ("RGB", b"no profile"),
        ("RGB", srgb_profile()[:200]),
        ("RGB", linear_grey_profile()),
        ("L", srgb_profile().replace(b"rTRC", b"xxxx")),
        ("CMYK", srgb_profile()),
    ],
)
def test_a_broken_or_foreign_profile_is_ignored(tmp_path, mode, profile):
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / "a.tif", icc_profile=profile)
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "a.tif")), np.asarray(picture.convert("RGB"))
    )


# Reading: pictures and arrays in memory


def test_a_pil_picture_stays_open(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as picture:
        load_image(picture)
        picture.seek(1)
        np.testing.assert_array_equal(levels(load_image(picture))[0, 0], [0, 0, 255])


def test_files_are_closed(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load_image(tmp_path / "a.png")
        with pytest.raises(ImageError):
            load_image(tmp_path / "b.png")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_an_open_file_loads_as_its_path_does_and_stays_open(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(noise(9, 12)).save(path)
    expected = load_image(path, 6)
    memory = io.BytesIO(path.read_bytes())
    memory.seek(0, io.SEEK_END)
    np.testing.assert_array_equal(load_image(memory, 6), expected)
    assert memory.getbuffer().nbytes == path.stat().st_size
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_image(file, 6), expected)
        assert load_image(file).shape == (1, 9, 12, 3)


def test_open_files_are_guarded_as_paths_are(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(bomb_png())
    with path.open("rb") as file, pytest.raises(ImageError, match=r"a\.png: 50000×50"):
        load_image(file)
    path.write_bytes(b"Just a text.\n")
    with path.open("rb") as file, pytest.raises(ImageError, match=r"a\.png: not a PNG"):
        load_image(file)
    with path.open() as file, pytest.raises(UsageError, match="open it with mode"):
        load_image(file)
    with pytest.raises(ImageError, match="the picture: the file is empty"):
        load_image(io.BytesIO())
    with tempfile.TemporaryFile() as file, pytest.raises(ImageError, match="the pict"):
        load_image(file)


def test_a_file_that_cannot_be_gone_back_in():
    read, write = os.pipe()
    os.close(write)
    text = r"read it into an io\.BytesIO first"
    with os.fdopen(read, "rb") as file, pytest.raises(UsageError, match=text):
        load_image(file)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_arrays(dtype, batch):
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    array = (RNG.random((4, 5, 3)) * top).astype(dtype)
    image = load_image(array[None] if batch else array)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], array / top, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 4, 5, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_grey_arrays(shape, dtype):
    array = RNG.integers(0, 2, shape).astype(dtype)
    image = load_image(array)
    top = 255 if dtype == np.uint8 else 1
    expected = np.repeat(array.reshape(1, 4, 5, 1), 3, -1).astype(np.float32) / top
    np.testing.assert_array_equal(image, expected)


def test_alpha_in_arrays():
    floats = load_image(np.array([[[0.8, 0.4, 0, 0.2]]]))
    np.testing.assert_allclose(floats[0, 0, 0], [0.96, 0.88, 0.8], rtol=1e-6)
    levels_ = load_image(np.array([[[200, 100, 0, 51]]], np.uint8))
    np.testing.assert_array_equal(levels(levels_)[0, 0], [244, 224, 204])


def test_an_array_is_not_changed_nor_shared():
    array = RNG.random((1, 3, 4, 3)).astype(np.float32)
    before = array.copy()
    load_image(array)[:] = 0
    np.testing.assert_array_equal(array, before)


def test_tensors():
    tf = pytest.importorskip("tensorflow")
    array = RNG.random((1, 3, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(load_image(tf.constant(array)), array)
    np.testing.assert_array_equal(load_image(tf.Variable(array)), array)
    half = tf.cast(array, tf.bfloat16)
    np.testing.assert_allclose(load_image(half), array, atol=1 / 128)


def test_rounding_errors_are_clipped():
    image = load_image(np.array([[-1e-6, 1 + 1e-6]], np.float32))
    np.testing.assert_array_equal(image[0, 0, :, 0], [0, 1])


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.full((2, 2, 3), 1.5), r"holds floats from 1.5 to 1.5, not within \[0, 1\]"),
        (np.full((2, 2, 3), -0.1), "holds floats from -0.1"),
        (np.full((2, 2, 3), np.nan), "holds floats from nan"),
        (np.full((2, 2, 3), np.inf), "holds floats from inf"),
        (np.zeros((2, 2, 3), np.int64), "holds int64; give uint8"),
        (np.zeros((2, 2, 2), np.uint8), r"shape \[2, 2, 2\]; give one picture"),
        (np.zeros((2, 2, 2, 3), np.uint8), r"shape \[2, 2, 2, 3\]"),
        (np.zeros((0, 2, 3), np.uint8), r"shape \[0, 2, 3\]"),
        (np.zeros(3, np.uint8), r"shape \[3\]"),
        (None, "neither a path, a PIL.Image, an array nor a tensor"),
        (object(), "neither a path"),
        (b"a.png", "neither a path"),
    ],
)
def test_arrays_that_are_no_picture_are_refused(array, text):
    with pytest.raises(UsageError, match=text) as excinfo:
        load_image(array)
    message(excinfo)


# Reading: size


@pytest.mark.parametrize(
    ("size", "options", "expected"),
    [
        (None, {}, (60, 90)),
        (30, {}, (20, 30)),
        (30, {"size_of": "shortest"}, (30, 45)),
        (90, {}, (60, 90)),
        (91, {}, (60, 90)),
        (60, {"size_of": "shortest"}, (60, 90)),
        (61, {"size_of": "shortest"}, (60, 90)),
        (180, {"allow_upscale": True}, (120, 180)),
        (90, {"size_of": "shortest", "allow_upscale": True}, (90, 135)),
        (50, {}, (33, 50)),
        (np.int64(30), {}, (20, 30)),
        (1, {}, (1, 1)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_size(size, options, expected, dtype):
    image = load_image(np.zeros((60, 90, 3), dtype), size, **options)
    assert image.shape == (1, *expected, 3)
    assert image.dtype == np.float32


def test_a_side_never_vanishes():
    assert load_image(np.zeros((1, 1000), np.uint8), 10).shape == (1, 1, 10, 3)


def test_resample_is_pillows():
    pixels = noise(40, 60)
    expected = Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)
    image = load_image(pixels, 30, resample=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(levels(image), np.asarray(expected))
    other = Image.fromarray(pixels).resize((30, 20), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(levels(load_image(pixels, 30)), np.asarray(other))


def test_16_bit_keeps_its_precision_when_resized():
    ramp = np.tile(np.arange(30000, 30064, dtype=np.uint16), (64, 1))
    image = load_image(Image.fromarray(ramp), 32)
    expected = (30000.5 + 2 * np.arange(32)) / 65535
    np.testing.assert_allclose(image[0, 16, 4:-4, 0], expected[4:-4], atol=1e-6)


@pytest.mark.parametrize("size", [0, -1, 1.5, 256.0, "256", True, float("nan")])
def test_a_size_that_is_no_whole_number_is_refused(size):
    with pytest.raises(UsageError, match="give a whole number of pixels, at least 1"):
        load_image(COLOURS, size)


def test_an_unknown_size_of_is_refused():
    with pytest.raises(UsageError, match='"longest" or "shortest"'):
        load_image(COLOURS, 2, size_of="width")


def test_a_size_over_the_limit_is_refused():
    with pytest.raises(UsageError, match=r"1000000×1000, over the limit of 175 mega"):
        load_image(
            np.zeros((1, 1000), np.uint8),
            1000,
            size_of="shortest",
            allow_upscale=True,
        )


def test_resize_is_antialiased():
    checkerboard = np.indices((64, 64)).sum(0) % 2
    image = np.repeat(checkerboard[None, ..., None], 3, -1).astype(np.float32)
    small = resize_image(image, (16, 16))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small[:, 2:-2, 2:-2], 0.5, atol=0.01)


def test_resize_is_height_by_width_and_per_channel():
    image = RNG.random((1, 8, 12, 3)).astype(np.float32)
    box = Image.Resampling.BOX
    small = resize_image(image, (4, 3), resample=box)
    expected = image[0].reshape(4, 2, 3, 4, 3).mean((1, 3))
    np.testing.assert_allclose(small[0], expected, atol=1e-6)
    np.testing.assert_array_equal(resize_image(image, (8, 12)), image)
    assert resize_image(image[..., :1], (4, 3)).shape == (1, 4, 3, 1)


def test_resize_clips_overshoot():
    edge = np.zeros((1, 16, 16, 3), np.float32)
    edge[:, :, 8:] = 1
    large = resize_image(edge, (32, 32))
    assert large.min() == 0
    assert large.max() == 1


@pytest.mark.parametrize(
    ("shape", "size", "text"),
    [
        ((4, 4, 3), (2, 2), r"shape \[4, 4, 3\]; give \[1, height, width, 3\]"),
        ((0, 4, 4, 3), (2, 2), r"shape \[0, 4, 4, 3\]"),
        ((1, 4, 4, 3), (0, 2), "size is 0"),
    ],
)
def test_resize_refuses(shape, size, text):
    with pytest.raises(UsageError, match=text):
        resize_image(np.zeros(shape, np.float32), size)


# Reading: errors


@pytest.mark.parametrize("name", ["none.png", "none/a.png", "bad\0.png"])
def test_a_missing_file(tmp_path, name):
    with pytest.raises(UsageError, match=r"no such file; check|cannot be opened"):
        load_image(tmp_path / name)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match=r"b\.png: no such file; check the path"):
        load_image(tmp_path / "a" / "b.png")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is a folder; give a picture inside it"):
        load_image(tmp_path)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match=r"pipe\.png: is not a regular file"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="/dev/null: is not a regular file"):
        load_image("/dev/null")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.touch()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    text = r"a\.png: cannot be opened \(Permission denied\); check .* permissions"
    with pytest.raises(UsageError, match=text):
        load_image(path)


def test_an_odd_name_stays_on_one_line(tmp_path):
    with pytest.raises(UsageError) as excinfo:
        load_image(tmp_path / "a\nb\udcff.png")
    assert r"a\nb\udcff.png" in message(excinfo)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", r"a\.png: the file is empty; get or save it again"),
        (b"Just a text.\n", r"a\.png: not a PNG, JPEG, WebP, BMP, TIFF or GIF picture"),
        (b"x", "not a PNG, .*; convert it to PNG or JPEG first"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a PNG"),
        (b"%PDF-1.7", "not a PNG"),
        (b"BM is how this text begins", r"a\.png: the picture is damaged or cut off"),
        (b"\x89PNG\r\n\x1a\n", r"a\.png: the picture is damaged or cut off"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "damaged or cut off"),
    ],
)
def test_files_that_are_no_picture(tmp_path, content, text):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.png")
    message(excinfo)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_a_cut_off_picture(tmp_path, capfd, extension, part):
    path = tmp_path / f"a.{extension}"
    Image.fromarray(noise(64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as excinfo:
            load_image(path)
    assert f"a.{extension}: the picture is damaged or cut off" in message(excinfo)
    assert message(excinfo).endswith("; get or save it again")
    assert capfd.readouterr() == ("", "")


def test_a_flipped_bit_in_a_png(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged or cut off"):
        load_image(path)


def bomb_png():
    return png_bytes(50_000, 50_000, b"")


def bomb_tiff():
    entries = [(256, 50_000), (257, 50_000), (258, 8), (259, 1), (262, 1), (273, 8)]
    entries += [(277, 1), (278, 50_000), (279, 4)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4)


@pytest.mark.parametrize("pillow_limit", [None, 100, 10**12])
@pytest.mark.parametrize("content", [bomb_png(), bomb_tiff()], ids=["png", "tiff"])
def test_a_decompression_bomb(tmp_path, monkeypatch, content, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    (tmp_path / "a.png").write_bytes(content)
    text = r"a\.png: 50000×50000 is 2500 megapixels, over the limit of 175; scale"
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.png")
    message(excinfo)


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "bmp", "tif"])
def test_pillows_own_bomb_limit_gives_no_warning(tmp_path, monkeypatch, extension):
    Image.fromarray(noise(10, 15)).save(tmp_path / f"a.{extension}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / f"a.{extension}").shape == (1, 10, 15, 3)


def test_the_limit_is_below_pillows():
    assert 8192 * 6144 < images.MAX_PIXELS < 2 * 89_478_485


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_all_transparent_is_refused(tmp_path, mode):
    picture = Image.new(mode, (3, 3))
    options = {"transparency": 0} if mode == "P" else {}
    picture.save(tmp_path / "a.png", **options)
    text = r"a\.png: every pixel is transparent; lay it on a background first"
    with pytest.raises(ImageError, match=text):
        load_image(tmp_path / "a.png")


def test_an_all_transparent_array_is_refused():
    with pytest.raises(ImageError, match="the array: every pixel is transparent"):
        load_image(np.zeros((2, 2, 4), np.float32))


def test_corrupt_exif_is_ignored_in_silence(tmp_path, capfd):
    Image.fromarray(COLOURS).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "a.jpg").shape == (1, 2, 3, 3)
    assert capfd.readouterr() == ("", "")


def test_threads_leave_the_warning_filters_as_they_were(tmp_path):
    Image.fromarray(noise(32, 32)).save(tmp_path / "a.tif")
    before = list(warnings.filters)
    threads = [
        threading.Thread(
            target=lambda: [load_image(tmp_path / "a.tif") for _ in range(20)]
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before


# Writing


def test_png_round_trip_is_exact(tmp_path):
    every_level = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([every_level, every_level.T, every_level[::-1]], -1)
    image = load_image(pixels)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), image)
    assert names(tmp_path) == ["a.png"]


def test_values_are_rounded_and_clipped(tmp_path):
    values = np.array([0.49, 0.51, 1.49, 1.51, 99.6, 254.4, 254.6, -9, 300]) / 255
    save_image(np.repeat(values[None, :, None], 3, -1), tmp_path / "a.png")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "a.png"))[0, :, 1],
        [0, 1, 1, 2, 100, 254, 255, 0, 255],
    )


@pytest.mark.parametrize(
    ("name", "image_format"),
    [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.webp", "WEBP")],
)
def test_the_format_follows_from_the_extension(tmp_path, name, image_format):
    image = np.broadcast_to(np.float32([0.9, 0.5, 0.1]), (1, 20, 30, 3))
    save_image(image, tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == image_format
        assert not picture.getexif()
    np.testing.assert_allclose(load_image(tmp_path / name), image, atol=3 / 255)


def test_the_image_is_not_changed(tmp_path):
    image = np.full((2, 2, 3), 0.3, np.float32)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.float32(0.3))


def test_quality(tmp_path):
    image = load_image(noise(64, 64))
    for extension in ("jpg", "webp"):
        low, high = (tmp_path / f"{q}.{extension}" for q in (30, 95))
        save_image(image, low, quality=30)
        save_image(image, high)
        assert low.stat().st_size < 0.7 * high.stat().st_size
    with pytest.raises(UsageError, match="quality 101 is not within 1 to 100"):
        save_image(image, tmp_path / "a.jpg", quality=101)


def test_a_jpeg_keeps_its_colour_resolution(tmp_path):
    columns = np.tile(np.float32([[1, 0, 0], [0, 0, 1]]), (16, 8, 1))
    save_image(columns, tmp_path / "a.jpg")
    np.testing.assert_allclose(load_image(tmp_path / "a.jpg")[0], columns, atol=0.1)


def test_metadata(tmp_path):
    metadata = {"Software": "tfstyle", "style": "Große Welle"}
    image = np.zeros((2, 2, 3), np.float32)
    save_image(image, tmp_path / "a.png", metadata=metadata)
    with Image.open(tmp_path / "a.png") as picture:
        assert isinstance(picture, PngImagePlugin.PngImageFile)
        assert picture.text == metadata
    for name in ("a.jpg", "a.webp"):
        save_image(image, tmp_path / name, metadata=metadata)
        with Image.open(tmp_path / name) as picture:
            assert json.loads(picture.getexif()[0x010E]) == metadata


def test_tensors_are_saved(tmp_path):
    tf = pytest.importorskip("tensorflow")
    save_image(tf.fill([1, 2, 2, 3], 0.2), tmp_path / "a.png")
    assert (levels(load_image(tmp_path / "a.png")) == 51).all()


def test_the_umask_holds_for_new_files(tmp_path):
    save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").symlink_to(tmp_path / "folder" / "b.png")
    save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_symlink()
    assert names(tmp_path / "folder") == ["b.png"]


@pytest.mark.parametrize("failure", ["encode", "move"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError])
def test_a_failing_save_leaves_the_old_file(tmp_path, monkeypatch, failure, error):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fail(self, target, *args, **kwargs):
        if failure == "encode":
            target.write(b"half a pict")
        raise error

    owner = "PIL.Image.Image.save" if failure == "encode" else "pathlib.Path.replace"
    monkeypatch.setattr(owner, fail)
    with pytest.raises(ImageError, match=r"a\.png: could not be written") as excinfo:
        save_image(np.zeros((2, 2, 3)), path)
    if isinstance(error, OSError):
        assert "(No space left on device)" in message(excinfo)
    assert "is as it was before; check the free space" in message(excinfo)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]


def test_an_interrupted_save_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.Image.Image.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    assert names(tmp_path) == []


def test_a_picture_too_large_for_webp(tmp_path):
    with pytest.raises(ImageError, match=r"a\.webp: could not be written .*\.png"):
        save_image(np.zeros((1, 16384, 3)), tmp_path / "a.webp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_not_saved(tmp_path, bad):
    image = np.zeros((2, 2, 3))
    image[0, 0, 0] = bad
    with pytest.raises(ImageError, match=r"a\.png: the picture holds NaN or infinity"):
        save_image(image, tmp_path / "a.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((2, 2, 3), np.uint8), r"holds uint8; give float in \[0, 1\]"),
        (np.zeros((2, 2)), r"shape \[2, 2\]; give \[1, height, width, 3\]"),
        (np.zeros((2, 2, 4)), r"shape \[2, 2, 4\]"),
        (np.zeros((2, 2, 2, 3)), r"shape \[2, 2, 2, 3\]"),
        (np.zeros((0, 2, 3)), r"shape \[0, 2, 3\]"),
    ],
)
def test_other_arrays_are_not_saved(tmp_path, image, text):
    with pytest.raises(UsageError, match=text):
        save_image(image, tmp_path / "a.png")


# Writing: refused beforehand


@pytest.mark.parametrize(
    "check", [check_writable, lambda p: save_image(COLOURS / 1, p)]
)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.gif", r"a\.gif: the extension \.gif is not supported; use \.png, \.jpg, "),
        ("a", r"a: the name has no extension; use \.png, \.jpg, \.jpeg or \.webp"),
        ("none/a.png", "the folder .*none does not exist; create it first or choose"),
        ("file/a.png", "file is a file, not a folder; choose another folder"),
        ("folder.png", r"folder\.png: is a folder; add a file name"),
        ("pipe.png", r"pipe\.png: is not a regular file"),
        ("broken.png", "the folder .*none does not exist"),
    ],
)
def test_paths_that_cannot_be_written(tmp_path, check, name, text):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "none" / "a.png")
    before = names(tmp_path)
    with pytest.raises(UsageError, match=text) as excinfo:
        check(tmp_path / name)
    message(excinfo)
    assert names(tmp_path) == before


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        ("", "you may not write to the folder .*; choose another or change its perm"),
        ("a.png", r"a\.png: exists and may not be changed; choose another name"),
    ],
)
def test_permissions(tmp_path, monkeypatch, refused, text):
    # Permission bits do not stop root, who may be running this.
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / refused)
    with pytest.raises(UsageError, match=text):
        check_writable(tmp_path / "a.png")


def test_a_writable_path_passes_and_is_not_touched(tmp_path, monkeypatch):
    check_writable(tmp_path / "new.png")
    assert names(tmp_path) == []
    (tmp_path / "old.webp").write_bytes(b"old")
    check_writable(tmp_path / "old.webp")
    assert (tmp_path / "old.webp").read_bytes() == b"old"
    monkeypatch.chdir(tmp_path)
    check_writable("here.jpg")


def test_other_extensions_can_be_asked_for(tmp_path):
    check_writable(tmp_path / "log.csv", extensions=())
    check_writable(tmp_path / "net.keras", extensions=[".keras"])
    with pytest.raises(UsageError, match=r"the extension \.png is not .*use \.keras$"):
        check_writable(tmp_path / "net.png", extensions=[".keras"])


# Encoding in memory


@pytest.mark.parametrize("extension", [".png", ".jpg", ".JPEG", ".webp"])
def test_encoded_bytes_are_those_of_the_file(tmp_path, extension):
    image = noise(20, 30)[None] / np.float32(255)
    how = {"metadata": {"Software": "tests"}, "quality": 80}
    save_image(image, tmp_path / f"a{extension}", **how)
    encoded = encode_image(image, extension, **how)
    assert encoded == (tmp_path / f"a{extension}").read_bytes()
    assert encoded != encode_image(image, extension, quality=81)


@pytest.mark.parametrize(
    ("image", "extension", "quality", "error", "text"),
    [
        (np.zeros((2, 2, 3)), ".gif", 95, UsageError, r"'\.gif' .*use one of \.png"),
        (np.zeros((2, 2, 3)), "png", 95, UsageError, "'png' is not supported"),
        (np.zeros((2, 2, 3)), ".jpg", 0, UsageError, "quality 0 is not within"),
        (np.zeros((2, 2)), ".jpg", 95, UsageError, r"has shape \[2, 2\]"),
        (np.full((2, 2, 3), np.nan), ".png", 95, ImageError, "holds NaN"),
        (np.zeros((1, 16384, 3)), ".webp", 95, ImageError, "encoded as .webp .*a .png"),
    ],
)
def test_what_cannot_be_encoded(image, extension, quality, error, text):
    with pytest.raises(error, match=text) as excinfo:
        encode_image(image, extension, quality=quality)
    message(excinfo)


def test_full_memory_is_not_taken_for_a_damaged_picture(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match=r"a\.png: there is not enough memory to"):
        load_image(path)


def test_every_row_of_a_tall_picture_is_rounded(tmp_path):
    image = np.random.default_rng(0).uniform(-0.1, 1.1, (1, 600, 2, 3)).astype("f4")
    save_image(image, tmp_path / "a.png")
    expected = np.rint(np.clip(image[0], 0, 1) * np.float32(255))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected)
    image[0, 599, 1, 2] = np.nan
    with pytest.raises(ImageError, match="NaN or infinity"):
        save_image(image, tmp_path / "b.png")
