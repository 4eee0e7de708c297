"""The losses and ``PerceptualLoss``, against NumPy in float64 and by hand."""

import typing

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfstyle import losses
from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.losses import (
    PerceptualLoss,
    Targets,
    blend_styles,
    content_loss,
    functions,
    gram_matrix,
    moments,
    perceptual,
    style_loss,
    temporal_loss,
    total_variation,
    wasserstein_loss,
)
from tfstyle.losses.perceptual import guide_areas
from tfstyle.options.options import Normalization

pytestmark = pytest.mark.fast

NORMALIZATIONS = typing.get_args(Normalization)
SHAPE = (2, 5, 7, 4)


def random(shape=SHAPE, seed=0, dtype="float32"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def numpy_gram(features):
    matrices = features.astype("float64").reshape(len(features), -1, features.shape[-1])
    return np.stack([F.T @ F / F.size for F in matrices])


def squares(array):
    return np.sum(np.square(array), axis=tuple(range(1, array.ndim)))


def numpy_content(F, P, normalization):
    F, P = F.astype("float64"), P.astype("float64")
    divisors = {"relative": squares(P), "sum": 1, "gatys": 2, "mean": P[0].size}
    return squares(F - P) / divisors[normalization]


def numpy_style(G, A, normalization):
    entries = G.shape[-1] ** 2
    divisors = {"relative": squares(A), "sum": 1, "gatys": 4, "mean": entries}
    return squares(G - A) / divisors[normalization]


def numpy_total_variation(images, normalization):
    images = images.astype("float64")
    total = squares(np.diff(images, axis=1)) + squares(np.diff(images, axis=2))
    return total / (images[0].size if normalization in ("relative", "mean") else 1)


def checkerboard(height, width):
    return (np.indices([height, width]).sum(0) % 2)[None, ..., None].astype("float32")


def checkerboard_rgb(height, width):
    return np.repeat(checkerboard(height, width), 3, axis=-1)


# Gram matrices.


def test_gram_matrix_equals_numpy():
    features = random()
    gram = gram_matrix(tf.constant(features))
    assert gram.dtype == tf.float32
    np.testing.assert_allclose(gram, numpy_gram(features), rtol=1e-5, atol=1e-6)


def test_gram_matrix_by_hand():
    # Two positions of two channels: FᵀF = [[1+9, 2+12], [2+12, 4+16]], over 4 entries.
    features = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]])
    np.testing.assert_allclose(gram_matrix(features), [[[2.5, 3.5], [3.5, 5.0]]])


def test_gram_matrix_of_constant_features_does_not_depend_on_size():
    values = np.array([1.0, -2.0, 0.5], "float32")
    for height, width in ((1, 1), (4, 9), (31, 2)):
        features = np.broadcast_to(values, [1, height, width, 3])
        expected = np.outer(values, values) / 3
        np.testing.assert_allclose(gram_matrix(features)[0], expected, rtol=1e-5)


def test_gram_matrix_forgets_where_things_are():
    features = random()
    order = np.random.default_rng(1).permutation(35)
    moved = features.reshape(2, 35, 4)[:, order].reshape(SHAPE)
    np.testing.assert_allclose(gram_matrix(features), gram_matrix(moved), rtol=1e-5)
    flipped = features[:, ::-1].transpose(0, 2, 1, 3)
    np.testing.assert_allclose(gram_matrix(features), gram_matrix(flipped), rtol=1e-5)


def test_gram_matrix_keeps_the_batch_apart():
    features = random()
    alone = gram_matrix(features[1:])
    np.testing.assert_allclose(gram_matrix(features)[1:], alone, rtol=1e-6)
    assert not np.allclose(gram_matrix(features)[0], alone[0])


# Each loss and each normalization.


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_content_loss_equals_numpy(normalization):
    F, P = random(seed=1), random(seed=2)
    loss = content_loss(F, P, normalization)
    np.testing.assert_allclose(loss, numpy_content(F, P, normalization), rtol=1e-5)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [("relative", 4 / 9), ("sum", 48.0), ("gatys", 24.0), ("mean", 4.0)],
)
def test_content_loss_of_constant_features_by_hand(normalization, expected):
    F, P = tf.fill([1, 2, 3, 2], 5.0), tf.fill([1, 2, 3, 2], 3.0)  # 12 times 2² and 3²
    np.testing.assert_allclose(content_loss(F, P, normalization), [expected], rtol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("other", [(2, 9, 4, 4), (2, 3, 3, 6)])
def test_style_loss_equals_numpy(normalization, targets, other):
    gram = numpy_gram(random((*other[:1], 5, 7, other[-1]), seed=1))
    target = numpy_gram(random(other, seed=3)[:targets])
    loss = style_loss(
        tf.constant(gram, tf.float32), tf.constant(target, tf.float32), normalization
    )
    assert loss.shape == (2,)
    expected = numpy_style(gram, target, normalization)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_style_loss_of_regions_has_one_loss_for_each(normalization):
    gram, target = random((2, 3, 4, 4), 1), random((1, 3, 4, 4), 2)
    loss = style_loss(tf.constant(gram), tf.constant(target), normalization)
    assert loss.shape == (2, 3)
    for region in range(3):
        expected = numpy_style(gram[:, region], target[:, region], normalization)
        np.testing.assert_allclose(loss[:, region], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [("relative", 4.0), ("sum", 16.0), ("gatys", 4.0), ("mean", 4.0)],
)
def test_style_loss_of_constant_grams_by_hand(normalization, expected):
    # 4 times 2², and 4 times 1².
    gram, target = tf.fill([1, 2, 2], 3.0), tf.fill([1, 2, 2], 1.0)
    loss = style_loss(gram, target, normalization)
    np.testing.assert_allclose(loss, [expected], rtol=1e-6)


def numpy_root(matrix):
    values, axes = np.linalg.eigh(matrix)
    return axes * np.sqrt(np.maximum(values, 0)) @ axes.T


def numpy_wasserstein(F, S):
    """Of two matrices of features, by the definition."""
    means = np.sum(np.square(F.mean(0) - S.mean(0)))
    ours, theirs = np.cov(F.T, bias=True), np.cov(S.T, bias=True)
    root = numpy_root(theirs)
    both = numpy_root(root @ ours @ root)
    return means + np.trace(ours + theirs - 2 * both)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_wasserstein_loss_equals_numpy(normalization):
    picture, style = random(seed=1), random((1, 6, 5, 4), seed=2) * 0.7 + 0.2
    loss = wasserstein_loss(moments(picture), moments(style), normalization)
    flat = style.reshape(-1, 4).astype("float64")
    expected = [numpy_wasserstein(F.reshape(-1, 4), flat) for F in picture]
    energy = np.mean(np.sum(flat**2, 1))
    divisor = {"relative": energy, "mean": 4}.get(normalization, 1)
    np.testing.assert_allclose(loss, np.divide(expected, divisor), rtol=1e-4)


def test_wasserstein_loss_of_one_channel_by_hand():
    # Means 3 and 1, deviations 2 and 1.
    ours, theirs = (
        moments(np.reshape(np.array(values, "float64"), [1, 1, 2, 1]))
        for values in ([1, 5], [0, 2])
    )
    loss = wasserstein_loss(ours, theirs, "sum")
    np.testing.assert_allclose(loss, [(3 - 1) ** 2 + (2 - 1) ** 2], rtol=1e-6)


def test_wasserstein_loss_is_zero_at_the_style_and_its_slope_too():
    features = tf.Variable(random((1, 9, 8, 6), dtype="float64"))
    target = moments(features.read_value())
    with tf.GradientTape() as tape:
        loss = wasserstein_loss(moments(features), target)
    assert abs(loss[0]) < 1e-6
    assert np.abs(tape.gradient(loss, features)).max() < 1e-6


@pytest.mark.parametrize("blank", [False, True], ids=["", "blank channels"])
def test_wasserstein_loss_has_the_slope_of_its_values(blank):
    picture, style = random(dtype="float64"), random(seed=1, dtype="float64")
    if blank:  # not the same ones
        picture[..., 0], style[..., 1] = 0.5, 0.1
    target, way = moments(style), random(seed=2, dtype="float64")
    if blank:
        way[..., 0] = 0
    features = tf.Variable(picture)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(wasserstein_loss(moments(features), target))
    slope = np.sum(tape.gradient(loss, features) * way)
    there, back = (
        np.sum(wasserstein_loss(moments(picture + h * way), target))
        for h in (1e-5, -1e-5)
    )
    np.testing.assert_allclose(
        slope, (there - back) / 2e-5, rtol=1e-3 if blank else 1e-6
    )


def test_wasserstein_loss_of_many_channels_needs_few_columns():
    """Features that span 100 of 200 channels have a root of 128 columns at most."""
    span = random((100, 200), dtype="float64")
    picture, style = (
        random((1, 20, 25, 100), seed, "float64") @ span for seed in (1, 2)
    )
    loss = wasserstein_loss(moments(picture), moments(style), "sum")
    expected = numpy_wasserstein(picture.reshape(-1, 200), style.reshape(-1, 200))
    np.testing.assert_allclose(loss, [expected], rtol=1e-4)


def test_moments_of_a_region_are_those_of_its_positions():
    features, guide = random((1, 6, 8, 4)), np.zeros([1, 6, 8, 1], "float32")
    guide[:, :, :3] = 1
    np.testing.assert_allclose(
        moments(features, guide), moments(features[:, :, :3]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_total_variation_equals_numpy(normalization):
    images = random()
    expected = numpy_total_variation(images, normalization)
    np.testing.assert_allclose(
        total_variation(images, normalization), expected, rtol=1e-5
    )


def test_total_variation_of_a_checkerboard_by_hand():
    # 4 rows of 5 differences across and 3 rows of 6 down, each of 1.
    board = checkerboard(4, 6)
    assert total_variation(board).numpy().tolist() == [38.0]
    assert total_variation(3 * board).numpy().tolist() == [9 * 38.0]
    mean = total_variation(board, "mean").numpy()
    np.testing.assert_allclose(mean, [38 / 24], rtol=1e-6)


def test_total_variation_of_a_ramp_and_of_a_flat_picture():
    ramp = np.broadcast_to(np.arange(5.0)[:, None, None], [1, 5, 4, 2])
    assert total_variation(ramp).numpy().tolist() == [4 * 4 * 2]
    assert total_variation(np.full([2, 6, 5, 3], 0.7)).numpy().tolist() == [0.0, 0.0]


def test_total_variation_is_that_of_the_assignment(shared):
    checks = np.load(shared / "checks" / "cs231n_style_transfer_checks_tf.npz")
    picture = load_image(
        shared / "images" / "content" / "tubingen.jpg",
        192,
        size_of="shortest",
        resample=Image.Resampling.BILINEAR,
    )
    assert min(picture.shape[1:3]) == 192
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ours = 2e-2 * total_variation((picture - np.float32(mean)) / np.float32(std))
    np.testing.assert_allclose(ours, [303.46994], rtol=1e-4)
    np.testing.assert_allclose(ours[0], checks["tv_out"], rtol=1e-4)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_temporal_loss_equals_numpy(normalization):
    images, warped = random(seed=1), random(seed=2)
    trust = np.random.default_rng(3).uniform(size=(2, 5, 7, 1)).astype("float32")
    loss = temporal_loss(images, warped, trust, normalization)
    difference = np.float64(images) - np.float64(warped)
    expected = squares(np.sqrt(np.float64(trust)) * difference)
    expected /= images[0].size if normalization in ("relative", "mean") else 1
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_temporal_loss_by_hand_ignores_what_is_not_consistent():
    images, warped = tf.fill([1, 1, 2, 3], 0.5), tf.fill([1, 1, 2, 3], 0.25)
    # One of two pixels counts, by a half: 3 times 0.25², halved.
    loss = temporal_loss(images, warped, tf.constant([[[[0.5], [0.0]]]]), "sum")
    np.testing.assert_allclose(loss, [0.09375], rtol=1e-6)


# A factor given as `scale` replaces that of the normalization.


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scale_is_the_factor_of_the_sum_of_squares(normalization):
    F, P = random(seed=1), random(seed=2)
    factors = np.array([3.0, 0.5], "float32")
    loss = content_loss(F, P, normalization, scale=factors)
    np.testing.assert_allclose(loss, factors * squares(np.float64(F - P)), rtol=1e-5)
    G, A = gram_matrix(F), gram_matrix(P)
    loss = style_loss(G, A, normalization, scale=factors)
    np.testing.assert_allclose(loss, factors * squares((G - A).numpy()), rtol=1e-5)
    loss = total_variation(F, normalization, scale=3.0)
    expected = 3 * numpy_total_variation(F, "sum")
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    loss = temporal_loss(F, P, np.ones((2, 5, 7, 1), "float32"), scale=3.0)
    np.testing.assert_allclose(loss, 3 * squares(np.float64(F - P)), rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_scales_are_what_the_losses_use_by_themselves(normalization):
    F, P = random(seed=1), random(seed=2)
    scale = functions.content_scale(squares(P), float(P[0].size), normalization)
    np.testing.assert_allclose(
        content_loss(F, P, scale=scale), content_loss(F, P, normalization), rtol=1e-5
    )
    G, A = gram_matrix(F), gram_matrix(P)
    scale = functions.style_scale(A, normalization)
    np.testing.assert_allclose(
        style_loss(G, A, scale=scale), style_loss(G, A, normalization), rtol=1e-5
    )
    scale = functions.picture_scale(35.0, 4, normalization)
    np.testing.assert_allclose(
        total_variation(F, scale=scale), total_variation(F, normalization), rtol=1e-5
    )


def test_total_variation_of_a_core_leaves_out_what_lies_beyond_it():
    images = random()
    inner = total_variation(images, core=(4, 6))
    down = np.diff(images, axis=1)[:, :, :6]
    across = np.diff(images, axis=2)[:, :4]
    expected = squares(np.float64(down)) + squares(np.float64(across))
    np.testing.assert_allclose(inner, expected, rtol=1e-5)


def test_gram_matrices_of_parts_with_the_positions_of_the_whole_add_up():
    features = random()
    parts = [gram_matrix(p, positions=35) for p in np.split(features, [2], axis=1)]
    np.testing.assert_allclose(sum(parts), gram_matrix(features), rtol=1e-5, atol=1e-7)


def test_a_blend_of_one_style_is_that_style():
    grams = {
        "x": tf.constant(random((2, 3, 4, 4))),
        "y": tf.constant(random((2, 3, 2, 2))),
    }
    for normalization in NORMALIZATIONS:
        blend = blend_styles([grams], np.full([1, 3], 0.3, "float32"), normalization)
        assert list(blend) == ["x", "y"]
        for layer, gram in grams.items():
            np.testing.assert_allclose(blend[layer], gram, rtol=1e-6)


# Precision, shapes, gradients.


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_relative_losses_do_not_depend_on_the_scale_of_features(scale):
    F, P = random(seed=1), random(seed=2)
    np.testing.assert_allclose(
        content_loss(F * scale, P * scale), content_loss(F, P), rtol=1e-4
    )
    scaled, grams = (
        style_loss(gram_matrix(s * F), gram_matrix(s * P)) for s in (scale, 1.0)
    )
    np.testing.assert_allclose(scaled, grams, rtol=1e-4)


def test_relative_losses_of_a_blank_target_are_finite_and_positive():
    zeros = np.zeros(SHAPE, "float32")
    assert content_loss(zeros, zeros).numpy().tolist() == [0.0, 0.0]
    blank, gram = gram_matrix(zeros), gram_matrix(random())
    for loss in (content_loss(random(), zeros), style_loss(gram, blank)):
        assert np.isfinite(loss).all() and np.all(loss > 0)


@pytest.mark.parametrize("shape", [(1, 30, 33, 8), (2, 32, 32, 8), (1, 11, 9, 8)])
@pytest.mark.parametrize("known", [True, False])
def test_products_of_bfloat16_are_near_those_of_float32(monkeypatch, shape, known):
    # 990 positions are no multiple of a number of parts; 99 are too few to be cut.
    features = tf.cast(random(shape), tf.bfloat16)
    wide = np.float32(features)
    slope = random((shape[0], 8, 8), seed=1)
    size = shape[1:3] if known else (None, None)
    signature = [tf.TensorSpec([shape[0], *size, 8], tf.bfloat16)]

    @tf.function(input_signature=signature)
    def gram_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            gram = gram_matrix(x)
            value = tf.reduce_sum(gram * slope)
        return gram, tape.gradient(value, x)

    # Where products are emulated, each part is summed in bfloat16.
    limit = 2e-3 if functions.multiplies_bfloat16() else 1e-2
    monkeypatch.setattr(functions, "multiplies_bfloat16", lambda: True)
    gram, gradient = gram_and_gradient(features)
    assert (gram.dtype, gradient.dtype) == (tf.float32, tf.bfloat16)
    exact = numpy_gram(wide)
    assert np.linalg.norm(gram - exact) < limit * np.linalg.norm(exact)
    np.testing.assert_array_equal(gram, np.swapaxes(gram, 1, 2))
    both = (slope + np.swapaxes(slope, 1, 2)) / np.prod(shape[1:])
    expected = np.einsum("nhwc,ncd->nhwd", wide, both)
    error = np.linalg.norm(np.float32(gradient) - expected)
    assert error < 1e-2 * np.linalg.norm(expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_is_summed_in_float32(dtype):
    # 400 squares of 200² are 1.6e7 in all: float16 ends at 65504, and bfloat16, which
    # has 8 bits, would stand still at 256 equal parts of a sum.
    features = tf.cast(tf.fill([1, 20, 20, 1], 200.0), dtype)
    gram = gram_matrix(features)
    assert gram.dtype == tf.float32
    np.testing.assert_allclose(gram, [[[40000.0]]], rtol=1e-6)
    loss = content_loss(features, tf.zeros_like(features), "sum")
    assert loss.dtype == tf.float32
    np.testing.assert_allclose(loss, [1.6e7], rtol=1e-6)
    board = tf.cast(200 * checkerboard(20, 20), dtype)
    variation = total_variation(board)
    assert variation.dtype == tf.float32
    np.testing.assert_allclose(variation, [760 * 40000.0], rtol=1e-6)


def test_float64_stays_float64():
    features = random(dtype="float64")
    assert gram_matrix(features).dtype == tf.float64
    np.testing.assert_allclose(gram_matrix(features), numpy_gram(features), rtol=1e-12)
    assert content_loss(features, features + 1).dtype == tf.float64
    assert total_variation(features).dtype == tf.float64


def test_sizes_may_be_unknown_when_traced():
    spec = tf.TensorSpec([None, None, None, 4])
    gram = tf.function(gram_matrix, input_signature=[spec])
    variation = tf.function(
        lambda x: total_variation(x, "mean"), input_signature=[spec]
    )
    losses = {
        normalization: tf.function(
            lambda x, y, n=normalization: content_loss(x, y, n),
            input_signature=[spec, spec],
        )
        for normalization in NORMALIZATIONS
    }
    for shape in (SHAPE, (1, 2, 3, 4)):
        F, P = random(shape, 1), random(shape, 2)
        np.testing.assert_allclose(gram(F), numpy_gram(F), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variation(F), total_variation(F, "mean"), rtol=1e-6)
        for normalization, traced in losses.items():
            expected = content_loss(F, P, normalization)
            np.testing.assert_allclose(traced(F, P), expected, rtol=1e-6)
    assert gram.experimental_get_tracing_count() == 1


def test_perceptual_loss_of_unknown_size_equals_the_eager_one(tiny_features):
    loss = make_loss(tiny_features)
    spec = tf.TensorSpec([None, None, None, 3])

    @tf.function(input_signature=[spec] * 3)
    def traced(images, content, style):
        return loss(images, loss.targets(content, style))

    images, content, style = (random((1, 9, 8, 3), seed) for seed in range(3))
    total, terms = traced(images, content, style)
    expected, expected_terms = loss(images, loss.targets(content, style))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, term in expected_terms.items():
        np.testing.assert_allclose(terms[name], term, rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_equals_finite_differences(tiny_features, normalization):
    loss = make_loss(tiny_features, normalization=normalization)
    images, content = random((1, 4, 5, 3), 1, "float64"), random((1, 4, 5, 3), 2)
    targets = loss.targets(
        tf.constant(content, tf.float64), random((1, 6, 5, 3), 3, "float64")
    )
    variable = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(variable)
        total, _ = loss(variable, targets)
    gradient = tape.gradient(total, variable).numpy()
    assert gradient.dtype == np.float64

    def total_along(index, step):
        moved = images.copy()
        moved[index] += step
        return loss(tf.constant(moved), targets)[0].numpy()

    for index in [(0, 0, 0, 0), (0, 3, 4, 2), (0, 1, 2, 1), (0, 2, 0, 0)]:
        rise = total_along(index, 1e-5) - total_along(index, -1e-5)
        assert gradient[index] == pytest.approx(rise / 2e-5, rel=1e-6, abs=1e-9)


# PerceptualLoss.


def make_loss(features, **overrides):
    options = {
        "content_layers": {"b": 0.5, "c": 2.0},
        "style_layers": {"a": 1.0, "b": 3.0},
        "content_weight": 0.1,
        "style_weight": 10.0,
        "tv_weight": 0.01,
    }
    return PerceptualLoss(features, **{**options, **overrides})


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_terms_are_weighted_named_and_add_up(tiny_features, normalization):
    loss = make_loss(tiny_features, normalization=normalization)
    images, content, style = (random((2, 12, 9, 3), seed) for seed in range(3))
    total, terms = loss(images, loss.targets(content, style))
    names = ("content/b", "content/c", "style/a", "style/b", "total_variation")
    assert tuple(terms) == loss.term_names == names
    x, c, s = (
        {layer: f.numpy() for layer, f in tiny_features(tf.constant(i)).items()}
        for i in (images, content, style)
    )

    def content_term(layer):
        return numpy_content(x[layer], c[layer], normalization).mean()

    def style_term(layer):
        grams = numpy_gram(x[layer]), numpy_gram(s[layer])
        return numpy_style(*grams, normalization).mean()

    variation = numpy_total_variation(images, normalization).mean()
    expected = {
        "content/b": 0.1 * 0.5 * content_term("b"),
        "content/c": 0.1 * 2.0 * content_term("c"),
        "style/a": 10 * 1.0 * style_term("a"),
        "style/b": 10 * 3.0 * style_term("b"),
        "total_variation": 0.01 * variation,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(total, sum(expected.values()), rtol=1e-4)
    assert all(term.shape == () for term in (total, *terms.values()))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_sums_of_parts_add_up_to_the_loss_of_the_whole(tiny_features, normalization):
    loss = make_loss(tiny_features, normalization=normalization, temporal_weight=0.3)
    images, content, style = (random((2, 12, 9, 3), seed) for seed in range(3))
    targets = loss.targets(content, style)._replace(
        warped=random((2, 12, 9, 3), 3),
        consistency=np.abs(random((2, 12, 9, 1), 4)),
    )
    features = tiny_features(tf.constant(images))
    grams = loss.statistics(features, targets)
    local = loss.local(features, targets, images)
    positions = {layer: float(np.prod(f.shape[1:3])) for layer, f in features.items()}

    def part(y, y_end, x, x_end):
        """The sums of a part of every layer, cut where the picture is, in its share."""

        def window(array):
            rows, columns = (
                slice(round(begin / of * length), round(end / of * length))
                for begin, end, of, length in (
                    (y, y_end, 12, array.shape[1]),
                    (x, x_end, 9, array.shape[2]),
                )
            )
            return array[:, rows, columns]

        here = targets._replace(
            content={layer: window(f) for layer, f in targets.content.items()},
            warped=window(targets.warped),
            consistency=window(targets.consistency),
        )
        own = {layer: window(feature) for layer, feature in features.items()}
        picture = images[:, y : y_end + 1, x : x_end + 1]  # one row and column beyond
        core = (y_end - y, x_end - x)
        return (
            loss.statistics(own, here, positions),
            loss.local(own, here, picture, core),
        )

    for parts in (
        [(0, 5, 0, 9), (5, 12, 0, 9)],
        [(0, 12, 0, 4), (0, 12, 4, 9)],
        [(0, 5, 0, 4), (0, 5, 4, 9), (5, 12, 0, 4), (5, 12, 4, 9)],
    ):
        sums = [part(*place) for place in parts]
        added_grams, added = (
            {name: sum(s[i][name] for s in sums) for name in whole}
            for i, whole in enumerate((grams, local))
        )
        for whole, parts_of_it in ((grams, added_grams), (local, added)):
            for name, value in whole.items():
                np.testing.assert_allclose(
                    parts_of_it[name], value, rtol=1e-4, atol=1e-5, err_msg=name
                )
        total, terms = loss.total(added_grams, added, targets)
        expected, expected_terms = loss(images, targets)
        assert tuple(terms) == loss.term_names
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        for name, term in expected_terms.items():
            np.testing.assert_allclose(terms[name], term, rtol=1e-4, err_msg=name)


def test_content_targets_have_the_norms_of_the_content_features(tiny_features):
    loss = make_loss(tiny_features)
    content = random((2, 12, 9, 3), 1)
    kept, norms = loss.content_targets(content)
    features = tiny_features(tf.constant(content))
    assert list(norms) == list(kept) == ["b", "c"]
    for layer, norm in norms.items():
        assert norm.shape == (2,)
        expected = squares(features[layer].numpy().astype("float64"))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
    loss = make_loss(tiny_features, content_weight=0.0)
    assert loss.content_targets(None) == ({}, {})


def test_the_total_looks_at_scales_not_at_features(tiny_features):
    loss = make_loss(tiny_features)
    images, content, style = (random((1, 12, 9, 3), seed) for seed in range(3))
    targets = loss.targets(content, style)
    features = tiny_features(tf.constant(images))
    grams = loss.statistics(features, targets)
    local = loss.local(features, targets, images)
    without = Targets({}, targets.statistics, targets.scales)
    total, _ = loss.total(grams, local, without)
    np.testing.assert_allclose(total, loss(images, targets)[0], rtol=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_weights_and_norms_travel_in_the_targets(tiny_features, normalization):
    """So that one traced graph serves every weight and every picture."""
    images, content, style = (random((1, 12, 9, 3), seed) for seed in range(3))
    light, heavy = (
        make_loss(tiny_features, normalization=normalization, **weights)
        for weights in (
            {"content_weight": 1.0, "style_weight": 1.0, "tv_weight": 1.0},
            {"content_weight": 2.0, "style_weight": 3.0, "tv_weight": 5.0},
        )
    )
    targets = heavy.targets(content, style)
    assert tuple(targets.scales) == heavy.term_names
    _, ones = light(images, light.targets(content, style))
    for loss in (light, heavy):
        _, terms = loss(images, targets)
        for name, factor in (("content/b", 2), ("style/b", 3), ("total_variation", 5)):
            np.testing.assert_allclose(terms[name], factor * ones[name], rtol=1e-5)


def test_targets_are_an_argument_of_a_traced_function(tiny_features):
    loss = make_loss(tiny_features)
    traced = tf.function(lambda images, targets: loss(images, targets))
    for seed in range(3):
        images, content, style = (random((1, 12, 9, 3), 3 * seed + i) for i in range(3))
        targets = loss.targets(content, style)
        total, terms = traced(tf.constant(images), targets)
        expected, expected_terms = loss(images, targets)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        for name, term in expected_terms.items():
            np.testing.assert_allclose(terms[name], term, rtol=1e-5)
    assert traced.experimental_get_tracing_count() == 1


def test_targets_without_a_picture_that_counts_are_refused(tiny_features):
    loss, picture = make_loss(tiny_features), random((1, 12, 9, 3))
    with pytest.raises(UsageError, match="content: give a picture"):
        loss.targets(None, picture)
    with pytest.raises(UsageError, match="style: give a picture"):
        loss.targets(picture, None)


@pytest.mark.parametrize("kind", ["content", "style"])
def test_layers_that_the_features_lack_are_refused(tiny_features, kind):
    picture = random((1, 12, 9, 3))
    given = {"content_layers": {"b": 1.0}, "style_layers": {"b": 1.0}}
    whole = PerceptualLoss(tiny_features, **given)
    loss = PerceptualLoss(tiny_features, **{**given, f"{kind}_layers": {"z": 1.0}})
    for call in (
        lambda: loss.targets(picture, picture),
        lambda: loss(picture, whole.targets(picture, picture)),
    ):
        with pytest.raises(UsageError, match=rf"{kind}_layers: 'z' .* a, b, c"):
            call()


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_targets_without_a_size_are_refused_where_it_counts(
    tiny_features, normalization
):
    loss = make_loss(tiny_features, content_weight=0.0, normalization=normalization)
    style, images = random((1, 7, 11, 3), 1), random((1, 12, 9, 3))
    if normalization in ("relative", "mean"):
        with pytest.raises(UsageError, match="size: "):
            loss.targets(None, style)
    else:
        without = loss(images, loss.targets(None, style))[0]
        with_size = loss(images, loss.targets(None, style, (12, 9)))[0]
        assert float(without) == float(with_size)


def test_the_own_targets_have_no_loss(tiny_features):
    loss = make_loss(tiny_features, tv_weight=0.0)
    images = random((1, 12, 9, 3))
    total, terms = loss(images, loss.targets(images, images))
    assert total.numpy() == 0
    assert all(term.numpy() == 0 for term in terms.values())


def test_one_style_serves_a_batch(tiny_features):
    loss = make_loss(tiny_features, content_weight=0.0)
    images, style = random((3, 12, 9, 3)), random((1, 7, 11, 3), 1)
    targets = loss.targets(None, style, (12, 9))
    total, _ = loss(images, targets)
    alone = [loss(images[i : i + 1], targets)[0].numpy() for i in range(3)]
    np.testing.assert_allclose(total, np.mean(alone), rtol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ({"content_weight": 0.0}, ("style/a", "style/b", "total_variation")),
        ({"style_weight": 0.0}, ("content/b", "content/c", "total_variation")),
        ({"tv_weight": 0.0}, ("content/b", "content/c", "style/a", "style/b")),
        (
            {"content_layers": {"b": 0.0, "c": 1.0}, "style_layers": {"a": 0.0}},
            ("content/c", "total_variation"),
        ),
        ({"content_weight": 0.0, "style_weight": 0.0}, ("total_variation",)),
    ],
)
def test_terms_of_weight_0_are_left_out(tiny_features, overrides, names):
    loss = make_loss(tiny_features, **overrides)
    has_content = any(name.startswith("content") for name in names)
    has_style = any(name.startswith("style") for name in names)
    images = random((1, 12, 9, 3))
    # None would fail if it were looked at.
    targets = loss.targets(
        random((1, 12, 9, 3), 1) if has_content else None,
        random((1, 12, 9, 3), 2) if has_style else None,
        (12, 9),
    )
    assert tiny_features.calls == has_content + has_style
    total, terms = loss(images, targets)
    assert tuple(terms) == loss.term_names == names
    np.testing.assert_allclose(total, sum(t.numpy() for t in terms.values()), rtol=1e-6)


def test_features_are_computed_once_per_evaluation(tiny_features):
    loss = make_loss(tiny_features)
    images = random((1, 12, 9, 3))
    targets = loss.targets(images, random((1, 12, 9, 3), 2))
    assert tiny_features.calls == 2  # one pass of each picture
    for calls in (3, 4):
        loss(images, targets)
        assert tiny_features.calls == calls


def test_no_features_are_computed_for_the_total_variation_alone(tiny_features):
    loss = make_loss(tiny_features, content_weight=0.0, style_weight=0.0, tv_weight=2.0)
    total, _ = loss(checkerboard_rgb(4, 6), loss.targets(None, None, (4, 6)))
    np.testing.assert_allclose(total, 2 * 38 / 24, rtol=1e-6)
    assert tiny_features.calls == 0


def test_total_variation_may_be_of_another_picture(tiny_features):
    loss = make_loss(tiny_features, normalization="sum")
    images, other = random((1, 12, 9, 3)), random((1, 12, 9, 3), 4)
    targets = loss.targets(images, images)
    _, terms = loss(images, targets, tv_images=other)
    expected = 0.01 * total_variation(other).numpy()[0]
    np.testing.assert_allclose(terms["total_variation"], expected, rtol=1e-6)
    assert terms["content/b"].numpy() == 0


# Regions.


def style_only(features, layers, **changes):
    return PerceptualLoss(
        features, content_layers={}, style_layers=layers, tv_weight=0.0, **changes
    )


def test_gram_matrix_with_a_guide_equals_numpy():
    features = random()
    guide = np.random.default_rng(1).uniform(size=(1, 5, 7, 1)).astype("float32")
    F = features.astype("float64").reshape(2, 35, 4)
    expected = np.einsum("npc,npd,p->ncd", F, F, guide.astype("float64").ravel())
    expected /= 4 * guide.sum(dtype="float64")
    np.testing.assert_allclose(
        gram_matrix(features, guide), expected, rtol=1e-5, atol=1e-6
    )


def test_gram_matrix_of_a_region_without_positions_is_zero():
    gram = gram_matrix(random(), np.zeros((1, 5, 7, 1), "float32"))
    np.testing.assert_array_equal(gram, np.zeros((2, 4, 4)))


def test_style_statistics_with_guides_are_those_of_the_regions(tiny_features):
    loss = style_only(tiny_features, {"a": 1.0})
    picture = tf.constant(np.random.default_rng(2).random((1, 8, 12, 3)), tf.float32)
    feature = tiny_features(picture)["a"]
    left = np.zeros((1, 8, 12, 2), "float32")
    left[:, :, :5, 0], left[:, :, 5:, 1] = 1.0, 1.0
    grams = loss.style_statistics(picture, {"a": tf.constant(left)})
    assert grams["a"].shape == (1, 2, 4, 4)
    for region, part in enumerate((feature[:, :, :5], feature[:, :, 5:])):
        np.testing.assert_allclose(grams["a"][:, region], gram_matrix(part), rtol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_perceptual_loss_counts_regions_by_their_area(tiny_features, normalization):
    loss = style_only(tiny_features, {"a": 2.0}, normalization=normalization)
    random = np.random.default_rng(3)
    picture, style = (
        tf.constant(random.random((1, 8, 12, 3)), tf.float32) for _ in range(2)
    )
    guide = np.zeros((1, 8, 12, 2), "float32")
    guide[:, :, :3, 0], guide[:, :, 3:, 1] = 1.0, 1.0
    guided = {"a": tf.constant(guide)}
    target = gram_matrix(tiny_features(style)["a"])
    grams = {"a": tf.stack([target, target], 1)}
    targets = loss.assemble((8, 12), {}, {}, grams, guided)
    np.testing.assert_allclose(targets.areas["a"], [24, 72])
    feature = tiny_features(picture)["a"]
    distances = [
        numpy_style(gram_matrix(part).numpy(), target.numpy(), normalization)[0]
        for part in (feature[:, :, :3], feature[:, :, 3:])
    ]
    total, terms = loss(picture, targets)
    expected = 2 * (0.25 * distances[0] + 0.75 * distances[1])
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert list(terms) == ["style/a"]


def test_guide_areas_are_sums_over_positions():
    guide = np.random.default_rng(1).random((1, 3, 5, 2)).astype("float32")
    areas = guide_areas({"a": guide})
    np.testing.assert_allclose(areas["a"], guide.sum((0, 1, 2)), rtol=1e-6)


@pytest.mark.parametrize("normalization", ["relative", "sum"])
def test_blend_styles_lies_between_the_styles(normalization):
    random = np.random.default_rng(4)
    large = {"a": tf.constant(9 * random.random((1, 2, 5, 5)))}
    small = {"a": tf.constant(random.random((1, 2, 5, 5)))}
    shares = [[0.5, 0.2], [0.5, 0.8]]
    blend = blend_styles([large, small], shares, normalization)["a"].numpy()

    def distances(region):
        for style in (large, small):
            theirs = style["a"].numpy()[:, region]
            norm = np.square(theirs).sum() if normalization == "relative" else 1.0
            yield np.square(blend[:, region] - theirs).sum() / norm

    one, two = distances(0)
    assert one == pytest.approx(two)
    one, two = distances(1)  # a share of a quarter of the other's: 4 times as far
    assert one == pytest.approx(16 * two)


# The temporal term.


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_perceptual_loss_has_a_temporal_term(tiny_features, normalization):
    loss = make_loss(tiny_features, normalization=normalization, temporal_weight=0.5)
    images, content, style, warped = (random((1, 12, 9, 3), seed) for seed in range(4))
    trust = np.random.default_rng(5).uniform(size=(1, 12, 9, 1)).astype("float32")
    targets = loss.targets(content, style)
    targets = targets._replace(warped=warped, consistency=trust)
    total, terms = loss(images, targets)
    assert tuple(terms) == loss.term_names and loss.term_names[-1] == "temporal"
    expected = squares(np.sqrt(np.float64(trust)) * (np.float64(images) - warped))[0]
    expected /= images[0].size if normalization in ("relative", "mean") else 1
    np.testing.assert_allclose(terms["temporal"], 0.5 * expected, rtol=1e-5)
    np.testing.assert_allclose(total, sum(t.numpy() for t in terms.values()), rtol=1e-6)


# What is published is what runs.


@pytest.mark.parametrize(
    ("name", "count"),
    [("content_loss", 2), ("total_variation", 1), ("temporal_loss", 1)],
)
def test_perceptual_loss_calls_the_published_functions(
    tiny_features, monkeypatch, name, count
):
    published, calls = getattr(losses, name), []
    assert getattr(perceptual, name) is published

    def counted(*args, **kwargs):
        calls.append(name)
        return published(*args, **kwargs)

    monkeypatch.setattr(perceptual, name, counted)
    loss = make_loss(tiny_features, temporal_weight=1.0)
    images = random((1, 12, 9, 3))
    targets = loss.targets(images, images)._replace(
        warped=images, consistency=np.ones((1, 12, 9, 1), "float32")
    )
    calls.clear()
    loss(images, targets)
    assert len(calls) == count


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gram", (gram_matrix, style_loss)),
        ("wasserstein", (moments, wasserstein_loss)),
    ],
)
def test_perceptual_loss_calls_the_published_functions_of_styles(
    tiny_features, monkeypatch, name, published
):
    distance, calls = functions.STYLE_DISTANCES[name], []
    assert (distance.statistics, distance.loss) == published

    def counted(function):
        return lambda *args, **kwargs: calls.append(1) or function(*args, **kwargs)

    spied = map(counted, published)
    monkeypatch.setitem(
        functions.STYLE_DISTANCES,
        name,
        distance._replace(statistics=next(spied), loss=next(spied)),
    )
    loss = make_loss(tiny_features, style_loss=name)
    images = random((1, 12, 9, 3))
    targets = loss.targets(images, images)
    calls.clear()
    loss(images, targets)
    assert len(calls) == 2 + 2


def test_perceptual_loss_names_terms_and_local_terms_in_order():
    loss = PerceptualLoss(
        lambda images: {},
        content_layers={"c": 1.0},
        style_layers={"s": 1.0, "t": 1.0},
        tv_weight=1.0,
        temporal_weight=1.0,
    )
    assert loss.term_names == (
        *("content/c", "style/s", "style/t"),
        *("total_variation", "temporal"),
    )
    assert loss.local_names == ("content/c", "total_variation", "temporal")
