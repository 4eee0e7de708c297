"""Tests of scripts/measure_flicker.py."""

import itertools

import numpy as np
import pytest
from conftest import load_script

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def script():
    return load_script("measure_flicker")


def test_make_film_moves_and_has_its_own_noise_in_every_frame(script):
    still, moving = (list(script.make_film(64, 48, 3, noise)) for noise in (0.0, 0.02))
    assert [frame.shape for frame in still] == [(1, 48, 64, 3)] * 3
    assert np.abs(still[1] - still[0]).mean() > 0.01
    noise = [b - a for a, b in zip(still, moving, strict=True)]
    assert 0.012 < noise[0].std() < 0.022
    assert np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1] < 0.1
    again = next(script.make_film(64, 48, 1, 0.02))
    np.testing.assert_array_equal(again, moving[0])


def test_flicker_of_steadied_frames_is_lower(script):
    frames = list(script.make_film(192, 108, 4, 0.01))
    motions = [script.find_motion(b, a) for a, b in itertools.pairwise(frames)]

    def follow(frame, warped, trust):
        return frame if warped is None else frame + 0.6 * trust * (warped - frame)

    alone = script.stylized(frames, motions, lambda frame, *_: frame)
    np.testing.assert_array_equal(alone, frames)
    steady = script.stylized(frames, motions, follow)
    before, after = (script.flicker_of(made, motions) for made in (alone, steady))
    assert before > 0.01 and after < 0.8 * before


def test_drift_is_the_distance_of_the_first_and_last_colours(script):
    rng = np.random.default_rng(0)
    frame = 0.5 + 0.1 * rng.standard_normal((1, 40, 50, 3))
    assert script.drift_of([frame, frame + 0.3, frame]) == pytest.approx(0, abs=1e-6)
    moved = script.drift_of([frame, frame + np.array([0.3, 0, 0.4])])
    assert moved == pytest.approx(0.5, rel=1e-6)
    # Of channels, each with twice the deviation.
    middle = frame.mean((0, 1, 2))
    spread = script.drift_of([frame, middle + 2 * (frame - middle)])
    assert spread == pytest.approx(0.1 * 3**0.5, rel=0.05)
