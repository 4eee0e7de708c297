"""Tests of tfstyle/video/stylize.py and film_files.py, and of the command video."""

import os
import re
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import lively_network

from tfstyle import load_image, save_image
from tfstyle.cli import video as command
from tfstyle.errors import MissingExtraError, TfstyleError, UsageError, VideoError
from tfstyle.networks.style_net import save_network
from tfstyle.video import film_files
from tfstyle.video.film_files import open_film
from tfstyle.video.stylize import TEMPORAL, follow_motion, stylize_video

cv2 = pytest.importorskip("cv2")
imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

FRAMES, WIDTH, HEIGHT = 10, 64, 48
ROOT = Path(__file__).parents[1]
CAT = ROOT / "data" / "content" / "cat.jpg"


def ffmpeg(*words) -> None:
    program = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error"]
    subprocess.run([*program, *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def make_clip(path, frames=FRAMES, size=(WIDTH, HEIGHT), rate=10, noise=3.0):
    """A pan over a photograph with noise of its own in every frame, without sound."""
    photo = (load_image(CAT, 200)[0] * 255).astype("uint8")
    random = np.random.default_rng(6)
    writer = imageio_ffmpeg.write_frames(
        str(path), size, fps=rate, macro_block_size=1, output_params=["-crf", "10"]
    )
    writer.send(None)
    for i in range(frames):
        frame = photo[30 : 30 + size[1], 40 + 2 * i : 40 + 2 * i + size[0]]
        frame = np.clip(frame + random.normal(0, noise, frame.shape), 0, 255)
        writer.send(frame.astype("uint8"))
    writer.close()


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with ``silent.mp4``, ``clip.mp4`` with a tone, and ``model.keras``."""
    folder = tmp_path_factory.mktemp("material")
    make_clip(folder / "silent.mp4")
    tone = ("-f", "lavfi", "-i", "sine=frequency=440:duration=1")
    both = ("-i", folder / "silent.mp4", *tone, "-c:v", "copy")
    ffmpeg(*both, "-c:a", "aac", folder / "clip.mp4")
    ffmpeg(*both, "-c:a", "libopus", folder / "opus.mkv")
    save_network(lively_network(["a", "b"]), folder / "model.keras")
    return folder


@pytest.fixture
def place(material, tmp_path, monkeypatch):
    """An empty working directory with links to the material."""
    for file in material.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def unchanged(frame, warped, consistency):
    return frame


def steadied(frame, warped, consistency):
    """A stylizer whose every frame depends on the one before."""
    if warped is None:
        return 1 - frame
    return 1 - frame + 0.7 * consistency * (warped + frame - 1)


def stop_after(count):
    return lambda progress: progress.step >= count


def kept(output: str) -> dict[str, bytes]:
    folder = Path(f"{output}.frames")
    return {file.name: file.read_bytes() for file in folder.glob("*.png")}


def read(path) -> np.ndarray:
    clip = open_film(path)
    return np.concatenate(list(clip.frames(clip.scaled_size(None))))


@pytest.mark.parametrize("output", ["out.mp4", "out.mov", "50%.d.mkv"])
def test_stylize_video_keeps_frames_rate_sound_and_colours(place, output):
    film = stylize_video("clip.mp4", output, unchanged)
    assert (film.frames, film.size, film.stopped) == (FRAMES, (HEIGHT, WIDTH), False)
    clip = open_film(output)
    assert (clip.size, clip.rate, clip.count) == ((HEIGHT, WIDTH), 10, FRAMES)
    assert clip.sound == "aac"
    before, after = read("clip.mp4"), read(output)
    assert before.shape == after.shape == (FRAMES, HEIGHT, WIDTH, 3)
    differences = np.abs(before[:, None] - after[None]).mean((2, 3, 4))
    assert differences.diagonal().max() < 0.02
    assert (differences.argmin(1) == np.arange(FRAMES)).all()
    assert not list(place.glob("*.frames")) and not list(place.glob(".tfstyle*"))


def test_stylize_video_converts_sound_that_the_container_cannot_hold(place):
    stylize_video("opus.mkv", "out.mkv", unchanged)
    assert open_film("out.mkv").sound == "opus"
    stylize_video("opus.mkv", "out.mp4", unchanged)
    assert open_film("out.mp4").sound == "aac"
    stylize_video("silent.mp4", "out.mp4", unchanged)
    assert open_film("out.mp4").sound is None


def test_open_film_with_turned_frames_and_odd_sides(place):
    ffmpeg("-display_rotation", 90, "-i", "clip.mp4", "-c", "copy", "turned.mp4")
    assert open_film("turned.mp4").size == (WIDTH, HEIGHT)
    odd = "scale=65:49,setsar=2,format=yuv444p"
    ffmpeg("-i", "clip.mp4", "-vf", odd, "odd.mkv")
    clip = open_film("odd.mkv")
    assert clip.size == (49, 130)  # of square pixels
    assert clip.scaled_size(None) == (48, 130)
    assert clip.scaled_size(99) == (36, 98)
    assert clip.scaled_size(1000) == (48, 130)
    film = stylize_video("odd.mkv", "out.mp4", unchanged, size=99)
    assert film.size == open_film("out.mp4").size == (36, 98)
    with pytest.raises(UsageError, match=r"20×8 pixels is too small: .* 16 pixels"):
        clip.scaled_size(21)


@pytest.mark.parametrize(
    ("told", "rate"),
    [
        (23.98, Fraction(24000, 1001)),
        (29.97, Fraction(30000, 1001)),
        (59.94, Fraction(60000, 1001)),
        (24.0, 24),
        (12.5, Fraction(25, 2)),
        (29.87, Fraction(2987, 100)),
        (5.0, 5),
    ],
)
def test_exact_rate_of_a_rounded_one(told, rate):
    assert film_files._exact_rate(told) == rate


def test_stylize_video_keeps_the_rate_of_american_television(place):
    make_clip("film.mp4", rate=24000 / 1001, frames=5)
    film = stylize_video("film.mp4", "out.mp4", unchanged)
    assert film.frames == 5
    assert open_film("out.mp4").rate == Fraction(24000, 1001)


def test_stylize_video_gives_frames_and_reports_progress(place):
    given = []

    def stylize_frame(*arguments):
        given.append(arguments)
        return arguments[0]

    progress = []
    callbacks = [progress.append]
    film = stylize_video("clip.mp4", "out.mp4", stylize_frame, callbacks=callbacks)
    assert given[0][1:] == (None, None)
    for frame, warped, consistency in given[1:]:
        assert frame.shape == warped.shape == (1, HEIGHT, WIDTH, 3)
        assert consistency.shape == (1, HEIGHT, WIDTH, 1)
        for array in (frame, warped, consistency):
            assert array.dtype == np.float32
            assert array.min() >= 0 and array.max() <= 1
        # The frame before, moved, is the frame: but for noise and levels.
        assert np.abs((frame - warped) * consistency).mean() < 0.02
    assert [p.step for p in progress] == list(range(1, FRAMES + 1))
    assert [list(p.row_steps) for p in progress] == [[p.step] for p in progress]
    assert {p.steps for p in progress} == {FRAMES}
    assert {(p.scale, p.scales, p.columns) for p in progress} == {(0, 1, ("flicker",))}
    assert {p.size for p in progress} == {(HEIGHT, WIDTH)}
    assert np.isnan(progress[0].total)
    flickers = [p.total for p in progress[1:]]
    assert np.mean(flickers) == pytest.approx(film.flicker) and min(flickers) > 0
    seconds = [p.seconds for p in progress]
    assert seconds[0] > 0 and seconds == sorted(seconds) and seconds[-1] < film.seconds
    for (frame, *_), p in zip(given, progress, strict=True):
        np.testing.assert_array_equal(p.image(), frame)


def test_stylize_video_ends_with_the_same_frames_after_interruptions(place):
    def run(output, count):
        callbacks = [stop_after(count)]
        return stylize_video("clip.mp4", output, steadied, callbacks=callbacks)

    whole = run("whole.mp4", FRAMES)
    assert (whole.frames, whole.stopped) == (FRAMES, True)
    for count in (1, 4, 5):
        assert run("parts.mp4", count).frames == count
    (place / "parts.mp4.frames" / "000004.png").write_bytes(b"")  # a power loss
    parts = run("parts.mp4", FRAMES)
    assert kept("parts.mp4") == kept("whole.mp4")
    assert len(kept("whole.mp4")) == FRAMES
    assert parts.flicker == whole.flicker > 0
    assert not Path("parts.mp4").exists()
    film = run("parts.mp4", FRAMES)  # nothing is left but to write the film
    assert (film.frames, film.stopped) == (FRAMES, False)
    assert len(read("parts.mp4")) == FRAMES


def test_stylize_video_keeps_frames_after_an_error(place):
    def failing(frame, warped, consistency):
        if len(kept("out.mp4")) == 3:
            raise RuntimeError("no luck")
        return frame

    with pytest.raises(RuntimeError, match="no luck"):
        stylize_video("clip.mp4", "out.mp4", failing)
    assert len(kept("out.mp4")) == 3


def test_stylize_video_refuses_frames_of_another_run(place):
    stop = [stop_after(2)]
    one = {"style_name": "a", "model": "0" * 64, "temporal": 0.5}
    stylize_video("clip.mp4", "o.mp4", unchanged, settings=one, callbacks=stop)
    two = {"style_name": "b", "model": "1" * 64, "temporal": 0.5}
    with pytest.raises(UsageError) as refusal:
        stylize_video("silent.mp4", "o.mp4", unchanged, settings=two, size=60)
    message = str(refusal.value)
    assert message.startswith("o.mp4.frames: ")
    differences = "content, size (64×48, now 60×44), style_name (a, now b), model; give"
    assert differences in message and "temporal" not in message
    assert "delete the folder, or choose another output" in message
    assert len(kept("o.mp4")) == 2
    for settings in ({}, {**one, "color": "content"}):
        with pytest.raises(UsageError, match=r"style_name|color"):
            stylize_video("clip.mp4", "o.mp4", unchanged, settings=settings)
    Path("o.mp4.frames/run.json").write_text("{")
    with pytest.raises(TfstyleError, match=r"run\.json: is damaged; delete the folder"):
        stylize_video("clip.mp4", "o.mp4", unchanged, settings=one)


def test_stylize_video_leaves_a_folder_of_something_else_alone(place):
    Path("out.mp4.frames").mkdir()
    stylize_video("clip.mp4", "out.mp4", unchanged, callbacks=[stop_after(1)])
    Path("out.mp4.frames/run.json").unlink()
    with pytest.raises(UsageError, match="holds something else; move it"):
        stylize_video("clip.mp4", "out.mp4", unchanged)
    assert len(kept("out.mp4")) == 1


def test_follow_motion_halves_flicker(place):
    network = lively_network(["a", "b"], width=8)

    def flicker(temporal):
        stylize_frame = follow_motion(network, "b", temporal=temporal)
        return stylize_video("silent.mp4", "out.mp4", stylize_frame).flicker

    single, steady = flicker(0.0), flicker(TEMPORAL)
    assert 0 < steady <= single / 2
    with pytest.raises(UsageError, match=r"temporal=1\.5: give a number from 0 to 1"):
        follow_motion(network, temporal=1.5)


VIDEO = ("video", "--content=clip.mp4", "--output=out.mp4", "--model=model.keras")


def test_command_stylizes_a_film(run, place):
    code, out, err = run(*VIDEO, "--style_name=b", "--size=48")
    assert (code, err) == (0, "")
    assert re.fullmatch(
        r"out\.mp4: 10 frames, 48×36, flicker 0\.\d{3}, \d+\.\d s\n", out
    )
    clip = open_film("out.mp4")
    assert (clip.size, clip.count, clip.sound) == ((36, 48), FRAMES, "aac")


def test_command_says_which_style_it_took_if_none_was_named(run, place):
    assert run(*VIDEO, "--size=48")[1].endswith(" s; style a, the first of a, b\n")


@pytest.fixture
def run_interrupted(run, monkeypatch):
    """Runs the command, which gets a signal after its third frame."""

    def run_here(number, *words):
        def interrupt(bar, progress):
            if progress.step == 3:
                signal.raise_signal(number)

        with monkeypatch.context() as context:
            context.setattr(command.ProgressBar, "__call__", interrupt)
            return run(*words)

    return run_here


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_command_keeps_frames_after_a_signal(run_interrupted, place, name, code):
    assert run_interrupted(getattr(signal, name), *VIDEO) == (
        code,
        "",
        "tfstyle: stopped after 3 frames, which out.mp4.frames keeps; the same "
        "command goes on\n",
    )
    assert len(kept("out.mp4")) == 3 and not Path("out.mp4").exists()


def test_command_goes_on_with_the_same_flags_only(run, run_interrupted, place):
    run_interrupted(signal.SIGINT, *VIDEO)
    code, _, err = run(*VIDEO, "--temporal=0.5")
    assert code == 2
    assert ": temporal (0.6, now 0.5); give the same ones" in err
    assert len(kept("out.mp4")) == 3
    code, out, err = run(*VIDEO, "--style_name=a")  # as it was: the network's first
    assert (code, err) == (0, "")
    assert out.startswith("out.mp4: 10 frames")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--content=",), 2, "--content is missing"),
        (("--content=none.mp4",), 2, "none.mp4: no such file; give a film file"),
        (("--content=.",), 2, ".: is not a regular file; give a film file"),
        (("--content=text.mp4",), 1, "(Invalid data found when processing input); "),
        (("--content=empty.mp4",), 1, "empty.mp4: cannot be read as a film ("),
        (("--content=cut.mp4",), 1, "cut.mp4: cannot be read as a film ("),
        (
            ("--content=text.jpg",),
            1,
            "text.jpg: cannot be read as a film (there are no",
        ),
        (("--content=sound.mp4",), 1, "(there are no frames in it)"),
        (("--content=picture.mp4",), 1, "is a single picture; tfstyle apply is for"),
        (("--output=out.avi",), 2, "not supported; use .mp4, .mov or .mkv"),
        (("--output=none/out.mp4",), 2, "the folder none does not exist"),
        (("--output=clip.mp4",), 2, "--output: clip.mp4 is an input"),
        (("--temporal=1.1",), 2, "--temporal=1.1: give"),
        (
            ("--steps=5",),
            2,
            "--steps: a network has no such option; leave it out",
        ),
        (("--frame_steps=5",), 2, "--frame_steps: a network has no such"),
        (("--size=0",), 2, "--size=0: give"),
    ],
)
def test_command_refuses_bad_films_and_flags(
    refused, place, no_tensorflow, words, code, message
):
    Path("text.mp4").write_text("no film")
    Path("text.jpg").write_text("no film")
    Path("empty.mp4").touch()
    Path("cut.mp4").write_bytes(Path("clip.mp4").read_bytes()[:2000])
    ffmpeg("-i", "clip.mp4", "-vn", "-c", "copy", "sound.mp4")
    save_image(load_image(CAT, 32), "picture.png")
    Path("picture.png").rename("picture.mp4")
    found, err = refused(*VIDEO, *words)
    assert found == code
    assert message in err
    assert not Path("out.mp4.frames").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--style_name=bb",), "there is no style 'bb'"),
        (("--model=none",), "none: no such file; give 'bundled'"),
        (("--size=12",), "a film of 12×8 pixels is too small"),
    ],
)
def test_command_refuses_bad_styles(refused, place, words, message):
    code, err = refused(*VIDEO, *words)
    assert code == 2
    assert message in err
    assert not Path("out.mp4.frames").exists()


@pytest.mark.parametrize("name", ["cv2", "imageio_ffmpeg"])
def test_command_names_the_library_that_is_missing(refused, place, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, err = refused(*VIDEO)
    assert code == 2
    assert f"{name} is not installed" in err
    assert "pip install 'tfstyle[video]'" in err
    with pytest.raises(MissingExtraError, match=name):
        stylize_video("clip.mp4", "out.mp4", unchanged)


def test_command_names_an_ffmpeg_that_is_missing(refused, place, monkeypatch):
    def missing():
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    code, err = refused(*VIDEO)
    assert code == 2
    assert "imageio_ffmpeg has no ffmpeg for this platform; install ffmpeg" in err


def test_stylize_video_keeps_frames_if_the_film_cannot_be_written(place, monkeypatch):
    monkeypatch.setattr(film_files, "FRAME_NAME", "none%d.png")
    with pytest.raises(VideoError, match=r"^out\.mp4: could not be written \("):
        stylize_video("clip.mp4", "out.mp4", unchanged)
    assert len(kept("out.mp4")) == FRAMES
    assert not Path("out.mp4").exists() and not list(place.glob(".tfstyle*"))


def fake_ffmpeg(folder: Path, script: str) -> str:
    """A program in place of ffmpeg that reads films but does not write them."""
    program = folder / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *libx264*) ;; *) exec {real} "$@";; esac\n'
        "for last; do :; done\n"
        'output="${last#file:}"\n'
        f"{script}\n"
    )
    program.chmod(0o755)
    return str(program)


def hidden(folder: Path) -> list[Path]:
    """Files that a user would not see."""
    return list(folder.rglob(".*"))


def test_stylize_video_keeps_only_frames_if_its_encoder_is_killed(place, monkeypatch):
    killed = fake_ffmpeg(place, 'echo half > "$output"; kill -KILL $$')
    with monkeypatch.context() as context:
        context.setenv("IMAGEIO_FFMPEG_EXE", killed)
        with pytest.raises(VideoError, match=r"^out\.mp4: .* ended by signal 9"):
            stylize_video("clip.mp4", "out.mp4", unchanged)
    assert not Path("out.mp4").exists() and not hidden(place)
    names = {file.name for file in Path("out.mp4.frames").iterdir()}
    assert names == {*kept("out.mp4"), "run.json"} and len(names) == FRAMES + 1
    film = stylize_video("clip.mp4", "out.mp4", unchanged)
    assert (film.frames, film.stopped) == (FRAMES, False)
    assert len(read("out.mp4")) == FRAMES and not Path("out.mp4.frames").exists()


def test_stylize_video_cleans_up_after_a_run_that_was_killed_while_it_encoded(
    place, monkeypatch
):
    slow = fake_ffmpeg(place, 'echo half > "$output"; touch begun; exec sleep 60')
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED_PROGRAM],
        env={**os.environ, "IMAGEIO_FFMPEG_EXE": slow, "PYTHONPATH": str(ROOT)},
    )
    encoding = Path("out.mp4.frames")
    try:
        deadline = time.monotonic() + 60
        while not (encoding / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        sleeping = [p.pid for p in psutil.Process(child.pid).children()]
        child.kill()
        child.wait()
        assert (encoding / "film.mp4").read_text() == "half\n"
        assert not Path("out.mp4").exists() and not hidden(place)
    finally:
        child.kill()
        for pid in sleeping:
            os.kill(pid, signal.SIGKILL)
    # The encoder outlives its program; what it writes must not get into the new film.
    with (encoding / "film.mp4").open() as abandoned:
        film = stylize_video("clip.mp4", "out.mp4", unchanged)
        assert abandoned.read() == "half\n"
    assert (film.frames, film.stopped) == (FRAMES, False)
    assert len(read("out.mp4")) == FRAMES
    assert not encoding.exists() and not hidden(place)


KILLED_PROGRAM = """
from tfstyle.video.stylize import stylize_video
stylize_video("clip.mp4", "out.mp4", lambda frame, *_: frame)
"""
