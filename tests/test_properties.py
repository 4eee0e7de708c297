"""Properties that hold for any input, tried on inputs drawn by hypothesis."""

import contextlib
import io
import math
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TinyFeatures, lively_network
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tfstyle.backbones.base import Backbone, convolution, pool
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.images import encode_image, load_image, resize_image
from tfstyle.images.tiles import Field, Grid, cut
from tfstyle.losses import (
    PerceptualLoss,
    blend_grams,
    content_loss,
    gram_matrix,
    style_loss,
    total_variation,
)
from tfstyle.losses.perceptual import guide_areas
from tfstyle.losses.tiled import TiledLoss
from tfstyle.networks import apply
from tfstyle.options.options import Normalization

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("repeatable")

seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 9)
NORMALIZATIONS = typing.get_args(Normalization)
normalizations = st.sampled_from(NORMALIZATIONS)
factors = st.floats(1e-3, 1e3)
FILTERS = list(Image.Resampling)
# A pixel half way between two is that on one side, whichever it is called.
STEPPED = (Image.Resampling.NEAREST, Image.Resampling.BOX)
INTERPOLATING = [resample for resample in FILTERS if resample not in STEPPED]


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


def style_distance(gram, target, normalization):
    return style_loss(gram, target, normalization)


# Losses: zero


@given(features(), normalizations)
def test_losses_are_zero_on_equal_inputs(x, normalization):
    gram = gram_matrix(x)
    assert np.all(content_loss(x, x, normalization) == 0)
    assert np.all(style_distance(gram, gram, normalization) == 0)
    flat = np.broadcast_to(x[:, :1, :1], x.shape)
    assert np.all(total_variation(flat, normalization) == 0)


@given(features(2), normalizations)
def test_losses_are_positive_on_other_inputs(xs, normalization):
    grams = [gram_matrix(x) for x in xs]
    assert np.all(np.asarray(content_loss(*xs, normalization)) > 0)
    assert np.all(np.asarray(style_distance(*grams, normalization)) > 0)
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
        style_distance(*grams, normalization) * sizes[1],
        style_distance(*grams[::-1], normalization) * sizes[0],
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
    assert_close(
        style_distance(*scaled, "relative"), style_distance(*grams, "relative")
    )


@given(features(2), factors, st.sampled_from(NORMALIZATIONS[1:]))
def test_the_other_losses_grow_with_the_scale(xs, factor, normalization):
    x, y = xs
    grams = [gram_matrix(a) for a in xs]
    scaled = [gram_matrix(factor * a) for a in xs]
    content = content_loss(factor * x, factor * y, normalization)
    assert_close(content, factor**2 * content_loss(x, y, normalization).numpy())
    style = style_distance(*grams, normalization).numpy()
    assert_close(style_distance(*scaled, normalization), factor**4 * style)


@given(features(2), seeds, normalizations)
def test_losses_do_not_know_the_axes_of_channels(xs, seed, normalization):
    channels = xs[0].shape[-1]
    axes, _ = np.linalg.qr(normal(seed, channels, channels))
    turned = [x @ axes for x in xs]
    assert_close(content_loss(*turned, normalization), content_loss(*xs, normalization))
    grams, others = ([gram_matrix(a) for a in pair] for pair in (xs, turned))
    assert_close(
        style_distance(*others, normalization),
        style_distance(*grams, normalization),
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
    blend = blend_grams(grams, weights, normalization)["a"].numpy()
    # In another order, with other units of weight, or of one style alone.
    again = blend_grams(grams[::-1], 7 * weights[::-1], normalization)["a"]
    assert_close(again, blend)
    alone = np.zeros_like(weights)
    alone[0] = 1
    assert_close(blend_grams(grams, alone, normalization)["a"], grams[0]["a"])
    # Between them.
    parts = np.stack([gram["a"].numpy() for gram in grams])
    assert np.all(blend <= parts.max(0) + 1e-12)
    assert np.all(blend >= parts.min(0) - 1e-12)


@given(st.integers(1, 5), factors, seeds)
def test_an_equal_blend_is_as_near_to_both(channels, factor, seed):
    one = gram_matrix(normal([seed, 0], 1, 4, 5, channels))[:, None]
    other = factor * gram_matrix(normal([seed, 1], 1, 4, 5, channels))[:, None]
    blend = blend_grams([{"a": one}, {"a": other}], np.ones((2, 1)))["a"]
    assert_close(
        style_distance(blend, one, "relative"),
        style_distance(blend, other, "relative"),
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


def perceptual_loss(normalization, features=None, **changes):
    weights = {"content_weight": 0.7, "style_weight": 1.3, "tv_weight": 0.4, **changes}
    return PerceptualLoss(
        features or TinyFeatures(),
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
    assert_gradient(
        lambda a: style_distance(gram_matrix(a), gram, normalization), x, seed
    )


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
        loss.style_grams(tf.constant(style), guides),
        guides,
        warped=tf.constant(warped),
        consistency=tf.constant(rng.uniform(size=(1, *size, 1))),
    )
    assert len(loss(tf.constant(image), targets)[1]) == len(loss.term_names) == 7
    assert_gradient(lambda a: loss(a, targets)[0], image, seed, 1e-5)


# Resizing


def picture(seed, height, width):
    return np.random.default_rng(seed).random((1, height, width, 3)).astype(np.float32)


lengths = st.integers(1, 40)


@given(seeds, lengths, lengths, st.integers(1, 4), st.integers(1, 4))
def test_a_whole_enlargement_is_taken_back(seed, height, width, down, across):
    image = picture(seed, height, width)
    nearest, box = Image.Resampling.NEAREST, Image.Resampling.BOX
    for resample in (nearest, box):
        large = resize_image(image, (height * down, width * across), resample=resample)
        np.testing.assert_array_equal(
            large, image.repeat(down, axis=1).repeat(across, axis=2)
        )
        for back in (nearest, box):
            same = resize_image(large, (height, width), resample=back)
            np.testing.assert_allclose(same, image, atol=1e-6)


@given(st.floats(0, 1), lengths, lengths, lengths, lengths, st.sampled_from(FILTERS))
def test_a_flat_picture_stays_flat(value, height, width, down, across, resample):
    image = np.full((1, height, width, 3), value, np.float32)
    resized = resize_image(image, (down, across), resample=resample)
    assert resized.shape == (1, down, across, 3)
    np.testing.assert_allclose(resized, value, atol=1e-6)


@given(seeds, lengths, lengths, lengths, lengths, st.sampled_from(INTERPOLATING))
def test_resizing_does_not_know_directions(seed, height, width, down, across, resample):
    image, size = picture(seed, height, width), (down, across)
    resized = resize_image(image, size, resample=resample)
    assert resized.dtype == np.float32
    assert resized.min() >= 0 and resized.max() <= 1
    for axis in (1, 2):
        mirrored = resize_image(np.flip(image, axis), size, resample=resample)
        np.testing.assert_allclose(np.flip(mirrored, axis), resized, atol=2e-6)
    turned = resize_image(image.swapaxes(1, 2), size[::-1], resample=resample)
    np.testing.assert_allclose(turned.swapaxes(1, 2), resized, atol=2e-6)
    channels = [2, 0, 1]
    np.testing.assert_array_equal(
        resize_image(image[..., channels], size, resample=resample),
        resized[..., channels],
    )


@given(seeds, st.integers(8, 40), st.integers(8, 40), st.integers(2, 4))
def test_a_smooth_picture_comes_back(seed, height, width, factor):
    phase, slope = np.random.default_rng(seed).uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:height, :width]
    wave = np.cos(np.pi * (y * np.sin(slope) + x * np.cos(slope)) / 12 + phase)
    image = np.repeat((0.5 + 0.3 * wave)[None, ..., None], 3, -1).astype(np.float32)
    large = resize_image(image, (factor * height, factor * width))
    back = resize_image(large, (height, width))
    np.testing.assert_allclose(back[:, 3:-3, 3:-3], image[:, 3:-3, 3:-3], atol=0.01)


@given(seeds, lengths, lengths, lengths)
def test_the_longest_side_is_as_asked(seed, height, width, size):
    image = picture(seed, height, width)
    for allow in (False, True):
        rows, columns = load_image(image, size, allow_upscale=allow).shape[1:3]
        longest = size if allow else min(size, max(height, width))
        assert max(rows, columns) == longest
        # The other in proportion, but for rounding and at least one pixel.
        for side, before in ((rows, height), (columns, width)):
            exact = before * longest / max(height, width)
            assert abs(side - max(exact, 1)) <= 0.5


@given(seeds, lengths, lengths, st.sampled_from([".png", ".webp", ".jpg"]))
def test_a_picture_comes_back_from_a_file(seed, height, width, extension):
    image = picture(seed, height, width)
    if extension != ".png":  # lossy ones are for pictures that are smooth
        image = np.broadcast_to(image[:, :1, :1], image.shape)
    again = load_image(io.BytesIO(encode_image(image, extension)))
    error = {".png": 0.5001, ".webp": 6, ".jpg": 3}[extension] / 255
    np.testing.assert_allclose(again, image, atol=error)
    if extension == ".png":
        file = io.BytesIO(encode_image(again, extension))
        np.testing.assert_array_equal(load_image(file), again)


# Tiles


@contextlib.contextmanager
def float64():
    """Makes Keras build float64 models."""
    # Keras remembers the policy that it makes of floatx, so both are restored.
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


convolutions = st.tuples(
    st.just("convolution"),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["zero", "reflect"]),
)
strided = st.tuples(st.just("strided"), st.integers(1, 4), st.integers(2, 3))
pools = st.tuples(st.sampled_from(["max", "avg"]), st.integers(2, 3), st.just(2))
networks = st.lists(
    st.one_of(convolutions, convolutions, strided, pools), min_size=1, max_size=5
)


def backbone_of(operations, seed):
    """A random network of some operations; every one of them is a layer."""
    rng, weights, inputs = np.random.default_rng(seed), {}, 3
    for i, (kind, size, _) in enumerate(operations):
        if kind in ("convolution", "strided"):
            shape = (size, size, inputs, 4)
            scale = 1 / math.sqrt(size * size * inputs)
            weights[f"layer{i}/kernel"] = rng.normal(0, scale, shape)
            weights[f"layer{i}/bias"] = rng.normal(0.2, 0.1, 4)
            inputs = 4

    def build(x, pooling):
        taps = {}
        for i, (kind, size, more) in enumerate(operations):
            name = f"layer{i}"
            if kind == "convolution":
                x = keras.ops.relu(convolution(x, name, 4, size, more))
            elif kind == "strided":
                x = keras.layers.Conv2D(4, size, more, name=name, activation="elu")(x)
            else:
                x = pool(x, name, kind, size)
            taps[name] = x
        return taps

    names = [f"layer{i}" for i in range(len(operations))]
    return Backbone(
        name="random",
        layers={name: name for name in names},
        content_layers={names[-1]: 1.0},
        style_layers=dict.fromkeys(names, 0.5),
        preprocessing="torch",
        build=build,
        published_weights=lambda: weights,
        provenance="random",
    )


@given(
    networks,
    st.tuples(st.integers(20, 64), st.integers(20, 64)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    normalizations,
    st.booleans(),
    seeds,
)
@settings(max_examples=20)
def test_tiles_are_the_whole(operations, size, tiles, normalization, keep, seed):
    assume(math.prod(s for kind, _, s in operations if isinstance(s, int)) <= 8)
    backbone = backbone_of(operations, seed)
    with float64():
        extract = FeatureExtractor(backbone, backbone.layers, precision="float64")
    assume(min(size) >= extract.least_size)
    loss = PerceptualLoss(
        extract,
        content_layers=backbone.content_layers,
        style_layers=backbone.style_layers,
        content_weight=0.3,
        style_weight=1.0,
        tv_weight=0.2,
        normalization=normalization,
    )
    tiled = TiledLoss(loss, keep_content=keep)
    cuts = [cut(n, k, tiled.halo) for n, k in zip(size, tiles, strict=True)]
    assume(all(cuts))
    grid = Grid(*cuts)
    rng = np.random.default_rng(seed)
    value, content, style = (tf.constant(x) for x in rng.uniform(size=(3, 1, *size, 3)))
    targets = loss.targets(content, style)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total, terms = loss(value, targets)
    gradient = tape.gradient(total, value)
    theirs = loss.assemble(
        size,
        *tiled.content_targets(content, grid),
        tiled.style_grams(style, grid),
        entries=tiled.entries(grid),
    )
    got, slope, parts = tiled.value_and_gradient(value, theirs, grid, lambda x: x)
    np.testing.assert_allclose(got, total, rtol=1e-10)
    assert_close(slope, gradient, 1e-9)
    for name, term in terms.items():
        np.testing.assert_allclose(parts[name], term, rtol=1e-9, err_msg=name)


@given(
    st.integers(1, 2000),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 90),
    st.integers(0, 90),
)
@settings(max_examples=300)
def test_a_side_is_covered_once(length, tiles, stride, before, after):
    halo = Field(stride, before, after)
    side = cut(length, tiles, halo)
    if side is None:
        whole = sum(math.ceil(n / stride) * stride for n in (before, after))
        assert tiles > 1 and length - whole < tiles * stride
        return
    covered = [n for s in side.spans for n in range(s.core_begin, s.core_end)]
    assert covered == list(range(length))
    for span in side.spans:
        end = span.begin + side.tile
        assert span.begin % stride == 0 and span.begin >= 0 and end <= length
        assert span.begin == 0 or span.core_begin - span.begin >= before
        assert end == length or end - span.core_end >= after


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"], blocks=0)


@given(
    st.tuples(st.integers(45, 90), st.integers(45, 90)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.floats(0, 1),
    seeds,
)
@settings(max_examples=4)
def test_a_network_by_tiles_is_the_whole(network, size, tiles, share, seed):
    cuts = [cut(n, k, network.field) for n, k in zip(size, tiles, strict=True)]
    assume(all(cuts) and math.prod(tiles) > 1)
    image = picture(seed, *size)
    blend = tf.constant([[share, 1 - share]], tf.float32)
    whole = network(image, blend).numpy()
    parts = apply._by_tiles(network, image, blend, Grid(*cuts))
    np.testing.assert_allclose(parts, whole, atol=2e-4)
    assert whole.std() > 0.02
