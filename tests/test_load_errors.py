"""Tests of files that ``load_image`` refuses."""

import os
import threading
import warnings

import hostile
import numpy as np
import pytest
from pictures import COLOURS, message, noise
from PIL import Image, PngImagePlugin

from tfstyle.errors import ImageError, UsageError
from tfstyle.images import (
    decoders,
    load_image,
)

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("name", ["none.png", "none/a.png", "bad\0.png"])
def test_load_image_refuses_a_missing_file(tmp_path, name):
    with pytest.raises(UsageError, match=r"no such file; check|cannot be opened"):
        load_image(tmp_path / name)


def test_load_image_refuses_a_path_through_a_file(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(UsageError, match=r"b\.png: no such file; check the path"):
        load_image(tmp_path / "a" / "b.png")


def test_load_image_refuses_a_folder(tmp_path):
    with pytest.raises(UsageError, match="is a folder; give a picture inside it"):
        load_image(tmp_path)


def test_load_image_refuses_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match=r"pipe\.png: is not a regular file"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(UsageError, match="/dev/null: is not a regular file"):
        load_image("/dev/null")


def test_load_image_refuses_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.touch()

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    text = r"a\.png: cannot be opened \(Permission denied\); check .* permissions"
    with pytest.raises(UsageError, match=text):
        load_image(path)


def test_load_image_shows_an_odd_name_on_one_line(tmp_path):
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
def test_load_image_refuses_files_that_are_no_picture(tmp_path, content, text):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.png")
    message(excinfo)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("extension", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_load_image_refuses_a_cut_off_picture(tmp_path, capfd, extension, part):
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


def test_load_image_refuses_a_png_with_a_flipped_bit(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(noise(64, 64)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged or cut off"):
        load_image(path)


@pytest.mark.parametrize("pillow_limit", [None, 100, 10**12])
@pytest.mark.parametrize(
    "bomb",
    [hostile.png(50_000, 50_000, b""), hostile.tiff(50_000, 50_000)],
    ids=["png", "tiff"],
)
def test_load_image_refuses_a_bomb(tmp_path, monkeypatch, bomb, pillow_limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    (tmp_path / "a.png").write_bytes(bomb)
    text = r"a\.png: 50000×50000 is 2500 megapixels, over the limit of 175; scale"
    with pytest.raises(ImageError, match=text) as excinfo:
        load_image(tmp_path / "a.png")
    message(excinfo)


@pytest.mark.parametrize("extension", ["png", "jpg", "gif", "bmp", "tif"])
def test_load_image_does_not_warn_at_pillows_limit(tmp_path, monkeypatch, extension):
    Image.fromarray(noise(10, 15)).save(tmp_path / f"a.{extension}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / f"a.{extension}").shape == (1, 10, 15, 3)


def test_max_pixels_is_below_pillows_limit():
    assert 8192 * 6144 < decoders.MAX_PIXELS < 2 * 89_478_485


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_load_image_refuses_an_all_transparent_file(tmp_path, mode):
    picture = Image.new(mode, (3, 3))
    options = {"transparency": 0} if mode == "P" else {}
    picture.save(tmp_path / "a.png", **options)
    text = r"a\.png: every pixel is transparent; lay it on a background first"
    with pytest.raises(ImageError, match=text):
        load_image(tmp_path / "a.png")


def test_load_image_refuses_an_all_transparent_array():
    with pytest.raises(ImageError, match="source: every pixel is transparent"):
        load_image(np.zeros((2, 2, 4), np.float32))


def test_load_image_ignores_corrupt_exif_in_silence(tmp_path, capfd):
    Image.fromarray(COLOURS).save(
        tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(tmp_path / "a.jpg").shape == (1, 2, 3, 3)
    assert capfd.readouterr() == ("", "")


def test_load_image_in_threads_leaves_warning_filters(tmp_path):
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


def test_load_image_names_full_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path)

    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match=r"a\.png: there is not enough memory to"):
        load_image(path)
