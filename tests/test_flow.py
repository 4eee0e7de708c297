"""Tests of tfstyle/video/flow.py."""

import math
import sys

import numpy as np
import pytest

from tfstyle.errors import MissingExtraError
from tfstyle.video import flow

cv2 = pytest.importorskip("cv2")

pytestmark = pytest.mark.fast

HEIGHT, WIDTH = 60, 80


def texture(height: int, width: int, seed: int = 1) -> np.ndarray:
    """Blobs of a few pixels, ``[1, H, W, 3]``."""
    noise = np.random.default_rng(seed).uniform(size=(height, width, 3))
    blobs = cv2.GaussianBlur(noise.astype("float32"), (0, 0), 2)
    blobs = (blobs - blobs.min()) / (blobs.max() - blobs.min())
    return blobs[None]


def constant_flow(x: float, y: float) -> np.ndarray:
    return np.full([HEIGHT, WIDTH, 2], (x, y), "float32")


@pytest.fixture(scope="module")
def scene():
    """A square that goes 6 pixels to the right over a still background."""
    ground, square = texture(HEIGHT, WIDTH), texture(24, 24, seed=2)
    previous, frame = ground.copy(), ground.copy()
    previous[:, 18:42, 20:44] = square
    frame[:, 18:42, 26:50] = square
    return frame, previous


def test_warp_by_whole_pixels_is_exact():
    picture = texture(HEIGHT, WIDTH)
    warped = flow.warp(picture, constant_flow(3, -2))
    np.testing.assert_array_equal(warped[:, 2:, :-3], picture[:, :-2, 3:])
    np.testing.assert_array_equal(warped[0, :2, 0], picture[0, [0, 0], 3])  # its border


def test_warp_between_pixels_keeps_a_ramp():
    ramp = np.broadcast_to(np.linspace(0, 1, WIDTH)[:, None], (1, HEIGHT, WIDTH, 1))
    warped = flow.warp(ramp.astype("float32"), constant_flow(0.5, 0).astype("float64"))
    assert warped.shape == (1, HEIGHT, WIDTH, 1)
    expected = ramp[:, :, 2:-3] + 0.5 / (WIDTH - 1)
    np.testing.assert_allclose(warped[:, :, 2:-3], expected, atol=1e-5)


def test_find_motion_finds_a_shift():
    wide = texture(HEIGHT, WIDTH + 4)
    motion = flow.find_motion(wide[:, :, 4:], wide[:, :, :-4])  # goes left by 4
    inner = motion.flow[8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, (0, 1)), [4, 0], atol=0.05)
    assert motion.consistent[:, 8:-8, 8:-8].mean() > 0.95
    assert not motion.consistent[:, :, -3:].any()  # was outside


def test_optical_flow_of_the_least_side():
    picture = texture(flow.LEAST_SIDE, flow.LEAST_SIDE)
    assert np.abs(flow.optical_flow(picture, picture)).max() < 0.1


def test_find_motion_does_not_trust_disocclusions(scene):
    consistent = flow.find_motion(*scene).consistent[0, ..., 0]
    uncovered = consistent[20:40, 20:26]  # was behind the square
    assert uncovered.mean() < 0.15
    assert consistent[24:36, 32:44].mean() > 0.95  # the square itself
    assert consistent[:, 60:].mean() > 0.95  # the ground


def test_consistency_by_hand():
    there = constant_flow(2, 0)
    exact = flow.consistency(there, -there)
    assert exact.shape == (1, HEIGHT, WIDTH, 1) and exact.dtype == bool
    assert exact[:, :, :-2].all() and not exact[:, :, -2:].any()
    # 0.7² = 0.49 is below 0.5 + 0.01·(2² + 1.3²), and 0.8² = 0.64 above that.
    assert flow.consistency(there, constant_flow(-1.3, 0))[:, :, :-2].all()
    assert not flow.consistency(there, constant_flow(-1.2, 0)).any()
    # A slope of 0.05 has a square of 0.0025: above 0.002 where nothing moves much.
    slope = np.zeros([HEIGHT, WIDTH, 2], "float32")
    slope[..., 1] = 0.05 * np.arange(WIDTH) - 0.05 * 10
    found = flow.consistency(slope, -slope)[0, 20:40, :, 0]
    square = np.square(slope[0, :, 1])
    np.testing.assert_array_equal(found, [0.01 * square + 0.002 >= 0.0025] * 20)


def test_trust_lies_inside_what_is_consistent(scene):
    motion = flow.find_motion(*scene)
    assert motion.trust.shape == (1, HEIGHT, WIDTH, 1)
    assert motion.trust.dtype == np.float32
    assert not motion.trust[~motion.consistent].any()
    assert motion.trust.max() > 0.9
    assert ((motion.trust > 0.1) & (motion.trust < 0.9)).any()


def test_find_motion_does_not_trust_a_flash_or_a_cut():
    picture = 0.6 * texture(HEIGHT, WIDTH)
    assert flow.find_motion(picture, picture).trust[:, 8:-8, 8:-8].min() > 0.99
    assert flow.find_motion(picture + 0.3, picture).trust.mean() < 0.01
    other = texture(HEIGHT, WIDTH, seed=5)
    assert flow.find_motion(other, picture).trust.mean() < 0.05


def test_flicker_is_the_root_of_the_mean_square():
    picture = texture(HEIGHT, WIDTH)
    still, grey = flow.find_motion(picture, picture), np.full_like(picture, 0.5)
    assert flow.frame_flicker(grey, grey, still) == 0
    lighter = grey + np.array([0.1, 0, 0], "float32")
    found = flow.frame_flicker(lighter, grey, still)
    assert found == pytest.approx(0.1 / math.sqrt(3), abs=1e-6)
    assert flow.mean_flicker(iter([0.0, found])) == pytest.approx(found / 2)


def test_flicker_leaves_out_what_is_not_consistent(scene):
    frame, previous = scene
    motion = flow.find_motion(frame, previous)
    changed = np.where(motion.consistent, 0.5, 1.0).repeat(3, -1).astype("float32")
    grey = np.full_like(changed, 0.5)
    assert flow.frame_flicker(changed, grey, motion) < 1e-6
    nowhere = flow.Motion(motion.flow, np.zeros_like(motion.consistent), motion.trust)
    assert math.isnan(flow.frame_flicker(changed, grey, nowhere))
    assert flow.mean_flicker([math.nan, 0.25, 0.75]) == 0.5
    assert flow.mean_flicker([math.nan]) == 0


def test_find_motion_names_the_extra_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    picture = np.zeros([1, HEIGHT, WIDTH, 3], "float32")
    with pytest.raises(MissingExtraError, match=r"cv2 .* 'tfstyle\[video\]'"):
        flow.find_motion(picture, picture)
