"""Hostile pictures become a picture or one clear line, in seconds and little memory."""

import io
import itertools
import json
import logging
import random
import re
import resource
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import hostile
import numpy as np
import pytest
from conftest import load_script
from hostile import EITHER, PICTURE, REFUSED
from PIL import Image

from tfstyle.cli import run as cli_run
from tfstyle.errors import ImageError, UsageError
from tfstyle.images import decoders, load_image, read_metadata, save_image

SECONDS, MEGABYTES = 5.0, 200.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("corpus")


@pytest.fixture(scope="module")
def corpus(folder):
    """The corpus, its verdicts, and what was written to standard error meanwhile."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", hostile.__file__, folder / "corpus"],
        capture_output=True,
        check=True,
        timeout=300,
        text=True,
        preexec_fn=(folder / "corpus").mkdir,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    cases = dict(lines[::2])
    verdicts = [hostile.Verdict(**verdict) for verdict in lines[1::2]]
    return cases, dict(zip(cases, verdicts, strict=True)), done.stderr


def found(data, source=None):
    """The verdict on bytes, which must not be wrong."""
    verdict = hostile.judge(io.BytesIO(data) if source is None else source)
    assert not verdict.wrong, verdict
    assert verdict.seconds < SECONDS and verdict.megabytes < MEGABYTES
    return verdict


# The corpus


def test_load_image_of_each_item_of_the_corpus(corpus):
    cases, verdicts, _ = corpus
    assert len(cases) > 500
    for name, expected in cases.items():
        verdict = verdicts[name]
        assert not verdict.wrong, (name, verdict)
        assert expected in (EITHER, verdict.outcome), (name, verdict)
    for outcome in (PICTURE, REFUSED):
        assert list(cases.values()).count(outcome) > 100


def test_load_image_takes_seconds_and_little_memory(corpus):
    for name, verdict in corpus[1].items():
        assert verdict.seconds < SECONDS, (name, verdict)
        assert verdict.megabytes < MEGABYTES, (name, verdict)


def test_load_image_begins_messages_with_the_name(corpus, folder):
    for name, verdict in corpus[1].items():
        if verdict.outcome == REFUSED:
            path = str(Path(folder) / "corpus" / name)
            # One that cannot be shown is written with escapes.
            shown = path if path.isprintable() else ascii(path)
            assert verdict.detail.startswith(f"{shown}: "), verdict


def test_load_image_prints_nothing(corpus):
    assert corpus[2] == ""


def test_stylize_command_refuses_or_reads_each_item(
    corpus, folder, tmp_path, capsys, monkeypatch, no_tensorflow
):
    def reached():
        raise UsageError("all pictures were read")

    monkeypatch.setattr(cli_run, "import_tensorflow", reached)
    from tfstyle.cli.main import main

    (tmp_path / "good.png").write_bytes(hostile.encoded(hostile.drawn(), "PNG"))
    cases, verdicts, _ = corpus
    for name in cases:
        words = [f"--style={tmp_path / 'good.png'}", f"--output={tmp_path / 'out.png'}"]
        code = main(["stylize", f"--content={folder / 'corpus' / name}", *words])
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), (name, err)
        assert err.startswith("tfstyle: ") and err[:-1].isprintable(), (name, err)
        if verdicts[name].outcome == PICTURE:
            assert (code, err) == (2, "tfstyle: all pictures were read\n"), name
        else:
            assert code in (1, 2) and verdicts[name].detail[:-20] in err, (name, err)
    assert [path.name for path in tmp_path.iterdir()] == ["good.png"]


@pytest.mark.parametrize(
    "name",
    ["pipe.png", "link-to-zero.png", "sparse.webp", "runs-skip.bmp", "scans.jpg"],
)
@pytest.mark.parametrize("flag", ["content", "style"])
def test_stylize_command_ends_in_its_own_process(corpus, folder, tmp_path, name, flag):
    good = tmp_path / "good.png"
    good.write_bytes(hostile.encoded(hostile.drawn(), "PNG"))
    pictures = {"content": good, "style": good, flag: folder / "corpus" / name}
    pictures["output"] = tmp_path / "out.png"
    words = [f"--{key}={value}" for key, value in pictures.items()]
    done = subprocess.run(
        [sys.executable, "-m", "tfstyle", "stylize", *words],
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)),
    )
    assert done.returncode in (1, 2)
    assert re.fullmatch(rf"tfstyle: \S*{name}: [^\n]+; [^\n]+\n", done.stderr)
    assert done.stdout == ""


@pytest.mark.slow
def test_apply_command_makes_all_pictures_that_can_be_read(corpus, folder, tmp_path):
    # A folder for each format, as results of one name would be refused.
    for path in (folder / "corpus").iterdir():
        place = tmp_path / "in" / path.suffix.removeprefix(".")
        place.mkdir(parents=True, exist_ok=True)
        (place / path.name).symlink_to(path)
    words = [
        "--size=16",
        f"--content={tmp_path / 'in'}",
        f"--output={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tfstyle", "apply", *words],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    *skipped, last = done.stderr.splitlines()
    assert all(line.startswith("tfstyle: skipped: ") for line in skipped)
    results = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    total = len(skipped) + len(results)
    assert last == f"tfstyle: {len(skipped)} of {total} pictures could not be stylized"
    assert len(results) > 250 and len(skipped) > 100
    for path in results:
        assert max(load_image(path).shape) <= 16


# What was found in other ways


def test_load_image_does_not_open_the_name_of_a_stream(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 1000)
    upload = io.BytesIO(hostile.bmp(32, 4, 8, bytes(range(128))))
    upload.name = str(secret)
    greens = np.arange(128).reshape(4, 32)[::-1] / 255
    np.testing.assert_allclose(load_image(upload)[0, :, :, 1], greens, atol=1e-6)


def test_load_image_of_a_file_that_fails_in_reading():
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    with pytest.raises(ImageError, match=r"the picture is .* \(Input/output error\)"):
        load_image(Broken(b"\x89PNG"))


def test_load_image_reads_no_more_than_a_file_has():
    class Recording(io.BytesIO):
        most = 0

        def read(self, size=-1):
            self.most = max(self.most, size)
            return super().read(size)

    data = hostile.png(9, 9, bytes(28 * 9))
    at = data.index(b"IDAT") - 4
    file = Recording(data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :])
    found(data, file)
    assert 0 < file.most <= len(data)


def test_load_image_refuses_a_large_file_unread(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(hostile.encoded(hostile.drawn(), "PNG"))
    monkeypatch.setattr(decoders, "MAX_BYTES", 50)
    with pytest.raises(ImageError, match=r"has 0 megabytes, over the limit of 0; sc"):
        load_image(path)
    monkeypatch.undo()
    assert 8192 * 6144 * 8 < decoders.MAX_BYTES < 2**31


def test_read_metadata_does_not_decode(corpus, folder, tmp_path):
    path = tmp_path / "a.png"
    text = hostile.chunk(b"tEXt", b"tfstyle\0{}")
    path.write_bytes(hostile.png(60_000, 60_000, b"", text))
    assert read_metadata(path) == {"tfstyle": "{}"}
    for name in ("exif-shared.webp", "exif-nested.png"):
        assert read_metadata(folder / "corpus" / name) == {}


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
def test_read_metadata_of_a_name_that_is_no_text(tmp_path, extension):
    path, texts = tmp_path / f"a.{extension}", {"tfstyle": '{"file": "a\udcff.png"}'}
    save_image(np.zeros((1, 2, 2, 3), np.float32), path, metadata=texts)
    assert json.loads(read_metadata(path)["tfstyle"]) == {"file": "a\udcff.png"}


def compressed_tiff(compression):
    data = hostile.tiff(5, 5, (259, 3, 1, compression), (279, 4, 1, 30))
    return data + bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        *(compressed_tiff(code) for code in (2, 3, 4, 5, 7, 8, 32773, 34925, 50001)),
        hostile.tiff(5, 5, (277, 3, 1, 769)),
        # An animation after the pixels, and one of no frames.
        hostile.png(1, 1, bytes(4))[:-12] + hostile.chunk(b"acTL", bytes(8)),
        hostile.png(1, 1, bytes(4), hostile.chunk(b"acTL", bytes(8))),
    ],
)
def test_load_image_keeps_libraries_silent(tmp_path, capfd, caplog, monkeypatch, data):
    (tmp_path / "a.tif").write_bytes(data)
    # What Python prints of a log that nobody has asked for.
    monkeypatch.setattr(caplog.handler, "level", logging.CRITICAL + 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found(data, tmp_path / "a.tif")
    assert said == []
    assert capfd.readouterr() == ("", "")


def test_pillows_log_has_a_null_handler():
    kinds = [type(handler) for handler in logging.getLogger("PIL").handlers]
    assert logging.NullHandler in kinds


def test_load_image_shows_messages_of_libraries_on_one_line(monkeypatch):
    def fail(*_, **__):
        raise ValueError("a\n\x1b[31mb\x00" + "c" * 999)

    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ImageError) as caught:
        load_image(Image.new("RGB", (2, 2)))
    assert str(caught.value).isprintable()
    assert r"('a \x1b[31mb\x00ccc" in str(caught.value)
    assert len(str(caught.value)) < 400


def test_load_image_refuses_a_tile_larger_than_any_picture(monkeypatch):
    packed = zlib.compress(bytes(300 * 300))
    tile = [(322, 3, 1, 300), (323, 3, 1, 300), (259, 3, 1, 8)]
    sizes = [(324, 4, 1, 0), (325, 4, 1, len(packed))]
    start = len(hostile.tiff(9, 9, *tile, *sizes))
    data = hostile.tiff(9, 9, *tile, (324, 4, 1, start), sizes[1]) + packed
    assert found(data).outcome == PICTURE
    monkeypatch.setattr(decoders, "MAX_PIXELS", 300 * 300)
    assert found(data).outcome == PICTURE
    monkeypatch.setattr(decoders, "MAX_PIXELS", 300 * 300 - 1)
    assert "there is too much in its tags" in found(data).detail


@pytest.mark.parametrize(
    ("kinds", "width", "cost"),
    [
        ((1, 2, 7), 1, 0),
        ((6,), 1, 1),
        ((3, 8), 2, 1),
        ((4, 9, 11, 13), 4, 1),
        ((12, 16, 17, 18), 8, 1),
        ((5, 10), 8, 200),
    ],
)
def test_load_image_limits_tags_to_file_and_picture(monkeypatch, kinds, width, cost):
    def is_refused(kind, number):
        detail = found(hostile.tiff(3, 2, (65000, kind, number, 8))).detail
        return "there is too much in its tags" in detail

    # The nine other tags are a number each, and take 28 bytes.
    room = (len(hostile.tiff(3, 2, (65000, 1, 1, 8))) - 28) // width
    for kind in kinds:
        assert not is_refused(kind, room)
        assert is_refused(kind, room + 1)
        for most in (9 + 5 * cost, 8 + 5 * cost):
            with monkeypatch.context() as patch:
                patch.setattr(decoders, "_MOST_TAG_NUMBERS", most)
                assert is_refused(kind, 5) == (most < 9 + 5 * cost)


# What is large or odd, and honest


def test_load_image_of_many_honest_parts():
    jpeg = hostile.encoded(hostile.drawn(), "JPEG")
    note = hostile.jpeg_segment(0xFE, b"a note")
    assert found(jpeg[:2] + note * 900 + jpeg[2:]).outcome == PICTURE
    texts = b"".join(hostile.chunk(b"tEXt", b"key%d\0value" % i) for i in range(1000))
    assert found(hostile.png(1, 1, bytes(4), texts)).outcome == PICTURE
    comment = hostile.encoded(hostile.drawn("P"), "GIF", comment=b"a" * 250_000)
    assert found(comment).outcome == PICTURE
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 7), np.uint8)
    strips = hostile.encoded(Image.fromarray(pixels), "TIFF", strip_size=7)
    np.testing.assert_allclose(
        load_image(io.BytesIO(strips))[0, ..., 0], pixels / 255, atol=1e-6
    )


def test_load_image_of_pixels_in_small_parts():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    packed = zlib.compress(rows, 0)
    parts = [packed[i : i + 256] for i in range(0, len(packed), 256)]
    start, _, _ = hostile.png(300, 200, b"").partition(b"\0\0\0\x08IDAT")
    data = start + b"".join(hostile.chunk(b"IDAT", part) for part in parts)
    data += hostile.chunk(b"IEND", b"")
    np.testing.assert_allclose(load_image(io.BytesIO(data))[0], pixels / 255, atol=1e-6)


def test_load_image_of_long_run_lengths():
    width, height = 4096, 700
    rows = b"".join(
        b"\xff\x05" * (width // 255) + bytes([width % 255, y % 256]) + b"\0\0"
        for y in range(height)
    )
    picture = load_image(
        io.BytesIO(hostile.bmp(width, height, 8, rows, run_lengths=True))
    )
    assert picture.shape == (1, height, width, 3)
    assert np.all(picture[0, :, 0, 1] == np.float32(5 / 255))
    last = np.float32((np.arange(height) % 256)[::-1] / 255)
    np.testing.assert_allclose(picture[0, :, -1, 1], last, atol=1e-6)


@pytest.mark.parametrize("prefixes", [0, 1, 2])
def test_load_image_of_exif_that_some_programs_write(prefixes):
    """The prefix of a JPEG's EXIF in a PNG, and a directory of EXIF's own in a TIFF."""
    tags = struct.pack("<HHII", 0x0112, 3, 1, 6) + bytes(4)
    exif = b"Exif\0\0" * prefixes + b"II*\0\x08\0\0\0\x01\0" + tags
    chunk = hostile.chunk(b"eXIf", exif)
    data = hostile.png(2, 1, b"\0" + bytes(range(6)), chunk)
    assert found(data).detail == "(1, 2, 1, 3)"


@pytest.mark.parametrize("compression", [1, 8])
def test_load_image_turns_a_tiff_with_a_directory_of_exif(tmp_path, compression):
    pixels = bytes(range(6))
    data = zlib.compress(pixels) if compression == 8 else pixels
    tags = [(0x0112, 3, 1, 6), (0x8769, 4, 1, 0), (273, 4, 1, 0)]
    tags += [(259, 3, 1, compression), (279, 4, 1, len(data))]
    end = len(hostile.tiff(3, 2, *tags))
    tags[1], tags[2] = (0x8769, 4, 1, end), (273, 4, 1, end + 18)
    exif = struct.pack("<HHHII", 1, 0x9000, 7, 4, 0) + bytes(4)
    path = tmp_path / "a.tif"
    path.write_bytes(hostile.tiff(3, 2, *tags) + exif + data)
    upright = np.array([[3, 0], [4, 1], [5, 2]]) / 255
    np.testing.assert_allclose(load_image(path)[0, ..., 0], upright, atol=1e-6)


# The fuzzer


@pytest.fixture(scope="module")
def fuzzer():
    return load_script("fuzz_images")


def test_fuzzer_makes_pictures_and_refusals(fuzzer, monkeypatch):
    monkeypatch.setattr(decoders, "MAX_PIXELS", 10**6)
    outcomes = [
        found(data).outcome for data in itertools.islice(fuzzer.inputs(7, list), 500)
    ]
    assert 20 < outcomes.count(PICTURE) < 250


def test_fuzzer_repeats_with_its_seed(fuzzer):
    one, two = (list(itertools.islice(fuzzer.inputs(7, list), 50)) for _ in range(2))
    assert one == two
    assert one != list(itertools.islice(fuzzer.inputs(8, list), 50))


@pytest.mark.parametrize("extension", hostile.FORMATS)
def test_fuzzer_takes_files_apart_and_together(fuzzer, extension):
    data = hostile.encoded(hostile.drawn(), hostile.FORMATS[extension])
    start = next(start for start in fuzzer.CONTAINERS if data.startswith(start))
    take_apart, put_together = fuzzer.CONTAINERS[start]
    parts = take_apart(data)
    assert len(parts) > 2 or extension == "webp"
    np.testing.assert_array_equal(
        load_image(io.BytesIO(put_together(parts))), load_image(io.BytesIO(data))
    )
    rng = random.Random(0)
    assert {fuzzer.mutate(data, rng, data) for _ in range(50)} != {data}


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        (np.full((1, 2, 2, 3), np.nan, np.float32), "no picture"),
        (np.full((1, 2, 2, 3), 1.5, np.float32), "no picture"),
        (np.zeros((1, 2, 2, 3)), "no picture"),
        (np.zeros((2, 2, 3), np.float32), "no picture"),
        (KeyError("x"), "other error"),
        (ImageError("two\nlines: a; b"), "odd message"),
        (ImageError("no way out"), "odd message"),
        (ImageError("a: b; c"), REFUSED),
        (np.zeros((1, 2, 2, 3), np.float32), PICTURE),
    ],
)
def test_judge_sees_what_is_wrong(monkeypatch, result, outcome):
    def read(source):
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(hostile, "load_image", read)
    verdict = hostile.judge(io.BytesIO())
    assert verdict.outcome == outcome
    assert verdict.wrong == (outcome not in (PICTURE, REFUSED))


def test_fuzzer_finds_crash_hang_and_memory(fuzzer, monkeypatch, tmp_path):
    # For the process of its own.
    monkeypatch.syspath_prepend(Path(fuzzer.__file__).parent)
    whole = hostile.encoded(hostile.drawn(), "PNG")
    worker = fuzzer.Worker(pixels=10**6, seconds=5.0, megabytes=200.0)
    try:
        assert worker.judge(whole, True).outcome == PICTURE
        assert worker.judge(b"x", False).outcome == REFUSED
        worker._limits = 5.0, -1.0
        assert worker.judge(whole, True).outcome == "memory"
        worker._limits = -1.0, 200.0
        assert worker.judge(whole, True).outcome == "slow"
        worker._process.kill()
        worker._process.join()
        assert worker.judge(whole, True).outcome == "crash"
        monkeypatch.setattr(fuzzer, "WAIT", 0.0)
        assert worker.judge(whole, True).outcome == "hang"
    finally:
        worker.close()
    fuzzer.keep(tmp_path / "finds", b"data", hostile.Verdict("crash", "why"))
    assert [p.read_bytes() for p in (tmp_path / "finds").iterdir()] == [b"data"]
