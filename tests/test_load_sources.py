"""Tests of ``load_image`` and ``load_batch`` by source, argument and size."""

import io
import os
import tempfile
import warnings

import hostile
import numpy as np
import pytest
from pictures import COLOURS, RNG, levels, message, noise
from PIL import Image

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import load_batch, load_image

pytestmark = pytest.mark.fast


def as_tensor(pictures):
    return pytest.importorskip("tensorflow").constant(np.stack(pictures))


# Pictures, open files and arrays


def test_load_image_leaves_a_pil_image_open(tmp_path):
    path = tmp_path / "a.gif"
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as picture:
        load_image(picture)
        picture.seek(1)
        np.testing.assert_array_equal(levels(load_image(picture))[0, 0], [0, 0, 255])


def test_load_image_closes_files_of_paths(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load_image(tmp_path / "a.png")
        with pytest.raises(ImageError):
            load_image(tmp_path / "b.png")


@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_load_image_of_an_open_file_equals_its_path(tmp_path, extension):
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


def test_load_image_refuses_bad_open_files_as_paths(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(hostile.png(50_000, 50_000, b""))
    with path.open("rb") as file, pytest.raises(ImageError, match=r"a\.png: 50000×50"):
        load_image(file)
    path.write_bytes(b"Just a text.\n")
    with path.open("rb") as file, pytest.raises(ImageError, match=r"a\.png: not a PNG"):
        load_image(file)
    with path.open() as file, pytest.raises(UsageError, match="open it with mode"):
        load_image(file)
    with pytest.raises(ImageError, match="source: the file is empty"):
        load_image(io.BytesIO())
    with tempfile.TemporaryFile() as file, pytest.raises(ImageError, match="source: "):
        load_image(file)


def test_load_image_refuses_a_pipe_that_is_open():
    read, write = os.pipe()
    os.close(write)
    text = r"read it into an io\.BytesIO first"
    with os.fdopen(read, "rb") as file, pytest.raises(UsageError, match=text):
        load_image(file)


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
def test_load_image_of_arrays_of_each_type(dtype, batch):
    top = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    array = (RNG.random((4, 5, 3)) * top).astype(dtype)
    image = load_image(array[None] if batch else array)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], array / top, rtol=1e-6)


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (1, 4, 5, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.bool_])
def test_load_image_of_grey_arrays(shape, dtype):
    array = RNG.integers(0, 2, shape).astype(dtype)
    image = load_image(array)
    top = 255 if dtype == np.uint8 else 1
    expected = np.repeat(array.reshape(1, 4, 5, 1), 3, -1).astype(np.float32) / top
    np.testing.assert_array_equal(image, expected)


def test_load_image_of_arrays_with_alpha():
    floats = load_image(np.array([[[0.8, 0.4, 0, 0.2]]]))
    np.testing.assert_allclose(floats[0, 0, 0], [0.96, 0.88, 0.8], rtol=1e-6)
    levels_ = load_image(np.array([[[200, 100, 0, 51]]], np.uint8))
    np.testing.assert_array_equal(levels(levels_)[0, 0], [244, 224, 204])


def test_load_image_copies_an_array():
    array = RNG.random((1, 3, 4, 3)).astype(np.float32)
    before = array.copy()
    load_image(array)[:] = 0
    np.testing.assert_array_equal(array, before)


def test_load_image_of_tensors():
    tf = pytest.importorskip("tensorflow")
    array = RNG.random((1, 3, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(load_image(tf.constant(array)), array)
    np.testing.assert_array_equal(load_image(tf.Variable(array)), array)
    half = tf.cast(array, tf.bfloat16)
    np.testing.assert_allclose(load_image(half), array, atol=1 / 128)


def test_load_image_clips_rounding_errors():
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
        (None, "source is None; give a path, an open file, a PIL.Image, an"),
        (object(), "source is of type object; give a path"),
        (b"a.png", "source is of type bytes; give a path"),
        (3 + 4j, r"source has shape \[\]"),
        ([[0.1, 0.2], [0.3]], "source is of type list and cannot be made an array"),
        (["a.png", "b.png"], "source is of type list; give a path"),
    ],
)
def test_load_image_refuses_other_types_shapes_and_ranges(array, text):
    with pytest.raises(UsageError, match=text) as excinfo:
        load_image(array)
    assert message(excinfo).startswith("source")


@pytest.mark.parametrize(
    "source", [None, np.full((2, 2, 3), 2.0), np.zeros((2, 2, 4)), io.BytesIO(b"x")]
)
def test_load_image_names_the_argument_that_it_is_told(source):
    with pytest.raises((UsageError, ImageError)) as excinfo:
        load_image(source, name="content")
    assert message(excinfo).startswith("content")


def test_load_image_refuses_a_closed_file():
    file = io.BytesIO(hostile.png(1, 1, bytes(4)))
    file.close()
    with pytest.raises(UsageError, match=r"source: cannot be read .*closed file"):
        load_image(file)


# Batches


@pytest.mark.parametrize("kind", [list, tuple, np.stack, as_tensor])
def test_load_batch_of_several_pictures(kind):
    pictures = [noise(6, 8) for _ in range(3)]
    batch = load_batch(kind(pictures), 4)
    assert batch.shape == (3, 3, 4, 3)
    assert batch.dtype == np.float32
    for picture, expected in zip(batch, pictures, strict=True):
        np.testing.assert_array_equal(picture, load_image(expected, 4)[0])


def test_load_batch_of_one_picture_equals_load_image(tmp_path):
    pixels = noise(6, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = load_image(pixels)
    sources = (tmp_path / "a.png", pixels, pixels[None], Image.fromarray(pixels))
    for source in (*sources, [pixels], [pixels[None]]):
        np.testing.assert_array_equal(load_batch(source), expected)


def test_load_batch_takes_options_of_load_image():
    pictures = np.zeros((2, 6, 8, 3))
    batch = load_batch(pictures, 12, size_of="shortest", allow_upscale=True)
    assert batch.shape == (2, 12, 16, 3)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ([], "no content picture: the list is empty"),
        (np.zeros((0, 4, 4, 3)), "no content picture"),
        (
            [np.zeros((6, 8, 3)), np.zeros((8, 6, 3))],
            r"the content pictures have several sizes \(8×6, 6×8\); a batch needs one",
        ),
        ([np.zeros((6, 8, 3)), None], r"content\[1\] is None; give a path"),
        (np.full((2, 4, 4, 3), 9.0), r"content\[0\] holds floats from 9 to 9"),
        (np.zeros((2, 4, 4, 3), "int64"), r"content\[0\] holds int64"),
        (np.zeros((2, 2, 4, 4, 3)), r"content has shape \[2, 2, 4, 4, 3\]"),
        ([np.zeros((2, 4, 4, 3))], r"content has shape \[2, 4, 4, 3\]"),
    ],
)
def test_load_batch_refuses_what_is_no_batch(source, text):
    with pytest.raises(UsageError, match=text) as excinfo:
        load_batch(source, name="content")
    message(excinfo)


# Size


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
def test_load_image_size_is_of_the_named_side(size, options, expected, dtype):
    image = load_image(np.zeros((60, 90, 3), dtype), size, **options)
    assert image.shape == (1, *expected, 3)
    assert image.dtype == np.float32


def test_load_image_keeps_a_pixel_of_each_side():
    assert load_image(np.zeros((1, 1000), np.uint8), 10).shape == (1, 1, 10, 3)


def test_load_image_resamples_as_pillow_does():
    pixels = noise(40, 60)
    expected = Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)
    image = load_image(pixels, 30, resample=Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(levels(image), np.asarray(expected))
    other = Image.fromarray(pixels).resize((30, 20), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(levels(load_image(pixels, 30)), np.asarray(other))


def test_load_image_resizes_16_bit_grey_precisely():
    ramp = np.tile(np.arange(30000, 30064, dtype=np.uint16), (64, 1))
    image = load_image(Image.fromarray(ramp), 32)
    expected = (30000.5 + 2 * np.arange(32)) / 65535
    np.testing.assert_allclose(image[0, 16, 4:-4, 0], expected[4:-4], atol=1e-6)


@pytest.mark.parametrize(
    "size", [0, -1, 1.5, 256.0, "256", True, float("nan"), (96, 64), np.ones((2, 2))]
)
def test_load_image_refuses_a_size_that_is_no_whole_number(size):
    text = "size is .*; give a whole number of pixels, at least 1"
    for load in (load_image, load_batch):
        with pytest.raises(UsageError, match=text) as excinfo:
            load(COLOURS, size)
        message(excinfo)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"size": (96, 64)}, r"size is \(96, 64\)"),
        ({"size_of": "width"}, 'size_of is .*"longest" or "shortest"'),
        ({"resample": "box"}, "resample is 'box'; give one of .*BOX"),
        ({"resample": 99}, "resample is 99"),
    ],
)
def test_load_image_refuses_options_before_it_reads(options, text):
    with pytest.raises(UsageError, match=text) as excinfo:
        load_image("no such file.png", **options)
    message(excinfo)


def test_load_image_refuses_a_size_over_the_limit():
    with pytest.raises(UsageError, match=r"1000000×1000, over the limit of 175 mega"):
        load_image(
            np.zeros((1, 1000), np.uint8),
            1000,
            size_of="shortest",
            allow_upscale=True,
        )
    with pytest.raises(UsageError, match="over the limit of 175 megapixels"):
        load_image(COLOURS, 10**400, allow_upscale=True)
    assert load_image(COLOURS, 10**400).shape == (1, 2, 3, 3)
