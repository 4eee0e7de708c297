"""Tests of tfstyle/video/run_film.py."""

import importlib
import math
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tfstyle import TfstyleError, UsageError
from tfstyle.errors import MissingExtraError
from tfstyle.video.run_film import RunFilm, check_run_film

try:
    import imageio_ffmpeg
except ImportError:
    imageio_ffmpeg = None
needs_ffmpeg = pytest.mark.skipif(not imageio_ffmpeg, reason="needs tfstyle[video]")
FORMATS = ("gif", "webp", pytest.param("mp4", marks=needs_ffmpeg))
STEPS = 100


def shade(step: int, steps: int = STEPS) -> float:
    """Goes evenly from black to white along √step."""
    return math.sqrt((step - 1) / (steps - 1))


def report(step: int, steps: int = STEPS, size=(24, 36), pictures: int = 1):
    """What the film reads of a ``Progress``: a picture of one shade."""
    values = np.full((pictures, *size, 3), shade(step, steps), "float32")
    return SimpleNamespace(step=step, image=lambda: values)


def filmed(path, at=range(1, STEPS + 1), **options):
    """A film of reports at these steps."""
    with RunFilm(path) as film:
        for step in at:
            film(report(step, **options))
    return path


def read(path) -> tuple[np.ndarray, list[float]]:
    """Frames ``[T, H, W, 3]`` in [0, 255], and the seconds of each or, of .mp4, all."""
    if path.suffix == ".mp4":
        stream = imageio_ffmpeg.read_frames(str(path))
        width, height = next(stream)["size"]
        frames = [np.frombuffer(frame, "uint8") for frame in stream]
        return np.stack(frames).reshape(-1, height, width, 3).astype(float), [
            imageio_ffmpeg.count_frames_and_secs(str(path))[1]
        ]
    frames, seconds = [], []
    with Image.open(path) as film:
        assert film.n_frames == 1 or film.info["loop"] == 0  # for ever
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGB"), float))
            seconds.append(film.info["duration"] / 1000)
    return np.stack(frames), seconds


def shades(path) -> np.ndarray:
    return read(path)[0].mean(axis=(1, 2, 3)) / 255


@pytest.mark.parametrize("kind", FORMATS)
def test_film_goes_from_the_first_picture_to_the_last_in_order(tmp_path, kind):
    found = shades(filmed(tmp_path / f"out.{kind}"))

    assert found[0] == pytest.approx(0, abs=0.02)
    assert found[-1] == pytest.approx(1, abs=0.02)
    # .mp4 repeats frames and .webp may drop one that hardly differs.
    assert 30 <= len(np.unique(found.round(3))) <= 96
    assert (np.diff(found) > (-0.004 if kind == "mp4" else 0)).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_last_picture_is_shown_as_it_is(tmp_path, kind):
    rng = np.random.default_rng(0)
    coarse = rng.uniform(size=(6, 9, 3)).astype("float32")
    last = np.kron(coarse, np.ones((8, 8, 1), "float32"))[None]
    path = tmp_path / f"out.{kind}"
    with RunFilm(path) as film:
        film(report(1, size=(48, 72)))
        film(SimpleNamespace(step=2, image=lambda: last))

    error = read(path)[0][-1] - 255 * last[0]
    # Inside the squares: .webp and .mp4 halve the resolution of colour.
    assert np.abs(error.reshape(6, 8, 9, 8, 3)[:, 3:5, :, 3:5]).mean() < 6


@pytest.mark.parametrize("steps", [STEPS, 7, 20_000])
def test_frames_are_few_and_their_distances_in_square_root_of_steps_even(
    tmp_path, steps
):
    reports = range(1, steps + 1)
    found = shades(filmed(tmp_path / "out.gif", reports, steps=steps))

    assert min(steps, 48) <= len(found) <= 96
    if steps == 20_000:
        np.testing.assert_allclose(found, np.linspace(0, 1, len(found)), atol=0.04)


def test_pictures_are_fetched_when_due_and_not_of_every_report(tmp_path):
    fetched = []

    def image():
        fetched.append(None)
        return np.zeros((1, 8, 8, 3), "float32")

    with RunFilm(tmp_path / "out.gif") as film:
        for step in range(1, 20_001):
            film(SimpleNamespace(step=step, image=image))

    assert len(fetched) < 500


def test_memory_is_bounded_whatever_the_number_of_steps(tmp_path):
    film = RunFilm(tmp_path / "out.gif", size=40)
    used = []
    tracemalloc.start()
    for step in range(1, 5_001):
        film(report(step, 5_000, size=(60, 120)))
        if step % 50 == 0:
            used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    frame, report_size = 40 * 20 * 3, 60 * 120 * 3 * 4
    assert 48 * frame < max(used) < 97 * frame + report_size + 100_000


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "count, total", [(2, 2.0), (5, 3.5), (30, 5.3), (60, 5.6), (96, 5.3)]
)
def test_film_takes_its_time_and_holds_the_last_picture(tmp_path, kind, count, total):
    steps = [1 + k * k for k in range(count)]
    frames, seconds = read(filmed(tmp_path / f"out.{kind}", steps, steps=steps[-1]))

    assert sum(seconds) == pytest.approx(total, abs=0.1)
    if kind == "mp4":
        rate = len(frames) / sum(seconds)
        held = frames[-round(1.4 * rate) :]
        assert 16 < rate < 34 and np.ptp(held.mean(axis=(1, 2, 3))) < 2
    else:
        assert seconds[-1] == pytest.approx(1.5, abs=0.1) and max(seconds[:-1]) <= 0.5


@pytest.mark.parametrize("kind", FORMATS)
def test_film_of_one_picture(tmp_path, kind):
    frames, seconds = read(filmed(tmp_path / f"out.{kind}", [STEPS]))

    assert (abs(frames - 255) < 3).all()
    assert len(frames) == 1 or sum(seconds) == 1.5


@pytest.mark.parametrize("kind", FORMATS)
def test_scales_have_the_size_of_the_last_picture(tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    with RunFilm(path) as film:
        film(report(1, size=(12, 17)))
        film(report(50, size=(24, 35)))
        film(report(100, size=(48, 70)))

    frames, _ = read(path)
    assert frames.shape[1:] == (48, 70, 3)
    assert frames[0].mean() < 5 < 250 < frames[-1].mean()


@needs_ffmpeg
def test_sides_are_even_in_a_film_of_h264(tmp_path):
    assert read(filmed(tmp_path / "out.mp4", size=(23, 35)))[0].shape[1:3] == (24, 36)
    assert read(filmed(tmp_path / "out.gif", size=(23, 35)))[0].shape[1:3] == (23, 35)


@pytest.mark.parametrize("kind", FORMATS)
def test_large_pictures_are_shrunk_to_640_pixels(tmp_path, kind):
    path = filmed(tmp_path / f"out.{kind}", [1, STEPS], size=(700, 1000))

    assert read(path)[0].shape[1:3] == (448, 640)


def test_pictures_of_a_batch_stand_side_by_side(tmp_path):
    pictures = np.zeros((2, 300, 400, 3), "float32")
    pictures[1] = 1
    with RunFilm(tmp_path / "out.webp") as film:
        film(SimpleNamespace(step=1, image=lambda: pictures))

    frame = read(tmp_path / "out.webp")[0][0]
    assert frame.shape == (240, 640, 3)
    assert frame[:, :310].max() < 10 and frame[:, 330:].min() > 245


def test_pictures_stay_as_they_are(tmp_path):
    picture = np.linspace(0, 1, 24 * 36 * 3, dtype="float32").reshape(1, 24, 36, 3)
    before = picture.copy()
    with RunFilm(tmp_path / "out.gif") as film:
        film(SimpleNamespace(step=1, image=lambda: picture))

    np.testing.assert_array_equal(picture, before)


def test_film_of_a_run_that_was_interrupted(tmp_path):
    path = tmp_path / "out.gif"
    with pytest.raises(KeyboardInterrupt), RunFilm(path) as film:
        for step in range(1, 31):
            film(report(step))
        raise KeyboardInterrupt

    assert shades(path)[-1] == pytest.approx(shade(30), abs=0.02)


def test_second_interrupt_ends_at_once(tmp_path):
    with pytest.raises(SystemExit), RunFilm(tmp_path / "out.gif") as film:
        film(report(1))
        raise SystemExit(130)

    assert not list(tmp_path.iterdir())


def test_film_has_the_last_picture_even_if_none_was_due(tmp_path):
    with RunFilm(tmp_path / "out.gif") as film:
        film(report(1))
        film(report(10_000, 40_000))
        film(SimpleNamespace(step=10_001, image=report(STEPS).image))

    assert shades(tmp_path / "out.gif") == pytest.approx([0, 0.5, 1], abs=0.02)


@pytest.mark.parametrize("kind", FORMATS)
def test_no_report_no_file(tmp_path, kind):
    with RunFilm(tmp_path / f"out.{kind}"):
        pass

    assert not list(tmp_path.iterdir())


def test_film_is_written_once(tmp_path):
    path = tmp_path / "out.gif"
    with RunFilm(path) as film:
        film(report(1))
        film.save()
        path.unlink()

    assert not path.exists()


@pytest.mark.parametrize("name", ["out.avi", "out", "out.png"])
def test_other_extensions_are_refused(tmp_path, name):
    with pytest.raises(UsageError, match=r"use \.gif, \.webp or \.mp4$"):
        RunFilm(tmp_path / name)


def test_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"folder .* does not exist; create it"):
        check_run_film(tmp_path / "new" / "out.gif")


@pytest.mark.parametrize("size", [0, -4])
def test_size_that_is_not_positive_is_refused(tmp_path, size):
    with pytest.raises(UsageError, match=rf"^size={size}: give at least 1 pixel$"):
        RunFilm(tmp_path / "out.gif", size=size)


def test_missing_ffmpeg_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)

    RunFilm(tmp_path / "out.gif")
    with pytest.raises(UsageError) as refusal:
        RunFilm(tmp_path / "out.mp4")
    assert isinstance(refusal.value, MissingExtraError)
    assert "out.mp4: imageio_ffmpeg is not installed" in str(refusal.value)
    assert "pip install 'tfstyle[video]'; or write .gif" in str(refusal.value)
    assert "\n" not in str(refusal.value)


@needs_ffmpeg
def test_platform_without_ffmpeg_is_told_before_the_run(tmp_path, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)

    with pytest.raises(UsageError, match=r"has no ffmpeg .*; or write \.gif"):
        check_run_film(tmp_path / "out.mp4")


@pytest.mark.parametrize("kind", FORMATS)
def test_film_that_cannot_be_written_is_told_in_one_line(tmp_path, kind):
    path = tmp_path / "folder" / f"out.{kind}"
    path.parent.mkdir()
    film = RunFilm(path)
    film(report(1))
    path.parent.rmdir()

    with pytest.raises(TfstyleError, match=r"could not be written: .*No such") as told:
        film.save()
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_failure_leaves_the_file_as_it_was(tmp_path, kind, monkeypatch):
    path = tmp_path / f"out.{kind}"
    path.write_bytes(b"before")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tfstyle.video.ffmpeg.find_ffmpeg", lambda: "false")
    monkeypatch.setattr(Image.Image, "save", full)

    with pytest.raises(TfstyleError, match=rf"out\.{kind}: could not be written"):
        filmed(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


@needs_ffmpeg
def test_ffmpeg_that_fails_half_way_leaves_no_film(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text(
        "#!/bin/sh\n"
        "for last; do :; done\n"
        'echo half > "${last#file:}"\n'
        "echo 'Error muxing' >&2; echo 'No space left on device' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))

    with pytest.raises(TfstyleError, match=r"written: No space left on device$"):
        filmed(tmp_path / "out.mp4")
    assert [file.name for file in tmp_path.iterdir()] == ["ffmpeg"]


def test_bad_paths_are_refused_without_tensorflow(tmp_path, no_tensorflow, monkeypatch):
    monkeypatch.delitem(sys.modules, "tfstyle.video.run_film")
    module = importlib.import_module("tfstyle.video.run_film")

    with pytest.raises(UsageError):
        module.check_run_film(tmp_path / "out.avi")


def test_film_of_a_real_run(tmp_path, tiny_backbone, content, style):
    import tfstyle

    options = {"size": 40, "scales": 2, "steps": 6, "margin": 0, "seed": 1}
    path = tmp_path / "out.gif"
    with RunFilm(path) as film:
        result = tfstyle.stylize(content, style, callbacks=[film], **options)

    frames, _ = read(path)
    assert frames.shape[1:] == result.image.shape
    errors = np.abs(frames - 255 * result.image).mean(axis=(1, 2, 3))
    assert errors[-1] < 10 < 2 * errors[-1] < errors[0]
