"""Tests of colour statistics, colour matching and L*a*b*."""

import numpy as np
import pytest

from tfstyle.images.color import (
    color_statistics,
    keep_colors,
    lab_to_rgb,
    match_colors,
    mixed_statistics,
    rgb_to_lab,
)

pytestmark = pytest.mark.fast


def picture(seed, mean, scale):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, scale, (1, 40, 30, 3)) @ rng.normal(0, 1, (3, 3))
    return np.clip(mixed + mean, 0, 1).astype("float32")


def statistics(pixels):
    pixels = pixels.reshape(-1, 3).astype("float64")
    return pixels.mean(0), np.cov(pixels.T)


def test_match_colors_takes_mean_and_covariance():
    content, style = picture(0, 0.4, 0.03), picture(1, [0.5, 0.6, 0.4], 0.03)
    matched = match_colors(content, style)
    assert matched.shape == content.shape
    assert matched.dtype == np.float32
    for got, wanted in zip(statistics(matched), statistics(style), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_match_colors_of_equal_statistics_changes_nothing():
    content = picture(0, 0.4, 0.03)
    np.testing.assert_allclose(match_colors(content, content), content, atol=1e-6)


def test_match_colors_of_one_colour_is_the_mean():
    grey, style = np.full((1, 8, 8, 3), 0.5, "float32"), picture(1, 0.5, 0.03)
    matched = match_colors(grey, style)
    np.testing.assert_allclose(matched[0, 0, 0], statistics(style)[0], atol=1e-6)


def test_match_colors_stays_in_range():
    content, style = picture(2, 0.5, 0.3), picture(3, 0.5, 0.5)
    matched = match_colors(content, style)
    assert matched.min() >= 0
    assert matched.max() <= 1


def test_match_colors_is_the_symmetric_transfer():
    """Among all linear maps to the statistics, ``Lr Lp⁻¹`` of symmetric roots."""
    content, style = picture(0, 0.4, 0.03), picture(1, [0.5, 0.6, 0.4], 0.03)
    values, vectors = np.linalg.eigh(statistics(style)[1])
    theirs = vectors @ np.diag(values**0.5) @ vectors.T
    values, vectors = np.linalg.eigh(statistics(content)[1])
    inverse = vectors @ np.diag(values**-0.5) @ vectors.T
    centred = content.reshape(-1, 3) - statistics(content)[0]
    expected = centred @ (theirs @ inverse).T + statistics(style)[0]
    matched = match_colors(content, style).reshape(-1, 3)
    np.testing.assert_allclose(matched, np.clip(expected, 0, 1), atol=2e-3)


def test_match_colors_strength_blends():
    content, style = picture(0, 0.4, 0.03), picture(1, [0.5, 0.6, 0.4], 0.03)
    np.testing.assert_allclose(
        match_colors(content, style, strength=0.0), content, atol=1e-6
    )
    half = match_colors(content, style, strength=0.5)
    whole = match_colors(content, style)
    np.testing.assert_allclose(half, (content + whole) / 2, atol=1e-6)


def test_color_statistics_of_a_part_and_of_a_mixture():
    first, second = picture(1, 0.3, 0.02), picture(2, 0.6, 0.05)
    both = np.concatenate([first, second], 1)
    part = np.zeros(both.shape[:3])
    part[:, : first.shape[1]] = 0.7
    got = color_statistics(both, part)
    expected = color_statistics(first)
    np.testing.assert_allclose(got.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(got.covariance, expected.covariance, rtol=1e-5)
    mixed = mixed_statistics([expected, color_statistics(second)], [0.5, 0.5])
    whole = color_statistics(both)
    np.testing.assert_allclose(mixed.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(mixed.covariance, whole.covariance, rtol=1e-5)


# CIE 15: L*a*b* of sRGB's primaries under D65, as published to four digits.
@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((0.5, 0.5, 0.5), (53.39, 0, 0)),
    ],
)
def test_rgb_to_lab_of_known_colours(rgb, lab):
    np.testing.assert_allclose(rgb_to_lab(np.array(rgb)), lab, atol=0.02)


def test_lab_to_rgb_inverts_rgb_to_lab():
    rgb = np.random.default_rng(3).random((500, 3))
    np.testing.assert_allclose(lab_to_rgb(rgb_to_lab(rgb)), rgb, atol=1e-12)


def test_keep_colors_changes_luminance_only():
    content, other = picture(4, 0.5, 0.03), picture(5, 0.5, 0.03)
    kept = keep_colors(other, content)
    assert kept.dtype == np.float32
    difference = np.abs(rgb_to_lab(kept) - rgb_to_lab(content))
    assert difference[..., 1:].mean() < 0.01
    np.testing.assert_allclose(
        rgb_to_lab(kept)[..., 0], rgb_to_lab(other)[..., 0], atol=0.01
    )
    half = rgb_to_lab(keep_colors(other, content, 0.5))[..., 1:]
    expected = (rgb_to_lab(other) + rgb_to_lab(content))[..., 1:] / 2
    np.testing.assert_allclose(half, expected, atol=0.01)
    np.testing.assert_allclose(keep_colors(other, content, 0.0), other, atol=1e-6)
