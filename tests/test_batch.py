"""Tests of tfstyle.batch and of the command batch."""

import contextlib
import faulthandler
import glob
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import hostile
import numpy as np
import psutil
import pytest
from conftest import lively_network, load_script, no_memory
from hostile import PICTURE, REFUSED
from object_store import object_store
from PIL import Image

import tfstyle
from tfstyle import load_image, save_image
from tfstyle.batch import Counts, Stylize, stores, stylize_folder
from tfstyle.batch import run as runs
from tfstyle.batch.places import Places
from tfstyle.cli import main as cli
from tfstyle.errors import MissingExtraError, TfstyleError, UsageError
from tfstyle.images import SAVE_FORMATS
from tfstyle.networks.style_net import apply_style, load_network, save_network

PROGRAM = [sys.executable, "-m", "tfstyle", "batch"]
"""With Ray; everything else runs in this process, see ``here``."""


def picture(number: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(number).uniform(size=[1, height, width, 3])


class Here:
    """Stands in for ``ray`` and its datasets: all work is done in this process."""

    def __init__(self, rows=()):
        self.data, self.rows = self, rows

    def from_items(self, items):
        return Here(items)

    def flat_map(self, function, num_cpus):
        return Here(row for item in self.rows for row in function(item))

    def map_batches(self, kind, fn_constructor_args, **options):
        # Workers get what they need as bytes.
        worker = kind(*pickle.loads(pickle.dumps(fn_constructor_args)))
        return Here(worker({name: [row[name]] for name in row}) for row in self.rows)

    def iter_batches(self, **options):
        return iter(self.rows)

    def ActorPoolStrategy(self, size):  # noqa: N802
        return size

    def cluster_resources(self):
        return {"CPU": 2}


@pytest.fixture
def here(monkeypatch):
    """Makes runs work in this process, without Ray."""
    monkeypatch.setattr(runs, "_ray", lambda *_: contextlib.nullcontext(Here()))
    monkeypatch.setattr(runs, "_restarted", lambda: False)


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"])


@pytest.fixture
def place(network, tmp_path, monkeypatch):
    """The working directory, with ``model.keras`` and five files in ``photos``."""
    monkeypatch.chdir(tmp_path)
    save_network(network, "model.keras")
    Path("photos/deep").mkdir(parents=True)
    save_image(picture(1), "photos/1.png")
    save_image(picture(2, 30, 20), "photos/deep/2.PNG")
    Image.fromarray(np.uint8(picture(3)[0] * 255)).save("photos/3.bmp")
    Path("photos/empty.jpg").touch()
    Path("photos/text.png").write_text("Just a text.\n")
    return tmp_path


FIRST = "; style a, the first of a, b"
"""What a run says of its style where none is named."""


def batch(*words: str) -> tuple[str, ...]:
    return ("batch", "--model=model.keras", "--output=out", *words)


def files(folder: str = "out") -> list[str]:
    """The files that anybody sees."""
    found = (path for path in Path(folder).rglob("[!.]*") if path.is_file())
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


def test_the_function_takes_paths(place, here, network):
    photo, output = Path("photos/1.png"), Path("out")
    assert stylize_folder([photo], output, model="model.keras").stylized == 1
    assert stylize_folder(photo, output, model="model.keras").skipped == 1
    with pytest.raises(UsageError, match="content: give at least one picture"):
        stylize_folder([], output, model="model.keras")


def test_a_link_is_made_again_when_its_picture_is_newer(place, here):
    Path("links").mkdir()
    Path("links/a.png").symlink_to(Path("photos/1.png").resolve())
    assert stylize_folder("links", "out", model="model.keras").stylized == 1
    assert stylize_folder("links", "out", model="model.keras").skipped == 1
    later = time.time() + 5
    os.utime("photos/1.png", (later, later))
    assert stylize_folder("links", "out", model="model.keras").stylized == 1


def test_a_store_that_fails_is_named_in_one_line(place, here, monkeypatch):
    def fails(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stores.Store, "read", fails)
    with pytest.raises(UsageError, match=r"out: .*Permission denied"):
        stylize_folder("photos", "out", model="model.keras")
    monkeypatch.setattr(stores.Store, "is_folder", fails)
    with pytest.raises(UsageError, match=r"photos: .*Permission denied"):
        stylize_folder("photos", "out", model="model.keras")


def test_batch_stylizes_good_pictures_and_lists_bad_ones(run, place, here, network):
    code, out, err = run(*batch("--content=photos/**", "--style_name=b"))

    said = "5 pictures found, 3 stylized, 0 done before, 2 unreadable"
    assert (code, err) == (1, "")
    assert out == f"out: {said}, see {place}/out/unreadable.jsonl\n"
    assert files() == ["1.png", "3.png", "deep/2.PNG", "unreadable.jsonl"]
    failed = failures()
    assert "empty" in failed.pop("photos/empty.jpg")
    assert "not a PNG" in failed.pop("photos/text.png")
    assert not failed
    for source, result in (("1.png",) * 2, ("deep/2.PNG",) * 2, ("3.bmp", "3.png")):
        expected = apply_style(f"photos/{source}", "b", model=network)
        assert_same(f"out/{result}", expected)
    assert Image.open("out/1.png").text == {"Software": "tfstyle"}


def test_batch_does_nothing_twice(run, place, here):
    run(*batch("--content=photos/*"))
    first = Path("out/1.png").stat().st_mtime_ns
    Path("out/.tfstyle-batch").mkdir()
    Path("out/.tfstyle-batch/left").touch()  # by a run that was killed
    save_image(picture(4), "photos/4.png")
    save_image(picture(5), "photos/text.png")

    said = run(*batch("--content=photos/*"))[1]
    assert "5 pictures found, 2 stylized, 2 done before, 1 unreadable" in said
    assert list(failures()) == ["photos/empty.jpg"]
    assert Path("out/1.png").stat().st_mtime_ns == first
    assert not Path("out/.tfstyle-batch").exists()

    Path("photos/empty.jpg").unlink()
    code, out, _ = run(*batch("--content=photos/*"))
    assert code == 0
    assert (
        out
        == f"out: 4 pictures found, 0 stylized, 4 done before, 0 unreadable{FIRST}\n"
    )
    assert Path("out/unreadable.jsonl").read_bytes() == b""


def test_batch_stylizes_a_picture_that_changed_again(run, place, here, network):
    run(*batch("--content=photos/[13]*"))
    save_image(picture(4), "photos/1.png")
    code, out, _ = run(*batch("--content=photos/[13]*"))
    assert code == 0
    assert (
        out
        == f"out: 2 pictures found, 1 stylized, 1 done before, 0 unreadable{FIRST}\n"
    )
    assert_same("out/1.png", apply_style("photos/1.png", "a", model=network))
    _, out, _ = run(*batch("--content=photos/[13]*"))
    assert "0 stylized, 2 done before" in out


def test_an_interrupt_that_python_drops_ends_a_batch(place, monkeypatch, capsys):
    save_image(picture(0), "photos/a.png")

    def interrupted(*_, progress, **__):
        with contextlib.suppress(KeyboardInterrupt):  # as in a destructor
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        progress(1)
        return Counts(1, 1, 0, 0)

    monkeypatch.setattr("tfstyle.cli.batch.stylize_folder", interrupted)
    assert cli.main(["batch", "photos", "out"]) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--style_name=b",), "style (None, now b)"),
        (("--size=16",), "size (None, now 16)"),
        (("--color=content",), "color (style, now content)"),
        (("--model=other.keras",), "model;"),
        (("--content=photos/deep/*",), "pictures"),
    ],
)
def test_batch_refuses_results_of_other_settings(
    run, refused, place, here, words, named
):
    run(*batch("--content=photos/*"))
    save_network(lively_network(["a", "b", "c"]), "other.keras")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    code, err = refused(*batch("--content=photos/*", *words))
    assert code == 2
    assert named in err and "/out: " in err and ".tfstyle.json" in err
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_batch_says_that_settings_are_damaged(run, refused, place, here):
    run(*batch("--content=photos/*"))
    for text in ("{", "[1]"):
        Path("out/.tfstyle.json").write_text(text)
        assert ".tfstyle.json: is damaged" in refused(*batch("--content=photos/*"))[1]


def test_batch_leaves_results_out_of_a_pattern(run, place, here):
    words = batch("--content=**.png,**.PNG", "--output=photos/out")
    words += ("--dead_letter=photos/bad.png",)
    for done in ("2 stylized, 0 done before", "0 stylized, 2 done before"):
        said = run(*words)[1]
        assert f"3 pictures found, {done}, 1 unreadable" in said
        assert f"see {place}/photos/bad.png" in said
    assert files("photos/out") == ["photos/1.png", "photos/deep/2.PNG"]
    assert list(failures("photos/bad.png")) == ["photos/text.png"]
    assert not Path("photos/.tfstyle-batch").exists()


def test_batch_lists_the_second_picture_of_a_name(run, place, here, network):
    save_image(picture(6), "photos/3.png")
    assert "2 pictures found, 1 styl" in run(*batch("--content=photos/3.*"))[1]
    assert_same("out/3.png", apply_style("photos/3.png", model=network))
    reason = failures()["photos/3.bmp"]
    assert "/photos/3.png" in reason and "rename" in reason


def test_batch_keeps_sizes_colours_and_odd_names(run, place, here, network):
    odd = Path(os.fsdecode(os.fsencode("photos/ä") + b"\xff.png"))
    Path("photos/1.png").rename(odd)
    words = ("--content=photos/*.png", "--color=content", "--size=16")
    assert "2 pictures found, 1 stylized" in run(*batch(*words))[1]
    how = {"model": network, "size": 16}
    result = Path("out", odd.name)
    assert_same(result, apply_style(odd, color="content", **how))
    assert np.abs(load_image(result) - apply_style(odd, **how)).mean() > 0.02


def test_batch_lists_a_picture_that_its_format_cannot_hold(
    run, place, here, monkeypatch
):
    Image.new("RGB", (8, 6)).save("photos/wide.webp")
    wide = np.zeros([6, 16384, 3], "float32")
    monkeypatch.setattr(Stylize, "stylize", lambda self, pictures: iter([wide]))
    run(*batch("--content=photos/wide.webp"))
    assert "could not be encoded as .webp" in failures()["photos/wide.webp"]
    assert files() == ["unreadable.jsonl"]


def test_batch_tells_of_a_full_disk_in_one_line(run, place, here, monkeypatch):
    real = Path.write_bytes

    def write(path, content):
        if ".tfstyle-batch" in path.parts and len(content) > 1000:  # not the settings
            real(path, content[:100])
            raise OSError(28, "No space left on device")
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    code, out, err = run(*batch("--content=photos/1.png"))
    assert (code, out) == (1, "")
    assert err.startswith(f"tfstyle: {place}/out/1.png: could not be written: ")
    assert "No space left" in err and err.count("\n") == 1
    assert files() == [] and not Path("out/.tfstyle-batch").exists()


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


def test_batch_makes_results_or_lines_of_hostile_pictures(run, corpus, here):
    before = outside()
    hostile._reset_peak()
    memory = hostile._peak()
    # A run that hangs could not be told to end.
    faulthandler.dump_traceback_later(300, exit=True, file=sys.__stderr__)
    try:
        code, out, err = run(*batch("--content=corpus/**", "--size=16"))
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert hostile._peak() - memory < 300  # megabytes

    failed, results = failures(), files()
    results.remove("unreadable.jsonl")
    said = f"{len(results)} stylized, 0 done before, {len(failed)} unreadable"
    assert (code, err) == (1, "")
    assert f"out: {len(results) + len(failed)} pictures found, {said}" in out
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
    assert sorted(left_out) == ["folder.png", "link-to-folder.png"]
    assert outside() == before


@pytest.mark.parametrize("which", [0, 1, 2])
def test_batch_lists_a_picture_that_takes_too_much_memory(
    run, place, here, monkeypatch, which
):
    from tfstyle.networks import style_net

    def apply_network(network, image, blend, max_memory):
        if image.shape[1] == 30:
            raise no_memory()[which]
        return image

    monkeypatch.setattr(style_net, "apply_network", apply_network)
    code, out, _ = run(*batch("--content=photos/**/*.png,photos/**/*.PNG"))
    assert code == 1
    assert "3 pictures found, 1 stylized, 0 done before, 2 unreadable" in out
    assert "not enough memory" in failures()["photos/deep/2.PNG"]


# Stylize


def test_stylize_takes_the_folder_of_a_preset(network, tmp_path):
    network.save_to_preset(tmp_path)
    first, second = (Stylize(style_name="b", model=tmp_path) for _ in range(2))
    assert first.settings == second.settings
    (tmp_path / "config.json").unlink()  # its content travels along
    image = picture(1)[0].astype("float32")
    (result,) = pickle.loads(pickle.dumps(first)).stylize([image])
    expected = apply_style(image, "b", model=network)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_stylize_takes_pictures_of_all_shapes_at_once(network, tmp_path, monkeypatch):
    save_network(network, tmp_path / "model.keras")
    stylize = Stylize(style_name="a:1,b:3", model=tmp_path)
    (tmp_path / "model.keras").unlink()  # its content travels along
    shapes = [(24, 32), (20, 20), (24, 32), (4, 9), (70, 80), (24, 32)]
    pictures = [
        picture(i, *shape)[0].astype("float32") for i, shape in enumerate(shapes)
    ]
    results = list(pickle.loads(pickle.dumps(stylize)).stylize(pictures))
    assert len(results) == len(pictures)
    assert isinstance(results[3], UsageError)
    assert "9×4 pixels is too small" in str(results[3])
    for before, result in zip(pictures, results, strict=True):
        if before.shape[0] > 4:
            expected = apply_style(before[None], "a:1,b:3", model=network)
            np.testing.assert_allclose(result, expected, atol=1e-4)


def test_stylize_is_a_step_of_a_dataset(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    step = Stylize(style_name="b", model=tmp_path / "model.keras")
    levels = np.uint8(picture(1) * 255)
    for images in (np.concatenate([levels] * 2), [levels[0], levels[0, :, :20]]):
        batch = step({"image": images, "name": ["x", "y"]})
        assert batch["name"] == ["x", "y"]
        for before, after in zip(images, batch["image"], strict=True):
            expected = apply_style(before, "b", model=network) * 255
            assert after.dtype == "uint8"
            assert np.abs(after - expected).max() < 0.51
    with pytest.raises(UsageError, match="too small"):
        step({"image": levels[:, :3]})


def test_stylize_computes_tiles_where_memory_is_short(network, tmp_path, monkeypatch):
    from tfstyle.networks import style_net

    save_network(network, tmp_path / "model.keras")
    stylize, seen = Stylize(style_name="b", model=tmp_path, max_memory=0.75), []

    def apply_network(network, image, blend, max_memory):
        seen.append((network.style_names, image.shape, max_memory))
        return image

    monkeypatch.setattr(style_net, "apply_network", apply_network)
    pixels = picture(1)[0].astype("float32")
    (result,) = stylize.stylize([pixels])
    assert seen == [(["a", "b"], (1, 24, 32, 3), 0.75)]
    np.testing.assert_array_equal(result, pixels)


def test_a_worker_takes_its_share_of_the_machine(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    pickled = pickle.dumps(Stylize(model=tmp_path / "model.keras", workers=4))
    code = (
        "import sys, os, pickle; os.cpu_count = lambda: 12\n"
        "stylize = pickle.loads(sys.stdin.buffer.read())\n"
        "assert 'tensorflow' not in sys.modules\n"
        "from tfstyle.networks import style_net\n"
        "style_net.apply_network = lambda *args: seen.append(args[3]) or args[1]\n"
        "seen = []; import numpy as np; list(stylize.stylize([np.ones([9, 9, 3])]))\n"
        "import tensorflow as tf; from tfstyle.stylizer.memory import memory_limit\n"
        "print(tf.config.threading.get_intra_op_parallelism_threads())\n"
        "print(seen[0] * 4e9 / memory_limit(0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, stdout=subprocess.PIPE, check=True
    )
    threads, share = done.stdout.split()
    assert int(threads) == 3
    assert float(share) == pytest.approx(1, rel=1e-3)


OPTIONS = ("--steps=3", "--scales=1", "--optimizer=adam", "--seed=3", "--size=20")


def test_batch_optimises_pictures_to_paintings(run, place, here, tiny_backbone):
    save_image(picture(8), "a.png")
    save_image(picture(9), "b.png")
    words = ("--style=a.png:1,b.png:3", *OPTIONS, "--max_memory=3")
    code, out, _ = run("batch", "--content=photos/**", "--output=out", *words)
    assert code == 1 and "5 pictures found, 3 stylized" in out
    result = tfstyle.stylize(
        "photos/deep/2.PNG",
        {"a.png": 1, "b.png": 3},
        steps=3,
        scales=1,
        optimizer="adam",
        seed=3,
        size=20,
    )
    assert_same("out/deep/2.PNG", result.images)
    assert load_image("out/1.png").shape == (1, 15, 20, 3)


def test_stylize_ships_weights_and_paintings(place, tiny_backbone):
    np.savez("weights.npz", **tiny_backbone_weights())
    options = {"weights": "weights.npz", "steps": 2, "scales": 1, "size": 16}
    stylize = Stylize("photos/1.png", **options)
    pixels = picture(5)[0].astype("float32")
    expected = tfstyle.stylize(pixels, "photos/1.png", **options).image
    Path("weights.npz").unlink()
    Path("photos/1.png").unlink()
    (result,) = pickle.loads(pickle.dumps(stylize)).stylize([pixels])
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert len(stylize.settings["weights"]) == 64
    assert len(stylize.settings["style"][0][0]) == 64


def tiny_backbone_weights():
    from tfstyle.losses import from_options

    return from_options.get_backbone("tiny").published_weights()


@pytest.mark.parametrize("error", [*range(3), UsageError("too small\nfor this")])
def test_stylize_gives_what_is_wrong_with_a_picture(place, monkeypatch, error):
    error = no_memory()[error] if isinstance(error, int) else error
    stylize = Stylize("photos/1.png")

    def refuse(images):
        raise error

    monkeypatch.setattr(Stylize, "_optimizer", lambda *_: refuse)
    (result,) = stylize.stylize([picture(1)[0]])
    assert isinstance(result, TfstyleError)


def test_stylize_gives_the_style_of_any_picture(place):
    own = {"model": "any", "strength": 0.7, "style_scale": 0.25}
    stylize = Stylize("photos/1.png", size=32, **own)
    travelled = pickle.loads(pickle.dumps(stylize))
    (result,) = travelled.stylize([load_image("photos/3.bmp", 32)[0]])
    wanted = load_network("any").stylize(
        "photos/3.bmp", "photos/1.png", size=32, strength=0.7, style_scale=0.25
    )
    np.testing.assert_allclose(result, wanted, atol=1e-5)
    with pytest.raises(UsageError, match="style: give the picture whose style"):
        Stylize(model="any")
    with pytest.raises(UsageError, match="style and style_name: give one of them"):
        Stylize("photos/1.png", model="any", style_name="waves")


@pytest.mark.fast
def test_stylize_refuses_what_it_cannot_do(place):
    for options, message in (
        ({"style": "photos/1.png", "style_name": "a"}, "give one of them"),
        ({"style": "photos/1.png", "model": "model.keras"}, "give one of them"),
        ({"style": "photos/1.png", "style_scale": [1, 2]}, "2 numbers for 1 style;"),
        ({"style": "none.png"}, "none.png"),
        ({"steps": 3}, "steps: this network has no such option"),
        ({"color": "match"}, "choose one of style, content"),
        ({"model": "none.keras"}, "none.keras"),
    ):
        with pytest.raises(TfstyleError, match=message):
            Stylize(**options)


# Places


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """The working directory, with empty files in ``photos``."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("a.jpg", "b.JPG", "c.txt", ".hidden.jpg", "out/a.jpg", "[x]/e.jpg"),
        *("2020/a.jpg", "2020/deep/a.jpg", "2021/b.png", ".secret/a.jpg"),
    ):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Path("photos", name).touch()
    Path("photos/linked").symlink_to("2020")
    return tmp_path


def found(source, output="photos/out") -> list[str]:
    walked = Places.of(source, output).walk()
    return [
        os.path.relpath(f"{folder}/{name}", "photos")
        for folder, names, problem in walked
        for name in names
    ]


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("photos/*.jpg", ["a.jpg"]),
        ("photos/*", ["a.jpg", "b.JPG", "c.txt"]),
        ("photos/**/*.jpg", ["a.jpg", "2020/a.jpg", "2020/deep/a.jpg", "[x]/e.jpg"]),
        ("photos/**/deep/**/a.jpg", ["2020/deep/a.jpg"]),
        ("**/2021/*", ["2021/b.png"]),
        ("photos/20??/*", ["2020/a.jpg", "2021/b.png"]),
        ("photos/202[!1]*/*", ["2020/a.jpg"]),
        ("photos/2021/**", ["2021/b.png"]),
        ("photos/**.png", ["2021/b.png"]),
        ("photos/.*.jpg", [".hidden.jpg"]),
        ("photos/.secret/*", [".secret/a.jpg"]),
        ("photos/[x]/*", []),
        ("photos/[[]x]/*", ["[x]/e.jpg"]),
        ("photos/linked/*", ["linked/a.jpg"]),
        ("photos/[x]", ["[x]/e.jpg"]),
        ("photos/2020", ["2020/a.jpg", "2020/deep/a.jpg"]),
        ("photos/a.jpg", ["a.jpg"]),
        ("photos/none.jpg", []),
        ("none/*.jpg", []),
        (["photos/2021", "photos/2020/*"], ["2020/a.jpg", "2021/b.png"]),
        (["photos/a*", "photos/*.jpg"], ["a.jpg"]),
    ],
)
def test_places_find_pictures_as_python_and_bash_do(tree, source, names):
    assert found(source) == names
    if isinstance(source, str) and "*" in source and "**." not in source:
        globbed = glob.glob(source, recursive=True)  # noqa: PTH207
        globbed = [path for path in globbed if Path(path).is_file()]
        expected = {os.path.relpath(path, "photos") for path in globbed}
        # The folder of the results is left out, and ``**`` follows no links.
        expected = {name for name in expected if not name.startswith("out/")}
        assert set(names) <= expected
        assert all(name.startswith("linked") for name in expected.difference(names))


@pytest.mark.fast
def test_places_name_results_from_the_folder_that_all_patterns_begin_with(tree):
    for source, folder in (
        ("photos/*.jpg", "photos"),
        ("photos/20??/*", "photos"),
        ("photos/2020", "photos/2020"),
        (["photos/2020/*", "photos/2021/x/*"], "photos"),
        ("photos/a.jpg", "photos"),
    ):
        assert Places.of(source, "out").pictures == f"{tree}/{folder}"
    places = Places.of("/*.jpg", "out/")
    assert (places.pictures, places.output) == ("", f"{tree}/out")
    assert places.dead_letter == f"{tree}/out/unreadable.jsonl"


@pytest.mark.fast
@pytest.mark.parametrize(
    ("source", "output"),
    [
        *(("photos/*", out) for out in ("photos", "photos/", ".", "photos/2020/..")),
        ("photos", "photos"),
        ("photos/a.jpg", "photos"),
        (["photos/2020/*", "photos/2021/*"], "photos/2021"),
        ("photos/linked/*", "photos/2020"),
    ],
)
def test_places_refuse_results_among_the_pictures(tree, source, output):
    with pytest.raises(UsageError, match="the pictures are in this folder; give the"):
        Places.of(source, output)


@pytest.mark.fast
def test_places_give_the_same_parts_again_while_results_appear(tree):
    for i in range(300):
        Path(f"photos/{i}.jpg").touch()
    places = Places.of("photos/*.jpg", "out")
    Path("out").mkdir()
    for i in range(100):
        Path(f"out/{i}.jpg").touch()
    time.sleep(0.05)
    begun = places.begin({})
    assert not Path("out/.tfstyle.json").exists()  # they are not yet used
    first = list(places.parts(begun, 5))
    Path("out/200.jpg").touch()
    assert list(places.parts(begun, 5)) == first
    names = [name for part in first for name in part.names]
    assert len(set(names)) == len(names) == 201
    assert sum(part.skipped for part in first) == 100
    sizes = [len(part.names) for part in first if part.names]
    assert sizes[:64] == [1] * 64 and max(sizes) == 4 and sizes[-2] == 4


@pytest.mark.fast
def test_places_say_which_folder_may_not_be_read(tree, monkeypatch):
    real = os.scandir

    def scandir(folder):
        if folder.endswith("2020"):
            raise PermissionError(13, "Permission denied")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    parts = list(Places.of("photos/**/*.jpg", "photos/out").parts(0, 5))
    (failure,) = [failure for part in parts for failure in part.failures]
    assert failure.path == f"{tree}/photos/2020" and "denied" in failure.reason
    assert [name for part in parts for name in part.names] == ["a.jpg", "e.jpg"]


# Object stores


@pytest.fixture(scope="module")
def store():
    patch = pytest.MonkeyPatch.context()
    with patch as patched, object_store(patched.setenv) as running:
        stores._connected.cache_clear()
        yield running


@pytest.fixture
def bucket(store, monkeypatch):
    """The URL of an empty bucket; waiting between tries is short."""
    store.fails, store.denied = 0.0, ""
    monkeypatch.setattr(stores, "SECONDS_BETWEEN_TRIES", [0.01] * 5)
    there = stores.store_of("s3://bucket")
    there._files.delete_dir_contents("bucket", missing_dir_ok=True)
    store.requests.clear()
    return "s3://bucket"


def test_batch_works_from_bucket_to_bucket(run, place, here, bucket, store, network):
    there = stores.store_of(bucket)
    for file in Path("photos").rglob("*.*"):
        there.write(f"{bucket}/{file}", file.read_bytes(), "")
    store.requests.clear()
    store.fails = 0.1
    words = ("batch", "--model=model.keras", f"--output={bucket}/results")
    words += (f"--content={bucket}/photos/**", "--style_name=b")
    code, out, err = run(*words)
    store.fails = 0.0
    # Existence is asked once for a folder, and not for each picture.
    heads = [request for request in store.requests if request.startswith("HEAD")]
    assert not [request for request in heads if re.search("results/.*png", request)]
    said = "5 pictures found, 3 stylized, 0 done before, 2 unreadable"
    assert (code, err) == (1, "")
    assert said in out and f"see {bucket}/results/unreadable.jsonl" in out
    assert sorted(there.list(f"{bucket}/results")) == [
        *(".tfstyle.json", "1.png", "3.png", "deep", "unreadable.jsonl")
    ]
    for source, result in (("deep/2.PNG",) * 2, ("3.bmp", "3.png")):
        written = io.BytesIO(there.read(f"{bucket}/results/{result}"))
        assert_same(written, apply_style(f"photos/{source}", "b", model=network))

    assert "0 stylized, 3 done before, 2 unreadable" in run(*words)[1]
    assert "now a" in run(*words, "--style_name=a")[2]


def test_batch_lists_objects_that_may_not_be_read(run, place, here, bucket, store):
    there = stores.store_of(bucket)
    for name in ("1.png", "2.png"):
        there.write(f"{bucket}/in/{name}", Path("photos/1.png").read_bytes(), "")
    store.denied = "(GET|HEAD) /bucket/in/2.png"
    words = ("batch", "--model=model.keras", f"--content={bucket}/in", "--output=out")
    assert "2 pictures found, 1 stylized" in run(*words)[1]
    (line,) = Path("out/unreadable.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == f"{bucket}/in/2.png"
    assert "DENIED" in line.upper()


def test_batch_ends_where_results_may_not_be_written(
    refused, place, here, bucket, store
):
    store.denied = "PUT .*png"
    code, err = refused(*batch("--content=photos/1.png", f"--output={bucket}/out"))
    assert code == 1
    assert f"{bucket}/out/1.png: could not be written" in err and "DENIED" in err


def test_batch_refuses_stores_that_do_not_exist(refused, place, here, bucket):
    for source, named in (
        ("s3://none/x/*.png", "NO_SUCH_BUCKET"),
        ("ftp://server/x/*.png", "ftp"),
        ("photos/*,s3://bucket/*", "one store"),
    ):
        assert named in refused(*batch(f"--content={source}"))[1]


# Workers that die


@pytest.fixture
def again(here, monkeypatch):
    """Makes Ray tell workers that they have died before."""
    monkeypatch.setattr(runs, "_restarted", lambda: True)


def test_batch_keeps_what_a_dead_worker_wrote(run, place, again, monkeypatch):
    real = Places.begin

    def begin(places, settings):
        begun = real(places, settings)
        save_image(np.zeros([1, 24, 32, 3]), "out/1.png")  # by the dead worker
        return begun

    monkeypatch.setattr(Places, "begin", begin)
    said = run(*batch("--content=photos/**"))[1]
    assert "5 pictures found, 3 stylized, 0 done before, 2 unreadable" in said
    assert load_image("out/1.png").max() == 0
    assert not Path("out/.tfstyle-batch").exists()


def test_batch_gives_a_picture_up_that_workers_die_of(run, place, again, monkeypatch):
    def die(self, name):
        if name == "1.png":
            raise SystemExit  # as good as dead: nothing here catches it
        return real(self, name)

    real = runs._Worker._picture
    monkeypatch.setattr(runs._Worker, "_picture", die)
    monkeypatch.setattr(Places, "close", lambda self: None)
    marks = Path("out/.tfstyle-batch")
    for deaths in range(1, runs.MOST_DEATHS + 1):
        assert run(*batch("--content=photos/*"))[0] == 143
        ((_, text),) = [
            (file, file.read_text()) for file in marks.iterdir() if file.name != "begun"
        ]
        assert int(text) == deaths
        monkeypatch.setattr(Places, "begin", lambda self, settings: 0)
    assert "4 pictures found, 1 stylized" in run(*batch("--content=photos/*"))[1]
    assert failures()["photos/1.png"] == "2 workers that tried have died"


# What is refused, and what is shown


PICTURES = "--content=photos/*"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--content is missing"),
        (("--content=none/*.jpg",), "none/*.jpg: no picture matches"),
        (("--content=none",), "none: no picture matches"),
        ((PICTURES, "--output=out.png"), "the results need a folder"),
        ((PICTURES, "--output=photos"), "photos: the pictures are in this folder"),
        ((PICTURES, "--output=model.keras/x"), "model.keras/x"),
        ((PICTURES, "--style_name=c"), "there is no style 'c'"),
        ((PICTURES, "--style_name=a:x"), "'x' is not a number"),
        ((PICTURES, "--model=none.keras"), "none.keras"),
        ((PICTURES, "--steps=3"), "--steps: a network has no such option; leave"),
        ((PICTURES, "--color=match"), "choose one of style, content"),
        ((PICTURES, "--style=a.png"), "--style and --model: give one of them"),
        ((PICTURES, "--size=0"), "--size=0: give"),
        ((PICTURES, "--gpus_per_worker=1"), "Ray finds no GPU"),
        (("photos/1.png", PICTURES), "'photos/1.png' is one argument too many"),
    ],
)
def test_batch_refuses_in_one_line(refused, place, here, words, message):
    before = files(".")
    code, err = refused(*batch(*words))
    assert code in (1, 2)
    assert message in err
    assert files(".") == before


def test_batch_checks_paintings_before_it_imports_tensorflow(
    refused, place, no_tensorflow
):
    words = ("batch", PICTURES, "--output=out", "--style=photos/1.png")
    assert "--style and --style_name" in refused(*words, "--style_name=a")[1]
    assert "--steps=0: give" in refused(*words, "--steps=0")[1]
    assert not Path("out").exists()


def test_batch_says_how_ray_is_installed(refused, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, err = refused(*batch(PICTURES))
    assert code == 2 and "pip install 'tfstyle[batch]'" in err
    with pytest.raises(MissingExtraError):
        stylize_folder("photos", "elsewhere")


@pytest.mark.fast
def test_a_machine_has_as_many_workers_as_memory_is_for(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    memory = type("Memory", (), {"total": 10e9})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert runs.default_workers() == 5
    memory.total = 1e9
    assert runs.default_workers() == 1
    memory.total = 1e12
    assert runs.default_workers() == 8


def test_stylize_folder_counts_and_reports_progress(place, here):
    reported = []
    options = {"model": "model.keras", "progress": reported.append}
    assert stylize_folder("photos", "out", **options) == Counts(5, 3, 0, 2)
    assert reported == sorted(reported) and reported[-1] == 5
    assert stylize_folder(["photos/*"], "out", **options) == Counts(4, 0, 2, 2)


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


@pytest.mark.fast
def test_a_file_deleted_while_its_folder_is_listed_hides_no_other(
    tmp_path, monkeypatch
):
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).touch()
    is_folder = os.path.isdir

    def deleting(path):
        if os.fspath(path).endswith("b.png"):
            Path(path).unlink()
        return is_folder(path)

    monkeypatch.setattr(os.path, "isdir", deleting)
    listed = stores.store_of(str(tmp_path)).list(str(tmp_path))
    assert sorted(listed) == ["a.png", "c.png"]
