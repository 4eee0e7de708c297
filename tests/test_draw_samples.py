"""Tests of scripts/draw_samples.py."""

from pathlib import Path

import numpy as np
import pytest
from conftest import load_script
from PIL import Image

_ROOT = Path(__file__).resolve().parents[1]
_NAMES = ("nocturne", "stained_glass", "waves", "pointillism", "discs")


draw_samples = load_script("draw_samples")


def _paint(name: str, width: int = 64, height: int = 64, seed: int = 7) -> np.ndarray:
    return np.asarray(draw_samples.paint(name, width, height, seed))


def test_every_painter_is_tested():
    assert tuple(draw_samples.PAINTERS) == _NAMES


@pytest.fixture(scope="module", params=_NAMES)
def sample(request) -> tuple[str, np.ndarray]:
    return request.param, _paint(request.param)


def test_is_uint8_rgb_of_the_size_asked_for(sample):
    name, picture = sample
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert _paint(name, width=40, height=32).shape == (32, 40, 3)


def test_same_seed_paints_the_same_pixels(sample):
    name, picture = sample
    np.testing.assert_array_equal(picture, _paint(name))


def test_other_seed_paints_other_pixels(sample):
    name, picture = sample
    assert np.any(picture != _paint(name, seed=8))


def test_colours_are_rich(sample):
    pixels = sample[1].reshape(-1, 3).astype(float)
    assert pixels.std() > 45
    # Grey pictures have equal channels; a palette spreads them.
    assert np.ptp(pixels, axis=1).mean() > 40


def test_most_of_the_picture_has_texture(sample):
    grey = sample[1].mean(axis=-1)
    patches = grey.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(64, 64)
    assert np.mean(patches.std(axis=1) > 3.0) > 0.95


def test_ramp_ends_at_the_first_and_the_last_colour():
    colours = draw_samples.palette("000000 ff0000 ffffff")
    mapped = draw_samples.ramp(np.array([-1.0, 0.5, 2.0]), colours)
    np.testing.assert_allclose(mapped, [[0, 0, 0], [1, 0, 0], [1, 1, 1]])


def test_noise_is_standardised():
    noise = draw_samples.noise(np.random.default_rng(0), (40, 60), 5.0)
    assert noise.shape == (40, 60)
    assert noise.mean() == pytest.approx(0.0, abs=1e-6)
    assert noise.std() == pytest.approx(1.0)


def test_nearest_two_measures_the_distance_to_the_border():
    x = np.array([[0.0, 0.25, 0.9]])
    sites = np.array([[0.0, 0.0], [1.0, 0.0]])
    owner, border = draw_samples.nearest_two(x, np.zeros_like(x), sites)
    np.testing.assert_array_equal(owner, [[0, 0, 1]])
    np.testing.assert_allclose(border, [[0.5, 0.25, 0.4]], atol=1e-5)


def test_strokes_follow_the_flow():
    down = np.full((20, 20), np.pi / 2)
    paths = draw_samples.trace(down, np.array([[5.0, 2.0]]), length=10.0)
    np.testing.assert_allclose(paths[0, -1], [5.0, 12.0])


@pytest.mark.parametrize("name", _NAMES)
def test_the_repository_holds_the_picture(name):
    with Image.open(_ROOT / "data" / "style" / f"{name}.jpg") as picture:
        assert picture.size == (640, 512)
        assert picture.mode == "RGB"
