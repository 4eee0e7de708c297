import numpy as np

from tfstyle.colors import match_colors


def picture(seed, mean, scale):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, scale, (1, 40, 30, 3)) @ rng.normal(0, 1, (3, 3))
    return np.clip(mixed + mean, 0, 1).astype("float32")


def statistics(pixels):
    pixels = pixels.reshape(-1, 3).astype("float64")
    return pixels.mean(0), np.cov(pixels.T)


def test_takes_mean_and_covariance_and_keeps_the_shape():
    content, style = picture(0, 0.4, 0.03), picture(1, [0.5, 0.6, 0.4], 0.03)
    matched = match_colors(content, style)
    assert matched.shape == content.shape
    assert matched.dtype == np.float32
    for got, wanted in zip(statistics(matched), statistics(style), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-5)


def test_equal_statistics_change_nothing():
    content = picture(0, 0.4, 0.03)
    np.testing.assert_allclose(match_colors(content, content), content, atol=1e-6)


def test_one_colour_becomes_the_mean_of_the_other():
    grey, style = np.full((1, 8, 8, 3), 0.5, "float32"), picture(1, 0.5, 0.03)
    matched = match_colors(grey, style)
    np.testing.assert_allclose(matched[0, 0, 0], statistics(style)[0], atol=1e-6)


def test_stays_in_range():
    content, style = picture(2, 0.5, 0.3), picture(3, 0.5, 0.5)
    matched = match_colors(content, style)
    assert matched.min() >= 0
    assert matched.max() <= 1
