"""Tests of tfstyle/pipeline.py and the command batch."""

import faulthandler
import io
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile
import numpy as np
import psutil
import pytest
from conftest import draw, lively_network, load_script, no_memory
from hostile import PICTURE, REFUSED
from PIL import Image

import tfstyle
from tfstyle import load_image, save_image
from tfstyle.cli import batch as command
from tfstyle.errors import UsageError
from tfstyle.images import SAVE_FORMATS
from tfstyle.networks.apply import apply_style
from tfstyle.networks.style_net import save_network

beam = pytest.importorskip("apache_beam")
from apache_beam.io.filesystem import CompressionTypes  # noqa: E402
from apache_beam.io.filesystems import FileSystems  # noqa: E402
from apache_beam.runners.portability.fn_api_runner import FnApiRunner  # noqa: E402
from apache_beam.testing.util import assert_that  # noqa: E402

from tfstyle.batch import pipeline  # noqa: E402
from tfstyle.batch.pipeline import (  # noqa: E402
    NetworkHandler,
    OptimizerHandler,
    Picture,
    Places,
    StylizePictures,
)

PROGRAM = [sys.executable, "-m", "tfstyle.cli.main", "batch"]
HERE = "--workers=1"


def picture(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(number).uniform(size=[1, height, width, 3])


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"])


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture
def place(network, exports, tmp_path, monkeypatch):
    """The working directory, with ``model.keras`` and five files in ``photos``.

    A style of that network is exported only once.
    """

    def export_network(network, path, **options):
        kept = exports / str(options)
        if not kept.exists():
            export(network, kept, **options)
        shutil.copytree(kept, path)

    export = tfstyle.export_network
    monkeypatch.setattr("tfstyle.networks.export.export_network", export_network)
    monkeypatch.chdir(tmp_path)
    save_network(network, "model.keras")
    Path("photos/deep").mkdir(parents=True)
    save_image(picture(1), "photos/1.png")
    save_image(picture(2, 30, 20), "photos/deep/2.PNG")
    Image.fromarray(np.uint8(picture(3)[0] * 255)).save("photos/3.bmp")
    Path("photos/empty.jpg").touch()
    Path("photos/text.png").write_text("Just a text.\n")
    return tmp_path


def batch(*words: str) -> tuple[str, ...]:
    return ("batch", "--model=model.keras", "--output=out", HERE, *words)


def files(folder: str = "out") -> list[str]:
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in found)


def failures(file: str = "out/unreadable.jsonl") -> dict[str, str]:
    lines = [json.loads(line) for line in Path(file).read_text().splitlines()]
    assert all(set(line) == {"path", "reason"} for line in lines)
    found = {os.path.relpath(line["path"]): line["reason"] for line in lines}
    assert len(found) == len(lines)
    return found


def assert_same(file, result: np.ndarray) -> None:
    """A PNG file has a result, but for rounding to levels."""
    assert np.abs(load_image(file) - result).max() <= 1.01 / 255


# A run, and the next ones


def test_good_pictures_are_stylized_and_bad_ones_listed(run, place, network):
    code, out, err = run(*batch("--input=photos/**", "--style_name=b"))

    said = "5 pictures found, 3 stylized, 0 done before, 2 unreadable"
    assert (code, err) == (0, "")
    assert out == f"out: {said}, see out/unreadable.jsonl\n"
    assert files() == ["1.png", "3.png", "deep/2.PNG", "unreadable.jsonl"]
    assert failures() == {
        "photos/empty.jpg": "the file is empty; get or save it again",
        "photos/text.png": "not a PNG, JPEG, WebP, BMP, TIFF or GIF picture; convert "
        "it to PNG or JPEG first",
    }
    for source, result in (("1.png",) * 2, ("deep/2.PNG",) * 2, ("3.bmp", "3.png")):
        expected = apply_style(f"photos/{source}", "b", model=network)
        assert_same(f"out/{result}", expected)
    assert Image.open("out/1.png").text == {"Software": "tfstyle"}


def test_what_is_done_is_not_done_again(run, place):
    run(*batch("--input=photos/*"))
    first = Path("out/1.png").stat().st_mtime_ns
    Path("out/.tfstyle-batch").mkdir()
    Path("out/.tfstyle-batch/left").touch()  # by a run that was killed
    save_image(picture(4), "photos/4.png")
    save_image(picture(5), "photos/text.png")

    assert (
        "5 pictures found, 2 stylized, 2 done before, 1 unr"
        in run(*batch("--input=photos/*"))[1]
    )
    assert list(failures()) == ["photos/empty.jpg"]
    assert Path("out/1.png").stat().st_mtime_ns == first
    assert not Path("out/.tfstyle-batch").exists()

    Path("photos/empty.jpg").unlink()
    code, out, _ = run(*batch("--input=photos/*"))
    assert code == 0
    assert out == ("out: 4 pictures found, 0 stylized, 4 done before, 0 unreadable\n")
    assert Path("out/unreadable.jsonl").read_bytes() == b""


def test_results_inside_the_pattern_are_not_pictures(run, place):
    words = batch("--input=**.png,**.PNG", "--output=photos/out")
    words += ("--dead_letter=lists/bad.png",)
    for done in ("2 stylized, 0 done before", "0 stylized, 2 done before"):
        assert (
            f"3 pictures found, {done}, 1 unreadable, see lists/bad" in run(*words)[1]
        )
    assert files("photos/out") == ["photos/1.png", "photos/deep/2.PNG"]
    assert list(failures("lists/bad.png")) == ["photos/text.png"]
    assert files("lists") == ["bad.png"]


def test_two_pictures_of_one_name(run, place, network):
    save_image(picture(6), "photos/3.png")
    assert "2 pictures found, 1 styl" in run(*batch("--input=photos/3.*"))[1]
    assert_same("out/3.png", apply_style("photos/3.png", model=network))
    reason = failures()["photos/3.bmp"]
    assert reason.endswith("/photos/3.png is; rename it")
    assert f"would be written to {place}/out/3.png, as " in reason


def test_sizes_colours_and_odd_names(run, place, network):
    odd = Path(os.fsdecode(os.fsencode("photos/ä") + b"\xff.png"))
    Path("photos/1.png").rename(odd)
    words = ("--input=photos/*.png", "--color=content", "--size=16")
    assert "2 pictures found, 1 stylized" in run(*batch(*words))[1]
    how = {"model": network, "size": 16}
    result = Path("out", odd.name)
    assert_same(result, apply_style(odd, color="content", **how))
    assert np.abs(load_image(result) - apply_style(odd, **how)).mean() > 0.02


def test_a_picture_that_its_format_cannot_hold(run, place, monkeypatch):
    Image.new("RGB", (8, 6)).save("photos/wide.webp")
    monkeypatch.setattr(
        pipeline, "load_image", lambda file, size: np.zeros([1, 6, 16384, 3], "float32")
    )
    monkeypatch.setattr(pipeline._Network, "_stylized", lambda self, images: images)
    run(*batch("--input=photos/wide.webp"))
    assert "could not be encoded as .webp" in failures()["photos/wide.webp"]
    assert files() == ["unreadable.jsonl"]


def arrived() -> None:
    raise AssertionError("a picture went from one stage to another")


def test_pictures_stay_where_they_are_read(run, place, monkeypatch):
    # Beam encodes some to learn their size.
    monkeypatch.setattr(Picture, "__reduce__", lambda self: (arrived, ()))
    assert "3 stylized" in run(*batch("--input=photos/**"))[1]


def test_a_full_disk_is_told_in_one_line(run, place, monkeypatch):
    real = FileSystems.create

    def full(path, *args, **kwargs):
        file = real(path, *args, **kwargs)
        if "unreadable" not in path:
            file.write(b"half")
            file.close()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(FileSystems, "create", full)
    code, out, err = run(*batch("--input=photos/1.png"))
    assert (code, out) == (1, "")
    assert err == (
        f"tfstyle: the pipeline failed: {place}/out/1.png: could not be written: "
        "[Errno 28] No space left on device\n"
    )
    assert files() == []


def test_a_file_system_that_does_not_replace_files(place, monkeypatch):
    real = FileSystems.rename

    def rename(sources, targets):
        if Path(targets[0]).exists():
            raise OSError("it is there")
        real(sources, targets)

    monkeypatch.setattr(FileSystems, "rename", rename)
    for text in (b"one", b"two"):
        with pipeline._replaced(f"{place}/file", str(place), "text/plain") as file:
            file.write(text)
    assert Path("file").read_bytes() == b"two"
    assert files(".tfstyle-batch") == []


# Hostile pictures


@pytest.fixture
def corpus(place):
    """What to expect of the hostile pictures in ``corpus``, by path."""
    Path("flat").mkdir()
    expected = {case.name: case.expected for case in hostile.write_corpus("flat")}
    for path in Path("flat").iterdir():
        # A folder for each format, as results of one name would be refused.
        folder = Path("corpus", path.suffix.removeprefix("."))
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    paths = Path("corpus").rglob("*")
    return {path: expected[path.name] for path in paths if path.name in expected}


def outside():
    """What there is besides results, with what would tell of changes."""
    paths = (path for path in Path().rglob("*") if "out" not in path.parts)
    return {path: path.lstat()[6:7] + path.lstat()[8:] for path in paths}


def test_hostile_pictures_become_results_or_lines(run, corpus):
    before = outside()
    hostile._reset_peak()
    memory = hostile._peak()
    # A run that hangs could not be told to end.
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    try:
        code, out, err = run(*batch("--input=corpus/**", "--size=16"))
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert hostile._peak() - memory < 300  # megabytes

    failed, results = failures(), files()
    results.remove("unreadable.jsonl")
    said = f"{len(results)} stylized, 0 done before, {len(failed)} unreadable"
    found = f"{len(results) + len(failed)} pictures found, {said}"
    assert (code, err) == (0, "")
    assert out == f"out: {found}, see out/unreadable.jsonl\n"
    left_out = []
    for path, outcome in corpus.items():
        result = path if path.suffix in SAVE_FORMATS else path.with_suffix(".png")
        name = os.path.relpath(result, "corpus")
        reason = failed.get(str(path), "")
        if name in results:
            assert not reason and outcome != REFUSED, path
            assert max(load_image(f"out/{name}").shape[1:3]) <= 16
        elif not reason:
            left_out.append(path.name)
        elif outcome == PICTURE:
            assert "pixels is too small: each side needs" in reason
        assert reason.isprintable() and len(reason) < 900
        assert not re.match(r"\w+Error", reason)
    # Beam lists files, and those that links lead to.
    assert sorted(left_out) == [
        "folder.png",
        "link-to-folder.png",
        "link-to-itself.png",
        "link-to-nowhere.png",
    ]
    assert outside() == before


def test_pictures_from_elsewhere_come_as_they_are(place, monkeypatch):
    def opened(path, compression_type):
        assert path == "gs://bucket/1.png.gz"
        assert compression_type == CompressionTypes.UNCOMPRESSED
        return Path("photos/1.png").open("rb")

    monkeypatch.setattr(FileSystems, "open", opened)
    pixels = pipeline._loaded("gs://bucket/1.png.gz", 16)
    np.testing.assert_array_equal(pixels, load_image("photos/1.png", 16))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_picture_that_takes_too_much_memory_is_a_failure(
    run, place, monkeypatch, which
):
    def stylized(self, images):
        if images.shape[1] == 30:
            raise no_memory()[which]
        return images

    monkeypatch.setattr(pipeline._Network, "_stylized", stylized)
    code, out, _ = run(*batch("--input=photos/**.png,photos/**.PNG"))
    assert code == 0
    assert "3 pictures found, 1 stylized, 0 done before, 2 unreadable" in out
    reason = failures()["photos/deep/2.PNG"]
    assert reason.startswith("there is not enough memory; choose a smaller size")


# Models


def test_pictures_of_all_shapes_at_once(network, monkeypatch):
    handler = NetworkHandler("a:1,b:3", model=network)
    shapes = [(24, 32), (20, 20), (24, 32), (4, 9), (70, 80), (24, 32)]
    pictures = [
        Picture(f"in/{i}", f"out/{i}", picture(i, *shape).astype("float32"))
        for i, shape in enumerate(shapes)
    ]
    monkeypatch.setattr(pipeline, "MOST_PIXELS", 2 * 24 * 32)
    model, batches = handler.load_model(), []
    run = model._run
    model._run = lambda images: batches.append(images.shape[:3]) or run(images)
    results = {result.path: result for result in model(pictures)}

    assert sorted(batches) == [(1, 20, 20), (1, 24, 32), (2, 24, 32)]
    assert len(results) == len(pictures)
    small = results.pop("in/3")
    assert small.reason.startswith("a picture of 9×4 pixels is too small: each side")
    for path, result in results.items():
        before = pictures[int(path[3:])]
        expected = apply_style(before.pixels, "a:1,b:3", model=network)
        np.testing.assert_allclose(result.pixels, expected, atol=1e-4)
        assert result.target == before.target


def test_little_memory_means_tiles_of_the_same_network(network, monkeypatch):
    handler = NetworkHandler("b", model=network, max_memory=0.75)
    seen = []

    def apply_network(network, images, blend, max_memory):
        seen.append((network.style_names, images.shape, blend.tolist(), max_memory))
        return images

    monkeypatch.setattr("tfstyle.networks.apply.apply_network", apply_network)
    pixels = picture(1).astype("float32")
    (result,) = handler.load_model()([Picture("in", "out", pixels)])
    assert seen == [(["a", "b"], (1, 24, 32, 3), [[0, 1]], 0.75)]
    np.testing.assert_array_equal(result.pixels, pixels)


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [(None, [16, 16, 8, 1, 1, 4]), (5, [*[5] * 8, 1, 1, 4])],
)
def test_batches_are_bounded_by_pixels(network, batch_size, expected):
    handler = NetworkHandler(model=network, batch_size=batch_size)
    shapes = [(128, 128)] * 40 + [(3000, 4000), (2500, 2000)] + [(8, 8)] * 4

    def blank(shape):
        pixels = np.broadcast_to(np.zeros([1, 1, 1, 3], "float32"), (1, *shape, 3))
        return Picture("", "", pixels)

    def found(sizes):
        assert sorted(sizes) == sorted(expected)

    with beam.Pipeline(runner=FnApiRunner()) as steps:
        batches = (
            steps
            | beam.Create(shapes, reshuffle=False)
            | beam.Map(blank)
            | beam.BatchElements(**handler.batch_elements_kwargs())
        )
        assert_that(batches | beam.Map(len), found)


def test_a_worker_takes_its_part_of_the_machine(network):
    pickled = beam.internal.pickler.dumps(NetworkHandler(model=network, workers=4))
    code = (
        "import sys, os; os.cpu_count = lambda: 12\n"
        "from apache_beam.internal import pickler\n"
        "handler = pickler.loads(sys.stdin.buffer.read())\n"
        "assert 'tensorflow' not in sys.modules\n"
        "model = handler.load_model()\n"
        "import tensorflow as tf; from tfstyle.stylizer.memory import memory_limit\n"
        "print(tf.config.threading.get_intra_op_parallelism_threads())\n"
        "print(model._max_memory * 4e9 / memory_limit(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, stdout=subprocess.PIPE, check=True
    )
    threads, share = done.stdout.split()
    assert int(threads) == 3
    assert float(share) == pytest.approx(1, rel=1e-3)


OPTIONS = ("--steps=3", "--scales=1", "--optimizer=adam", "--seed=3", "--size=20")


def test_paintings_are_what_pictures_are_optimised_to(run, place, tiny_backbone):
    save_image(picture(8), "a.png")
    save_image(picture(9), "b.png")
    words = ("--style=a.png:1,b.png:3", *OPTIONS, "--max_memory=3", "--workers=1")
    code, out, _ = run("batch", "--input=photos/**", "--output=out", *words)
    assert code == 0 and "5 pictures found, 3 stylized" in out
    result = tfstyle.stylize(
        "photos/deep/2.PNG",
        {"a.png": 1, "b.png": 3},
        steps=3,
        scales=1,
        optimizer="adam",
        seed=3,
        size=20,
    )
    assert_same("out/deep/2.PNG", result.image)
    assert load_image("out/1.png").shape == (1, 15, 20, 3)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_run_that_takes_too_much_memory_is_a_failure(place, monkeypatch, which):
    def full(pixels, style, **options):
        raise no_memory()[which]

    monkeypatch.setattr(pipeline, "stylize", full)
    (failure,) = OptimizerHandler("photos/1.png").load_model()(
        [Picture("in", "out", picture(1))]
    )
    assert failure.reason.startswith("there is not enough memory")


@pytest.mark.parametrize(("words", "size"), [((), 512), (("--size=20",), 20)])
def test_pictures_are_read_at_the_size_of_the_result(
    run, place, monkeypatch, tiny_backbone, words, size
):
    sizes = []

    def load(file, size):
        sizes.append(size)
        return load_image(file, size)

    def stylize(pixels, style, **options):
        sizes.append(options["size"])
        return type("Result", (), {"image": pixels})

    monkeypatch.setattr(pipeline, "load_image", load)
    monkeypatch.setattr(pipeline, "stylize", stylize)
    paths = ("--style=photos/1.png", "--input=photos/3.bmp", "--output=out", HERE)
    assert "1 stylized" in run("batch", *paths, *words)[1]
    assert sizes == [size, size]


def test_a_picture_that_cannot_be_optimised_is_a_failure(place, monkeypatch):
    seen = []

    def refuse(pixels, style, **options):
        assert [load_image(file).shape for file, _ in style] == [(1, 24, 32, 3)]
        seen.append(options)
        raise UsageError("too small\nfor this")

    monkeypatch.setattr(pipeline, "stylize", refuse)
    monkeypatch.setattr(pipeline, "make_repeatable", lambda o: seen.append(vars(o)))
    options = {"content_layers": ["relu2_1"], "style_layers": ["relu1_1"], "seed": 5}
    handler = OptimizerHandler("photos/1.png", max_memory=2.5, **options)
    (failure,) = handler.load_model()([Picture("in", "out", picture(1))])
    assert failure == pipeline.Failure("in", "too small for this")
    assert len(seen) == 2 and seen[0] == seen[1]
    assert seen[0].items() >= {"max_memory": 2.5, **options}.items()
    with pytest.raises(UsageError, match="has no layer 'relu9_1'"):
        OptimizerHandler("photos/1.png", style_layers=["relu9_1"])
    with pytest.raises(UsageError, match="style_scale has 2 numbers for 1 styles"):
        OptimizerHandler("photos/1.png", style_scale=[1, 2])


# Places


@pytest.mark.parametrize(
    ("patterns", "common"),
    [
        (["/photos/*.jpg"], "/photos"),
        (["/photos/2020/img*"], "/photos/2020"),
        (["/photos/20??/*"], "/photos"),
        (["/photos/a[12]/**"], "/photos"),
        (["/photos/2020/*", "/photos/2021/x/*"], "/photos"),
        (["/photos/a.jpg"], "/photos"),
        (["gs://bucket/photos/**.png"], "gs://bucket/photos"),
        (["gs://one/*", "gs://two/*"], "gs:/"),
        (["/*.jpg"], ""),
    ],
)
def test_the_folder_that_names_begin_after(patterns, common):
    assert Places.of(patterns, "/out").common == common


def test_names_of_results(place):
    places = Places.of(["photos/*", "photos/deep/*"], "out")
    found = [pair for each in places.patterns for pair in places.match(each)]
    names = [name.decode() for name, _ in found]
    assert sorted(names) == ["1.png", "3.png", "deep/2.PNG", "empty.jpg", "text.png"]
    assert all(path.startswith(os.fsencode(place)) for _, path in found)
    assert places.dead_letter == f"{place}/out/unreadable.jsonl"
    assert Places.of("gs://b/*", "gs://c/out/").output == "gs://c/out"


@pytest.mark.parametrize("output", ["photos", "photos/", ".", "photos/deep/.."])
def test_results_do_not_go_where_the_pictures_are(place, output):
    with pytest.raises(UsageError, match="the pictures are in this folder; give the"):
        Places.of("photos/*", output)


# From Python, and other runners


def test_a_pipeline_of_ones_own(place, network):
    def one_of_each(lines):
        reasons = [json.loads(line)["reason"] for line in lines]
        assert len(reasons) == 2 and any("empty" in reason for reason in reasons)

    with beam.Pipeline(runner=FnApiRunner()) as steps:
        transform = StylizePictures("photos/*", "out", NetworkHandler(model=network))
        assert_that(steps | transform, one_of_each)
    assert files() == ["1.png", "3.png", "unreadable.jsonl"]


def test_any_runner_by_the_flags_of_beam(run, place):
    runner = ("--", "--runner=PortableRunner", "--job_endpoint=embed")
    runner += ("--environment_type=LOOPBACK",)
    code, out, _ = run(*batch("--input=photos/*", *runner))
    assert code == 0
    assert "out: 4 pictures found, 2 stylized, 0 done before, 2 unreadable" in out
    code, out, err = run(*batch("--input=none/*", "--", "--runner=FnApiRunner"))
    assert (code, out) == (2, "")
    assert err == "tfstyle: --input=none/*: no picture matches\n"


# What is refused


PICTURES = "--input=photos/*"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--input is missing"),
        (("--input=none/*.jpg",), "--input=none/*.jpg: no picture matches"),
        (("--input=photos",), "photos: is a folder; give a pattern, such as '/"),
        (("--input=gs://bucket/*",), "the pictures cannot be listed: Unable to get"),
        ((PICTURES, "--output=out.png"), "the results need a folder"),
        ((PICTURES, "--output=photos"), "photos: the pictures are in this folder"),
        ((PICTURES, "--output=model.keras/x"), "the folder cannot be made (Not a dir"),
        ((PICTURES, "--dead_letter=model.keras/x"), "--dead_letter="),
        ((PICTURES, "--style_name=c"), "there is no style 'c'"),
        ((PICTURES, "--model=none.keras"), "none.keras: no such file"),
        ((PICTURES, "--steps=3"), "--steps: a trained style has no such option; give"),
        ((PICTURES, "--color=match"), "a trained style, choose one of style, content"),
        ((PICTURES, "--style=a.png"), "--style and --model: give one of them"),
        ((PICTURES, "--size=0"), "--size=0: give"),
        ((PICTURES, "--size_of=shortest"), "there is no flag --size_of"),
        (
            (PICTURES, "--", "--direct_num_workers=x"),
            "Beam says: argument --direct_num",
        ),
        ((PICTURES, "--", "--runner=No"), "Unexpected pipeline runner: No"),
        (("photos/1.png", PICTURES), "'photos/1.png' is no flag"),
        (("photos/1.png", "--", "--runner=No"), "'photos/1.png' is no flag"),
    ],
)
def test_refusals(refused, place, words, message):
    before = files(".")
    code, err = refused(*batch(*words))
    assert code == (1 if "--runner=No" in words and PICTURES in words else 2)
    assert message in err
    assert files(".") == before


def test_paintings_are_checked_first(refused, place, no_tensorflow):
    words = ("batch", PICTURES, "--output=out", "--style=photos/1.png")
    assert "--style and --style_name" in refused(*words, "--style_name=a")[1]
    assert "steps=[0]: give" in refused(*words, "--steps=0")[1]
    assert not Path("out").exists()


def test_beam_that_is_not_installed(refused, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "tfstyle.batch.pipeline")
    code, err = refused(*batch(PICTURES))
    assert code == 2
    assert "apache-beam is not installed" in err
    assert err.endswith("pip install 'tfstyle[beam]'\n")


def test_what_beam_logs_is_for_debugging(caplog):
    with command.quiet_beam(debug=False):
        logging.getLogger("apache_beam").error("hidden")
    with command.quiet_beam(debug=True):
        logging.getLogger("apache_beam").error("shown")
    assert [record.message for record in caplog.records] == ["shown"]


def test_as_many_workers_as_memory_is_for(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    memory = type("Memory", (), {"total": 10e9})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert command.default_workers() == 5
    memory.total = 1e9
    assert command.default_workers() == 1
    memory.total = 1e12
    assert command.default_workers() == 8


def test_a_bar_follows_the_results(place, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    Path("out").mkdir()
    Path("out/1.png").touch()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with command.progress_bar(Places.of("photos/*", "out"), 4):
        Path("out/2.png").touch()
        time.sleep(1.5)
    assert "1/4" in terminal.getvalue() and "2/4" in terminal.getvalue()


# Worker processes


MANY = 60


@pytest.fixture
def many(tmp_path, monkeypatch):
    """The working directory, with 60 files in ``photos``, of which one is damaged."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    wide = draw(200, 256 + MANY, (40, 30, 24))
    for i in range(MANY):
        save_image(wide[:, :, i : i + 256], f"photos/{i}.png")
    whole = Path("photos/7.png").read_bytes()
    Path("photos/7.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def begin() -> subprocess.Popen:
    """Two workers in a process group of their own, which are at work on return."""
    words = ("--style_name=waves", "--input=photos/*", "--output=out", "--workers=2")
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*PROGRAM, *words], start_new_session=True, **piped)
    before = len(list(Path("out").glob("*.png")))
    while len(list(Path("out").glob("*.png"))) < min(before + 5, MANY - 1):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


def stamps() -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path("out").glob("*.png")}


def test_killed_midway_and_run_again(many):
    killed = begin()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    first = stamps()
    assert 5 <= len(first) < MANY - 1
    assert all(load_image(f"out/{name}").shape == (1, 200, 256, 3) for name in first)

    out, err = begin().communicate(timeout=300)
    counts = f"{MANY - 1 - len(first)} stylized, {len(first)} done before, 1 unreadable"
    assert err == ""
    assert out == f"out: {MANY} pictures found, {counts}, see out/unreadable.jsonl\n"
    last = stamps()
    assert sorted(last) == sorted(f"{i}.png" for i in range(MANY) if i != 7)
    assert {name: last[name] for name in first} == first
    assert list(failures()) == ["photos/7.png"]
    assert not Path("out/.tfstyle-batch").exists()
    for name in ("0.png", "31.png", "59.png"):
        assert_same(f"out/{name}", apply_style(f"photos/{name}", "waves"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "number", "code", "message"),
    [
        ("group", signal.SIGINT, 130, "stopped; the same command goes on"),
        ("parent", signal.SIGTERM, 143, "stopped; the same command goes on"),
        ("parent", signal.SIGKILL, -9, ""),
        ("worker", signal.SIGKILL, 1, "a worker process was ended, perhaps for want"),
    ],
)
def test_all_processes_end_together(many, victim, number, code, message):
    process = begin()
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    if victim == "group":
        os.killpg(process.pid, number)
    else:
        os.kill(workers[0].pid if victim == "worker" else process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.startswith(f"tfstyle: {message}" if message else "")
    assert err.count("\n") == bool(message)
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert all(load_image(f"out/{name}").shape[0] == 1 for name in stamps())


# The measurement


@pytest.fixture
def measure(monkeypatch):
    """``scripts/measure_batch.py``, with 11 pictures of 16 pixels and two repeats."""
    script = load_script("measure_batch")
    for name, value in (("pictures", 11), ("side", 16), ("repeats", 2), ("workers", 2)):
        monkeypatch.setattr(script.FLAGS[name], "value", value)
    return script


def test_what_is_measured_is_compared_after_the_start(measure, monkeypatch, capsys):
    calls = []

    def run_here(command, pictures, words):
        number = len(list(pictures.glob("*.jpg")))
        sizes = {load_image(file).shape for file in pictures.iterdir()}
        calls.append((command, number, sizes, words[0]))
        start, each = {"apply": (3.0, 0.5), "batch": (11.0, 0.2)}[command]
        seconds = start + each * (number - 1)
        return measure.Cost(seconds, 2 * each * (number - 1), 700.0 + number, 0.25)

    monkeypatch.setattr(measure, "run", run_here)
    measure.main([])
    out = capsys.readouterr().out
    assert "11 pictures of 16×16, medians of 2, 2 workers" in out
    assert "| apply | 8.0 | 3.0 | 2.0 | 1.0 | 711 MB | +0.2 MB/min |" in out
    assert "| batch | 13.0 | 11.0 | 5.0 | 2.5 | 711 MB | +0.2 MB/min |" in out
    assert "batch takes 1.62 of apply's time, 0.40 after the start, and 0.40" in out
    shape = {(1, 16, 16, 3)}
    assert calls == 2 * [
        (command, number, shape, "--style_name=waves")
        for number in (1, 11)
        for command in ("apply", "batch")
    ]


def test_a_run_without_all_results_is_not_measured(measure, tmp_path):
    measure.make_pictures(tmp_path / "one", 1, 16)
    with pytest.raises(RuntimeError, match="presets: 1 results missing: tfstyle: "):
        measure.run("presets", tmp_path / "one", [])
