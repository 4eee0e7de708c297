"""Tests of what ``load_image`` makes of files: modes, orientation, profiles."""

import struct
import subprocess
import sys

import hostile
import numpy as np
import PIL
import pytest
from pictures import COLOURS, levels, message, noise
from PIL import Image, ImageCms

from tfstyle.errors import ImageError
from tfstyle.images import (
    load_image,
)

pytestmark = pytest.mark.fast


# Reading: formats and modes


def test_images_import_no_tensorflow():
    code = "import sys, tfstyle.images.masks; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "webp"])
def test_load_image_is_exact_for_lossless_files(tmp_path, extension):
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


def test_load_image_decodes_jpeg_as_pillow_does(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(noise(16, 16)).save(path)
    np.testing.assert_array_equal(
        levels(load_image(path)), np.asarray(Image.open(path))
    )


def test_load_image_ignores_the_extension(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, "PNG")
    np.testing.assert_array_equal(levels(load_image(path)), COLOURS)


def test_load_image_takes_the_first_frame_of_a_gif(tmp_path):
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
def test_load_image_of_each_mode(mode, colour, expected):
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
def test_load_image_of_each_mode_of_a_tiff(tmp_path, mode):
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


def test_load_image_of_a_palette(tmp_path):
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
def test_load_image_of_a_transparent_colour_is_white(tmp_path, mode, colours, key):
    picture = Image.new(mode, (2, 1), colours[0])
    picture.putpixel((1, 0), colours[1])
    picture.save(tmp_path / "a.png", transparency=colours[0] if key is None else key)
    expected = [[[255] * 3, np.broadcast_to(colours[1], 3)]]
    np.testing.assert_array_equal(levels(load_image(tmp_path / "a.png")), expected)


def test_load_image_blends_alpha_with_white(tmp_path):
    pixels = noise(16, 16, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] / 255 * alpha + (1 - alpha)
    np.testing.assert_allclose(
        load_image(tmp_path / "a.png")[0], expected, atol=0.5001 / 255
    )


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_load_image_of_16_bit_grey_keeps_its_precision(tmp_path, extension):
    values = np.array([[0, 1, 255, 256], [32767, 32768, 65534, 65535]], np.uint16)
    path = tmp_path / f"a.{extension}"
    Image.fromarray(values).save(path)
    image = load_image(path)
    np.testing.assert_allclose(image[0, ..., 0], values / 65535, rtol=1e-7)
    np.testing.assert_array_equal(np.rint(image[0, ..., 0] * 65535.0), values)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_load_image_of_a_big_endian_16_bit_tiff(tmp_path):
    picture = Image.new("I;16B", (1, 1), 32768)
    picture.save(tmp_path / "a.tif")
    assert load_image(tmp_path / "a.tif")[0, 0, 0, 0] == np.float32(32768 / 65535)


def test_load_image_of_16_bit_colour_is_8_bit(tmp_path):
    row = b"\0" + struct.pack(">6H", 0, 257 * 7, 257 * 128, 257 * 200, 65535, 257)
    (tmp_path / "a.png").write_bytes(hostile.png(2, 1, row, kind=(16, 2, 0)))
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "a.png")), [[[0, 7, 128], [200, 255, 1]]]
    )


def test_load_image_of_a_transparent_16_bit_grey():
    picture = Image.fromarray(np.array([[500, 13107]], np.uint16))
    picture.info["transparency"] = 500
    np.testing.assert_allclose(load_image(picture)[0, 0, :, 0], [1, 0.2], rtol=1e-6)


def test_load_image_of_32_bit_grey():
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
def test_load_image_refuses_32_bit_grey_of_another_scale(tmp_path, values, text):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.tif")
    assert "a.tif" in message(excinfo)
    assert "convert it to 8 or 16 bits" in message(excinfo)


def test_load_image_of_a_cmyk_jpeg_that_adobe_inverts(tmp_path):
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
def test_load_image_applies_exif_orientation(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](COLOURS)))
    stored.save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(levels(load_image(path)), COLOURS)
    with Image.open(path) as picture:
        np.testing.assert_array_equal(levels(load_image(picture)), COLOURS)


@pytest.mark.parametrize("orientation", STORED)
def test_load_image_applies_exif_orientation_of_a_jpeg(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.kron(COLOURS, np.ones((16, 16, 1), np.uint8))
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    stored.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    image = levels(load_image(tmp_path / "a.jpg"))
    np.testing.assert_allclose(image[8::16, 8::16], COLOURS, atol=3)


def test_load_image_applies_orientation_to_16_bit_grey(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.array([[0, 1000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.shape == (1, 3, 1, 3)
    np.testing.assert_allclose(image[0, :, 0, 0] * 65535, [0, 1000, 65535], rtol=1e-6)


def test_load_image_measures_size_upright(tmp_path):
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


def test_load_image_leaves_an_srgb_profile_alone(tmp_path):
    pixels = noise(32, 32)
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb_profile())
    np.testing.assert_array_equal(levels(load_image(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("extension", ["png", "tif", "webp", "jpg"])
def test_load_image_converts_a_profile_to_srgb(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    options = {"quality": 100} if extension == "jpg" else {"lossless": True}
    picture = Image.new("RGB", (16, 16), (200, 50, 120))
    picture.save(path, icc_profile=swapped_profile(), **options)
    tolerance = 3 if extension == "jpg" else 1
    np.testing.assert_allclose(
        levels(load_image(path))[8, 8], [50, 200, 120], atol=tolerance
    )


def test_load_image_converts_a_profile_under_alpha(tmp_path):
    picture = Image.new("RGBA", (2, 2), (200, 50, 120, 51))
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.png"))[0, 0], [214, 244, 228], atol=1
    )


def test_load_image_converts_a_profile_of_a_palette(tmp_path):
    picture = Image.new("P", (1, 1))
    picture.putpalette([200, 50, 120])
    picture.save(tmp_path / "a.png", icc_profile=swapped_profile())
    np.testing.assert_allclose(
        levels(load_image(tmp_path / "a.png"))[0, 0], [50, 200, 120], atol=1
    )


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_load_image_converts_a_grey_profile(tmp_path, mode):
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
def test_load_image_ignores_a_broken_or_foreign_profile(tmp_path, mode, profile):
    picture = Image.fromarray(COLOURS).convert(mode)
    picture.save(tmp_path / "a.tif", icc_profile=profile)
    np.testing.assert_array_equal(
        levels(load_image(tmp_path / "a.tif")), np.asarray(picture.convert("RGB"))
    )
