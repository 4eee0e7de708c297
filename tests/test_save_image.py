"""Tests of ``save_image``, ``encode_image`` and ``check_writable``."""

import json
import os

import numpy as np
import pytest
from pictures import COLOURS, levels, message, names, noise
from PIL import Image, PngImagePlugin

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import (
    check_writable,
    encode_image,
    load_image,
    save_image,
)

pytestmark = pytest.mark.fast


def test_save_image_of_png_is_exact(tmp_path):
    every_level = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.stack([every_level, every_level.T, every_level[::-1]], -1)
    image = load_image(pixels)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(load_image(tmp_path / "a.png"), image)
    assert names(tmp_path) == ["a.png"]


def test_save_image_rounds_and_clips(tmp_path):
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
def test_save_image_format_follows_from_the_extension(tmp_path, name, image_format):
    image = np.broadcast_to(np.float32([0.9, 0.5, 0.1]), (1, 20, 30, 3))
    save_image(image, tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        assert picture.format == image_format
        assert not picture.getexif()
    np.testing.assert_allclose(load_image(tmp_path / name), image, atol=3 / 255)


def test_save_image_leaves_the_array_alone(tmp_path):
    image = np.full((2, 2, 3), 0.3, np.float32)
    save_image(image, tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.float32(0.3))


def test_save_image_quality(tmp_path):
    image = load_image(noise(64, 64))
    for extension in ("jpg", "webp"):
        low, high = (tmp_path / f"{q}.{extension}" for q in (30, 95))
        save_image(image, low, quality=30)
        save_image(image, high)
        assert low.stat().st_size < 0.7 * high.stat().st_size
    with pytest.raises(UsageError, match="quality 101 is not within 1 to 100"):
        save_image(image, tmp_path / "a.jpg", quality=101)


def test_save_image_of_jpeg_keeps_colour_resolution(tmp_path):
    columns = np.tile(np.float32([[1, 0, 0], [0, 0, 1]]), (16, 8, 1))
    save_image(columns, tmp_path / "a.jpg")
    np.testing.assert_allclose(load_image(tmp_path / "a.jpg")[0], columns, atol=0.1)


def test_save_image_metadata_are_read_again(tmp_path):
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


def test_save_image_of_tensors(tmp_path):
    tf = pytest.importorskip("tensorflow")
    save_image(tf.fill([1, 2, 2, 3], 0.2), tmp_path / "a.png")
    assert (levels(load_image(tmp_path / "a.png")) == 51).all()


def test_save_image_obeys_the_umask(tmp_path):
    save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    (tmp_path / "plain").touch()
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_save_image_keeps_a_link(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").symlink_to(tmp_path / "folder" / "b.png")
    save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    assert (tmp_path / "a.png").is_symlink()
    assert names(tmp_path / "folder") == ["b.png"]


@pytest.mark.parametrize("failure", ["encode", "move"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError])
def test_save_image_failing_leaves_the_old_file(tmp_path, monkeypatch, failure, error):
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


def test_save_image_interrupted_leaves_no_file(tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.Image.Image.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_image(np.zeros((2, 2, 3)), tmp_path / "a.png")
    assert names(tmp_path) == []


def test_save_image_refuses_a_side_too_long_for_webp(tmp_path):
    with pytest.raises(ImageError, match=r"a\.webp: could not be written .*\.png"):
        save_image(np.zeros((1, 16384, 3)), tmp_path / "a.webp")
    assert names(tmp_path) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_save_image_refuses_nan_and_infinity(tmp_path, bad):
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
        ("b.png", "image is of type str; give an array or a tensor"),
        (None, "image is None; give an array or a tensor"),
    ],
)
def test_save_image_refuses_other_types_and_shapes(tmp_path, image, text):
    with pytest.raises(UsageError, match=text):
        save_image(image, tmp_path / "a.png")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quality": "95"}, "quality '95' is not within 1 to 100; give a whole"),
        ({"quality": 95.5}, "quality 95.5 is not within 1 to 100"),
        ({"metadata": {"steps": 3}}, "metadata is not a mapping from texts to texts"),
        ({"metadata": "tfstyle"}, "metadata is not a mapping"),
        ({"path": 3}, "path is of type int; give a path"),
    ],
)
def test_save_image_refuses_other_arguments(tmp_path, options, text):
    options = {"path": tmp_path / "a.png", **options}
    with pytest.raises(UsageError, match=text) as excinfo:
        save_image(np.zeros((2, 2, 3)), **options)
    message(excinfo)
    assert names(tmp_path) == []


def test_save_image_rounds_every_row_of_a_tall_picture(tmp_path):
    image = np.random.default_rng(0).uniform(-0.1, 1.1, (1, 600, 2, 3)).astype("f4")
    save_image(image, tmp_path / "a.png")
    expected = np.rint(np.clip(image[0], 0, 1) * np.float32(255))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), expected)
    image[0, 599, 1, 2] = np.nan
    with pytest.raises(ImageError, match="NaN or infinity"):
        save_image(image, tmp_path / "b.png")


# Refused beforehand


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
        ("loop.png", r"loop\.png: cannot be written to \(Too many .*choose another"),
        ("a" * 300 + ".png", "cannot be written to .*choose another name"),
        ("a\0.png", "cannot be written to .*choose another name"),
    ],
)
def test_check_writable_refuses_paths(tmp_path, check, name, text):
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
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
def test_check_writable_names_missing_permission(tmp_path, monkeypatch, refused, text):
    # Permission bits do not stop root, who may be running this.
    (tmp_path / "a.png").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / refused)
    with pytest.raises(UsageError, match=text):
        check_writable(tmp_path / "a.png")


def test_check_writable_touches_nothing(tmp_path, monkeypatch):
    check_writable(tmp_path / "new.png")
    assert names(tmp_path) == []
    (tmp_path / "old.webp").write_bytes(b"old")
    check_writable(tmp_path / "old.webp")
    assert (tmp_path / "old.webp").read_bytes() == b"old"
    monkeypatch.chdir(tmp_path)
    check_writable("here.jpg")


def test_check_writable_of_other_extensions(tmp_path):
    check_writable(tmp_path / "log.csv", extensions=())
    check_writable(tmp_path / "net.keras", extensions=[".keras"])
    with pytest.raises(UsageError, match=r"the extension \.png is not .*use \.keras$"):
        check_writable(tmp_path / "net.png", extensions=[".keras"])


# Encoding in memory


@pytest.mark.parametrize("extension", [".png", ".jpg", ".JPEG", ".webp"])
def test_encode_image_equals_the_file_of_save_image(tmp_path, extension):
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
        (np.zeros((2, 2, 3)), None, 95, UsageError, "None is not supported"),
        (np.zeros((2, 2, 3)), ".jpg", 0, UsageError, "quality 0 is not within"),
        (np.zeros((2, 2)), ".jpg", 95, UsageError, r"has shape \[2, 2\]"),
        (np.full((2, 2, 3), np.nan), ".png", 95, ImageError, "holds NaN"),
        (np.zeros((1, 16384, 3)), ".webp", 95, ImageError, "encoded as .webp .*a .png"),
    ],
)
def test_encode_image_refuses_other_arguments(image, extension, quality, error, text):
    with pytest.raises(error, match=text) as excinfo:
        encode_image(image, extension, quality=quality)
    message(excinfo)
