"""Tests of tfstyle/frames.py: frames that go on with the one before."""

import numpy as np
import pytest

import tfstyle
from tfstyle import memory, optimize
from tfstyle.errors import UsageError
from tfstyle.frames import FrameOptimizer

OPTIONS = {"scales": 1, "steps": 10, "margin": 4}
EVERYWHERE = np.ones((1, 32, 40, 1), "float32")


@pytest.fixture
def next_frame(content):
    """The same picture, moved by two pixels."""
    return np.roll(content, 2, axis=2)


def test_the_first_frame_is_a_picture_of_its_own(tiny_backbone, content, style):
    frames = FrameOptimizer(style, **OPTIONS)
    alone = tfstyle.stylize(content, style, **OPTIONS)
    np.testing.assert_array_equal(frames(content, None, None), alone.image)


def test_a_frame_goes_on_where_motion_is_consistent(
    tiny_backbone, content, style, next_frame
):
    frames = FrameOptimizer(style, frame_steps=20, temporal_weight=100.0, **OPTIONS)
    warped = np.roll(frames(content, None, None), 2, axis=2)
    left = EVERYWHERE.copy()
    left[:, :, 20:] = 0
    made = frames(next_frame, warped, left)
    change = np.abs(made - warped).mean((0, 1, 3))
    assert change[:18].mean() < 0.02
    assert change[22:].mean() > 3 * change[:18].mean()
    free = FrameOptimizer(style, frame_steps=20, temporal_weight=0.0, **OPTIONS)
    assert np.abs(free(next_frame, warped, left) - warped)[:, :, :18].mean() > 0.04
    assert made.dtype == np.float32 and made.min() >= 0 and made.max() <= 1


def test_a_frame_depends_on_nothing_but_what_it_is_given(
    tiny_backbone, content, style, next_frame
):
    options = {**OPTIONS, "color": "content"}  # the style takes each frame's colours
    one, two = (FrameOptimizer(style, frame_steps=5, **options) for _ in range(2))
    warped = np.clip(content * 0.9, 0, 1)
    one(1 - next_frame, warped, 0 * EVERYWHERE)
    np.testing.assert_array_equal(
        one(next_frame, warped, EVERYWHERE), two(next_frame, warped, EVERYWHERE)
    )


def test_one_graph_serves_all_frames(tiny_backbone, content, style, monkeypatch):
    traced = []
    loop = optimize._graph_loop
    monkeypatch.setattr(
        optimize,
        "_graph_loop",
        lambda *words: traced.append(loop(*words)) or traced[-1],
    )
    frames = FrameOptimizer(style, frame_steps=4, **OPTIONS)
    for shift in range(3):
        frames(np.roll(content, shift, 2), content, EVERYWHERE)
    assert len(traced) == 1
    assert traced[0].experimental_get_tracing_count() == 1


def test_large_frames_go_tile_by_tile(
    tiny_backbone, content, style, next_frame, monkeypatch
):
    options = {**OPTIONS, "frame_steps": 3, "history": 4}
    whole = FrameOptimizer(style, **options)(next_frame, content, EVERYWHERE)
    monkeypatch.setattr(memory, "RUNTIME", 0.0)
    for name in ("_LBFGS_COPIES", "_COPIES_PER_PAIR", "_LEAST_TILE"):
        monkeypatch.setattr(memory, name, 0.0)
    cuts = []
    cut = memory.MemoryPlanner.cut
    monkeypatch.setattr(
        memory.MemoryPlanner, "cut", lambda *words: cuts.append(cut(*words)) or cuts[-1]
    )
    small = FrameOptimizer(style, max_memory=4e-4, **options)
    tiled = small(next_frame, content, EVERYWHERE)
    assert cuts[-1].tiles > 1
    np.testing.assert_allclose(tiled, whole, atol=1e-3)


def test_bad_options_are_refused_at_once(style):
    with pytest.raises(UsageError, match="there is no option 'stile'"):
        FrameOptimizer(style, stile=1)
    with pytest.raises(UsageError, match="tv_weight=-1: give a number of at least 0"):
        FrameOptimizer(style, tv_weight=-1)
