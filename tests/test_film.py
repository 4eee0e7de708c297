"""Tests of films whose frames are optimised, each from the one before."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.stylizer import memory
from tfstyle.video.flow import find_motion, frame_flicker

CAT = Path(__file__).parents[1] / "data" / "content" / "cat.jpg"


def film(style, frame_steps=20, temporal_weight=5.0, **options):
    stylizer = tfstyle.Stylizer(**options)
    return stylizer.film(
        style, frame_steps=frame_steps, temporal_weight=temporal_weight
    )


# Gram matrices have the smallest graph.
OPTIONS = {"scales": 1, "steps": 10, "margin": 4, "style_loss": "gram"}
EVERYWHERE = np.ones((1, 32, 40, 1), "float32")


@pytest.fixture
def next_frame(content):
    """The same picture, moved by two pixels."""
    return np.roll(content, 2, axis=2)


def test_film_stylizes_the_first_frame_like_a_picture(tiny_backbone, content, style):
    frames = film(style, **OPTIONS)
    alone = tfstyle.stylize(content, style, **OPTIONS)
    np.testing.assert_array_equal(frames(content, None, None), alone.images)


def test_film_goes_on_where_motion_is_consistent(
    tiny_backbone, content, style, next_frame
):
    frames = film(style, frame_steps=20, temporal_weight=100.0, **OPTIONS)
    warped = np.roll(frames(content, None, None), 2, axis=2)
    left = EVERYWHERE.copy()
    left[:, :, 20:] = 0
    made = frames(next_frame, warped, left)
    change = np.abs(made - warped).mean((0, 1, 3))
    assert change[:18].mean() < 0.02
    assert change[22:].mean() > 3 * change[:18].mean()
    free = film(style, frame_steps=20, temporal_weight=0.0, **OPTIONS)
    assert np.abs(free(next_frame, warped, left) - warped)[:, :, :18].mean() > 0.04
    assert made.dtype == np.float32 and made.min() >= 0 and made.max() <= 1


def test_film_starts_a_frame_from_what_is_known_of_the_last(
    tiny_backbone, content, style, next_frame
):
    # The first evaluation is that of the start, and moves nothing.
    frames = film(style, frame_steps=1, **{**OPTIONS, "color": "free"})
    warped = np.clip(content * 0.8, 0, 1)
    left = EVERYWHERE.copy()
    left[:, :, 20:] = 0
    made = frames(next_frame, warped, left)
    np.testing.assert_allclose(made[:, :, :20], warped[:, :, :20], atol=1e-6)
    np.testing.assert_allclose(made[:, :, 20:], next_frame[:, :, 20:], atol=1e-6)


def test_film_paints_from_coarse_to_fine_where_nothing_is_known_of_the_last(
    tiny_backbone, content, style, next_frame
):
    right = EVERYWHERE.copy()
    right[:, :, 20:] = 0
    changes = {}
    for scales in (1, 2):
        frames = film(style, frame_steps=12, **{**OPTIONS, "scales": scales})
        warped = np.roll(frames(content, None, None), 2, axis=2)
        change = np.abs(frames(next_frame, warped, right) - warped).mean((0, 1, 3))
        changes[scales] = change[:16].mean(), change[24:].mean()
    assert changes[2][1] > 1.1 * changes[1][1]
    assert changes[2][0] < 0.5 * changes[2][1]


def test_film_depends_on_its_arguments_only(tiny_backbone, content, style, next_frame):
    options = {**OPTIONS, "optimizer": "adam"}
    options["color"] = "content"  # the style takes each frame's colours
    one, two = (film(style, frame_steps=5, **options) for _ in range(2))
    warped = np.clip(content * 0.9, 0, 1)
    one(1 - next_frame, warped, 0 * EVERYWHERE)
    np.testing.assert_array_equal(
        one(next_frame, warped, EVERYWHERE), two(next_frame, warped, EVERYWHERE)
    )


def test_film_has_one_graph_for_all_frames(tiny_backbone, content, style, monkeypatch):
    stylizer = tfstyle.Stylizer(**OPTIONS, optimizer="adam")
    frames = stylizer.film(style, frame_steps=4)
    traces = []
    for shift in range(3):
        frames(np.roll(content, shift, 2), content, EVERYWHERE)
        traces.append(stylizer.engine.traces)
    assert traces == [1, 1, 1]


@pytest.mark.parametrize("color", ["free", "match"])
def test_film_traces_no_graph_after_the_second_frame(
    tiny_backbone, content, style, monkeypatch, color
):
    stylizer = tfstyle.Stylizer(**{**OPTIONS, "color": color})
    frames = stylizer.film(style, frame_steps=4)
    last = frames(content, None, None)
    last = frames(content, last, EVERYWHERE)
    loops, calls = stylizer.engine.traces, graphs_made(monkeypatch)
    for shift in (1, 2, 3):
        part = EVERYWHERE * (np.arange(40)[:, None] > shift)
        last = frames(np.roll(content, shift, 2), np.roll(last, 1, 2), part)
    assert stylizer.engine.traces == loops == 2
    assert not calls


def graphs_made(monkeypatch) -> list[tuple]:
    """Every loop whose graph is made from now on."""
    from tfstyle.optimizers import loop

    made, graph_loop = [], loop._graph_loop

    def spied(*words):
        made.append(words)
        return graph_loop(*words)

    monkeypatch.setattr(loop, "_graph_loop", spied)
    return made


@pytest.mark.parametrize(("wanted", "other"), [("adam", "LBFGS"), ("lbfgs", "Adam")])
def test_film_uses_its_optimizer_in_every_frame(
    tiny_backbone, content, style, monkeypatch, wanted, other
):
    def not_asked_for(*_, **__):
        raise AssertionError(f"{other} in a film with optimizer={wanted}")

    monkeypatch.setattr(f"tfstyle.stylizer.engine.{other}", not_asked_for)
    frames = film(style, frame_steps=3, optimizer=wanted, **OPTIONS)
    last = frames(content, None, None)
    for _ in range(2):
        last = frames(content, last, EVERYWHERE)


@pytest.fixture
def work(monkeypatch):
    """How often a style is decoded, matched and turned into Gram matrices."""
    from tfstyle.losses import PerceptualLoss
    from tfstyle.stylizer import pictures

    counts = {"reads": [], "matches": 0, "grams": 0}
    load, match = pictures.load_image, pictures.match_colors
    grams = PerceptualLoss.style_statistics

    def spied_load(source, *words, **options):
        if isinstance(source, str | Path):
            counts["reads"].append(Path(source).name)
        return load(source, *words, **options)

    def spied_match(*words, **options):
        counts["matches"] += 1
        return match(*words, **options)

    def spied_grams(*words, **options):
        counts["grams"] += 1
        return grams(*words, **options)

    monkeypatch.setattr(pictures, "load_image", spied_load)
    monkeypatch.setattr(pictures, "match_colors", spied_match)
    monkeypatch.setattr(PerceptualLoss, "style_statistics", spied_grams)
    return counts


def three_frames(content, source, **options) -> None:
    frames = film(source, frame_steps=2, optimizer="adam", **{**OPTIONS, **options})
    last = frames(content, None, None)
    for shift in (1, 2):
        last = frames(np.roll(content, shift, 2), last, EVERYWHERE)


@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_film_reads_its_style_and_computes_gram_matrices_once(
    tiny_backbone, folder, content, work, scale
):
    three_frames(content, "style.png", color="free", style_scale=[scale])
    assert work == {"reads": ["style.png"], "matches": 0, "grams": 1}


def test_film_computes_gram_matrices_of_a_large_style_once(
    tiny_backbone, folder, content, work, monkeypatch
):
    monkeypatch.setattr("tfstyle.stylizer.problem.LARGE", 1)
    three_frames(content, "style.png", color="free")
    assert work == {"reads": ["style.png"], "matches": 0, "grams": 1}


@pytest.mark.parametrize("color", ["match", "content"])
def test_film_reads_a_style_once_that_is_matched_to_each_frame(
    tiny_backbone, folder, content, work, color
):
    options = {**OPTIONS, "color": color, "optimizer": "adam"}
    frames = film("style.png", frame_steps=2, **options)
    for shade in (1.0, 0.8, 0.6):
        frames(shade * content, content, EVERYWHERE)
    assert work == {"reads": ["style.png"], "matches": 3, "grams": 3}


def test_film_stylizes_large_frames_tile_by_tile(
    tiny_backbone, content, style, next_frame, monkeypatch
):
    options = {**OPTIONS, "frame_steps": 3, "history": 4}
    whole = film(style, **options)(next_frame, content, EVERYWHERE)
    monkeypatch.setattr(memory, "RUNTIME", 0.0)
    for name in ("_LBFGS_COPIES", "_COPIES_PER_PAIR", "_LEAST_TILE"):
        monkeypatch.setattr(memory, name, 1e-9)
    cuts = []
    cut = memory.MemoryPlanner.cut
    monkeypatch.setattr(
        memory.MemoryPlanner, "cut", lambda *words: cuts.append(cut(*words)) or cuts[-1]
    )
    small = film(style, max_memory=4e-4, **options)
    tiled = small(next_frame, content, EVERYWHERE)
    assert cuts[-1].tiles > 1
    np.testing.assert_allclose(tiled, whole, atol=1e-3)


def test_film_refuses_bad_options(style):
    with pytest.raises(UsageError, match="stylize has no option 'stile'"):
        film(style, stile=1)
    with pytest.raises(UsageError, match="tv_weight=-1: give a number of at least 0"):
        film(style, tv_weight=-1)


# The command, on frames too small for slim19's deep layers.
SHALLOW = ("--style_layers=relu1_1,relu2_1", "--content_layers=relu2_1", "--scales=1")
SHALLOW += ("--style_loss=gram",)
COMMAND = ("video", "--content=clip.mp4", "--style=style.png", "--steps=8", *SHALLOW)


@pytest.fixture
def clip(folder):
    """A pan of five noisy frames, also as ``clip.mp4`` in the working directory."""
    pytest.importorskip("cv2")
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    photo = tfstyle.load_image(CAT, 120)[0]
    random = np.random.default_rng(1)
    writer = imageio_ffmpeg.write_frames(
        str(folder / "clip.mp4"), (64, 48), fps=8, macro_block_size=1
    )
    writer.send(None)
    frames = []
    for i in range(5):
        frame = photo[10:58, 2 * i : 2 * i + 64] + random.normal(0, 0.02, (48, 64, 3))
        frames.append(np.clip(frame, 0, 1)[None].astype("float32"))
        writer.send((frames[-1] * 255).astype("uint8"))
    writer.close()
    return frames


def flicker_of(out: str) -> float:
    return float(re.search(r"5 frames, 64×48, flicker ([\d.]+), ", out)[1])


def test_command_makes_a_film_that_flickers_little(run, clip):
    code, out, err = run(*COMMAND, "--output=out.mp4", "--frame_steps=8")
    assert (code, err) == (0, "")
    layers = {"style_layers": ["relu1_1", "relu2_1"], "content_layers": ["relu2_1"]}
    stylizer = tfstyle.Stylizer(steps=8, scales=1, style_loss="gram", **layers)
    alone = [stylizer(frame, "style.png").images for frame in clip]
    flickers = [
        frame_flicker(alone[i], alone[i - 1], find_motion(clip[i], clip[i - 1]))
        for i in range(1, 5)
    ]
    assert flicker_of(out) < 0.5 * np.mean(flickers)


def test_command_refuses_frames_of_other_flags(run, refused, clip, monkeypatch):
    from tfstyle.cli import video as command

    class StopAtOnce(command.ProgressBar):
        def __call__(self, progress):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(command, "ProgressBar", StopAtOnce)
        code, _, err = run(*COMMAND, "--output=out.mp4", "--frame_steps=3")
    assert code == 130
    assert "stopped after 1 frame, which out.mp4.frames keeps" in err
    words = ("--output=out.mp4", "--frame_steps=3", "--style_weight=2")
    code, line = refused(*COMMAND, *words)
    assert code == 2
    assert "style_weight" in line and "2.0" in line
    for words in (("--optimizer=adam",), ("--style=content.png",)):
        code, line = refused(*COMMAND, "--output=out.mp4", "--frame_steps=3", *words)
        assert code == 2
        assert words[0][2:].split("=")[0] in line


def test_command_uses_its_optimizer_in_every_frame(run, clip, monkeypatch):
    def not_asked_for(*_, **__):
        raise AssertionError("L-BFGS in a film with --optimizer=adam")

    monkeypatch.setattr("tfstyle.stylizer.engine.LBFGS", not_asked_for)
    words = ("--output=out.mp4", "--frame_steps=2", "--optimizer=adam")
    code, _, err = run(*COMMAND, *words)
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--style_name=waves",), "--style and --style_name: give one of them"),
        (("--model=other",), "--style and --model: give one of them"),
        (("--temporal=0.1",), "--style and --temporal: give one of them"),
        (("--style=no.png",), "no.png: no such file"),
        (("--tv_weight=-1",), "tv_weight=-1: give a number of at least 0"),
        (("--frame_steps=0",), "--frame_steps=0: give a whole number of at least 1"),
    ],
)
def test_command_refuses_bad_flags(refused, clip, no_tensorflow, words, said):
    code, line = refused(*COMMAND, "--output=out.mp4", *words)
    assert code == 2
    assert said in line
