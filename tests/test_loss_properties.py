"""Properties of the losses that hold for any input, on inputs drawn by hypothesis."""

import math
import typing

import numpy as np
import tensorflow as tf
from conftest import TinyFeatures
from hypothesis import given, settings
from hypothesis import strategies as st

from tfstyle.losses import (
    PerceptualLoss,
    blend_styles,
    content_loss,
    gram_matrix,
    style_loss,
    total_variation,
)
from tfstyle.losses.perceptual import guide_areas
from tfstyle.options.options import Normalization

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)
NORMALIZATIONS = typing.get_args(Normalization)
normalizations = st.sampled_from(NORMALIZATIONS)
factors = st.floats(1e-3, 1e3)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


@st.composite
def features(draw, count=1, batch=True):
    """Features of one shape, ``[N, H, W, C]`` float64, none of them 0 throughout."""
    shape = (draw(st.integers(1, 2)) if batch else 1, *draw(st.tuples(sides, sides)))
    shape = (*shape, draw(st.integers(1, 6)))
    seed = draw(seeds)
    arrays = [normal([seed, i], *shape) for i in range(count)]
    return arrays if count > 1 else arrays[0]


def assert_close(one, other, tolerance=1e-10):
    one, other = np.asarray(one), np.asarray(other)
    scale = max(np.abs(one).max(), np.abs(other).max(), 1e-300)
    assert np.abs(one - other).max() <= tolerance * scale


# Losses: zero


@given(features(), normalizations)
def test_losses_are_zero_on_equal_inputs(x, normalization):
    gram = gram_matrix(x)
    assert np.all(content_loss(x, x, normalization) == 0)
    assert np.all(style_loss(gram, gram, normalization) == 0)
    flat = np.broadcast_to(x[:, :1, :1], x.shape)
    assert np.all(total_variation(flat, normalization) == 0)


@given(features(2), normalizations)
def test_losses_are_positive_on_other_inputs(xs, normalization):
    grams = [gram_matrix(x) for x in xs]
    assert np.all(np.asarray(content_loss(*xs, normalization)) > 0)
    assert np.all(np.asarray(style_loss(*grams, normalization)) > 0)
    if max(xs[0].shape[1:3]) > 1:
        assert np.all(np.asarray(total_variation(xs[0], normalization)) > 0)


@given(seeds, st.tuples(st.integers(7, 20), st.integers(7, 20)), normalizations)
@settings(max_examples=15)
def test_a_picture_has_no_distance_to_itself(seed, size, normalization):
    image = tf.constant(np.random.default_rng(seed).uniform(size=(1, *size, 3)))
    loss = perceptual_loss(normalization, tv_weight=0.0)
    total, terms = loss(image, loss.targets(image, image))
    assert float(total) == 0 and all(float(term) == 0 for term in terms.values())
    other = tf.constant(np.random.default_rng([seed, 1]).uniform(size=(1, *size, 3)))
    total, terms = loss(image, loss.targets(other, other))
    assert all(float(term) > 0 for term in terms.values())
    assert_close(total, sum(float(term) for term in terms.values()))


# Losses: symmetry


@given(features(2), normalizations)
def test_losses_are_symmetric_but_for_what_they_are_relative_to(xs, normalization):
    x, y = xs
    grams = gram_matrix(x), gram_matrix(y)
    relative = normalization == "relative"
    sizes = [np.sum(a**2, (1, 2, 3)) if relative else 1.0 for a in xs]
    assert_close(
        content_loss(x, y, normalization) * sizes[1],
        content_loss(y, x, normalization) * sizes[0],
    )
    sizes = [np.sum(g.numpy() ** 2, (1, 2)) if relative else 1.0 for g in grams]
    assert_close(
        style_loss(*grams, normalization) * sizes[1],
        style_loss(*grams[::-1], normalization) * sizes[0],
    )


@given(features())
def test_gram_matrices_are_symmetric_and_positive(x):
    gram = gram_matrix(x).numpy()
    assert_close(gram, gram.swapaxes(1, 2), 1e-14)
    assert np.linalg.eigvalsh(gram).min() >= -1e-12 * np.abs(gram).max()
    # Its trace is the mean square.
    assert_close(np.trace(gram, axis1=1, axis2=2), (x**2).mean((1, 2, 3)))


# Losses: invariance


@given(features(), seeds)
def test_gram_matrices_do_not_know_places(x, seed):
    batch, height, width, channels = x.shape
    order = np.random.default_rng(seed).permutation(height * width)
    moved = x.reshape(batch, -1, channels)[:, order].reshape(x.shape)
    assert_close(gram_matrix(moved), gram_matrix(x), 1e-12)
    assert_close(gram_matrix(x.swapaxes(1, 2)), gram_matrix(x), 1e-12)
    assert_close(gram_matrix(np.tile(x, (1, 2, 3, 1))), gram_matrix(x), 1e-12)


@given(features(), factors)
def test_gram_matrices_are_quadratic(x, factor):
    assert_close(gram_matrix(factor * x), factor**2 * gram_matrix(x).numpy())
    assert_close(gram_matrix(-x), gram_matrix(x))


@given(features(2), st.floats(0.1, 1e3))
def test_relative_losses_do_not_know_the_scale(xs, factor):
    x, y = xs
    grams = [gram_matrix(a) for a in xs]
    scaled = [gram_matrix(factor * a) for a in xs]
    assert_close(content_loss(factor * x, factor * y), content_loss(x, y))
    assert_close(style_loss(*scaled, "relative"), style_loss(*grams, "relative"))


@given(features(2), factors, st.sampled_from(NORMALIZATIONS[1:]))
def test_the_other_losses_grow_with_the_scale(xs, factor, normalization):
    x, y = xs
    grams = [gram_matrix(a) for a in xs]
    scaled = [gram_matrix(factor * a) for a in xs]
    content = content_loss(factor * x, factor * y, normalization)
    assert_close(content, factor**2 * content_loss(x, y, normalization).numpy())
    style = style_loss(*grams, normalization).numpy()
    assert_close(style_loss(*scaled, normalization), factor**4 * style)


@given(features(2), seeds, normalizations)
def test_losses_do_not_know_the_axes_of_channels(xs, seed, normalization):
    channels = xs[0].shape[-1]
    axes, _ = np.linalg.qr(normal(seed, channels, channels))
    turned = [x @ axes for x in xs]
    assert_close(content_loss(*turned, normalization), content_loss(*xs, normalization))
    grams, others = ([gram_matrix(a) for a in pair] for pair in (xs, turned))
    assert_close(
        style_loss(*others, normalization),
        style_loss(*grams, normalization),
        1e-8,
    )


@given(features(), st.floats(-100, 100), factors, normalizations)
def test_total_variation_knows_differences_only(x, shift, factor, normalization):
    before = total_variation(x, normalization).numpy()
    for same in (x + shift, -x, x[:, ::-1], x[:, :, ::-1], x.swapaxes(1, 2)):
        assert_close(total_variation(same, normalization), before, 1e-8)
    assert_close(total_variation(factor * x, normalization), factor**2 * before)


@given(st.integers(2, 4), st.integers(1, 3), st.integers(1, 5), seeds, normalizations)
def test_blends_of_styles(styles, regions, channels, seed, normalization):
    grams = [
        {"a": gram_matrix(normal([seed, i], regions, 4, 5, channels))[None]}
        for i in range(styles)
    ]
    weights = np.random.default_rng(seed).uniform(0.1, 1, (styles, regions))
    blend = blend_styles(grams, weights, normalization)["a"].numpy()
    # In another order, with other units of weight, or of one style alone.
    again = blend_styles(grams[::-1], 7 * weights[::-1], normalization)["a"]
    assert_close(again, blend)
    alone = np.zeros_like(weights)
    alone[0] = 1
    assert_close(blend_styles(grams, alone, normalization)["a"], grams[0]["a"])
    # Between them.
    parts = np.stack([gram["a"].numpy() for gram in grams])
    assert np.all(blend <= parts.max(0) + 1e-12)
    assert np.all(blend >= parts.min(0) - 1e-12)


@given(st.integers(1, 5), factors, seeds)
def test_an_equal_blend_is_as_near_to_both(channels, factor, seed):
    one = gram_matrix(normal([seed, 0], 1, 4, 5, channels))[:, None]
    other = factor * gram_matrix(normal([seed, 1], 1, 4, 5, channels))[:, None]
    blend = blend_styles([{"a": one}, {"a": other}], np.ones((2, 1)))["a"]
    assert_close(
        style_loss(blend, one, "relative"),
        style_loss(blend, other, "relative"),
        1e-7,
    )


@given(features(batch=False), st.integers(1, 4), seeds)
def test_regions_add_up_to_the_whole(x, regions, seed):
    shares = np.random.default_rng(seed).uniform(0.01, 1, (*x.shape[:3], regions))
    guides = {"a": tf.constant(shares / shares.sum(-1, keepdims=True))}
    areas = guide_areas(guides)
    assert_close(tf.reduce_sum(areas["a"]), math.prod(x.shape[1:3]))
    grams = tf.stack(
        [
            gram_matrix(x, guides["a"][..., r : r + 1], areas["a"][r])
            for r in range(regions)
        ],
        1,
    )
    shares_of_area = (areas["a"] / tf.reduce_sum(areas["a"]))[:, None, None]
    assert_close(tf.reduce_sum(grams * shares_of_area, 1), gram_matrix(x))


# Losses: gradients


def perceptual_loss(normalization, **changes):
    weights = {"content_weight": 0.7, "style_weight": 1.3, "tv_weight": 0.4, **changes}
    return PerceptualLoss(
        TinyFeatures(),
        content_layers={"b": 0.5, "c": 1.0},
        style_layers={"a": 1.0, "b": 0.3, "c": 0.6},
        normalization=normalization,
        **weights,
    )


def assert_gradient(function, x, seed, tolerance=2e-6):
    """Compares the slope in some direction with that of a central difference."""
    x = tf.constant(x)
    direction = normal(seed, *x.shape)
    direction /= np.linalg.norm(direction)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(function(x))
    slope = float(np.sum(tape.gradient(value, x) * direction))
    step = 1e-5
    ahead, behind = (
        float(tf.reduce_sum(function(x + s * direction))) for s in (step, -step)
    )
    rounding = 1e-15 * abs(float(value)) / step
    assert (
        abs((ahead - behind) / (2 * step) - slope)
        <= tolerance * abs(slope) + 20 * rounding
    )


@given(features(2), seeds, normalizations)
def test_gradients_of_losses_are_finite_differences(xs, seed, normalization):
    x, target = xs
    gram = gram_matrix(target)
    assert_gradient(lambda a: content_loss(a, target, normalization), x, seed)
    assert_gradient(lambda a: total_variation(a, normalization), x, seed)
    assert_gradient(lambda a: gram_matrix(a) * normal(seed, *gram.shape), x, seed)
    assert_gradient(lambda a: style_loss(gram_matrix(a), gram, normalization), x, seed)


@given(seeds, st.tuples(st.integers(7, 16), st.integers(7, 16)), normalizations)
@settings(max_examples=12)
def test_the_gradient_of_everything_is_a_finite_difference(seed, size, normalization):
    rng = np.random.default_rng(seed)
    image, content, style, warped = rng.uniform(size=(4, 1, *size, 3))
    loss = perceptual_loss(normalization, temporal_weight=0.9)
    shapes = {layer: f.shape for layer, f in loss.features(tf.constant(image)).items()}
    shares = {
        layer: rng.uniform(0.1, 1, (1, *s[1:3], 2)) for layer, s in shapes.items()
    }
    guides = {
        layer: tf.constant(s / s.sum(-1, keepdims=True)) for layer, s in shares.items()
    }
    targets = loss.assemble(
        size,
        *loss.content_targets(tf.constant(content)),
        loss.style_statistics(tf.constant(style), guides),
        guides,
        warped=tf.constant(warped),
        consistency=tf.constant(rng.uniform(size=(1, *size, 1))),
    )
    assert len(loss(tf.constant(image), targets)[1]) == len(loss.term_names) == 7
    assert_gradient(lambda a: loss(a, targets)[0], image, seed, 1e-5)
