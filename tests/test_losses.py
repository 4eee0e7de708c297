"""Tests of tfstyle/losses.py, against NumPy in float64 and by hand."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfstyle.losses.perceptual
from tfstyle.images import load_image
from tfstyle.losses import (
    NORMALIZATIONS,
    PerceptualLoss,
    Targets,
    blend_grams,
    content_loss,
    gram_matrix,
    style_loss,
    total_variation,
)

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
def test_style_loss_equals_numpy(normalization, targets):
    grams = {"x": numpy_gram(random(seed=1)), "y": numpy_gram(random((2, 3, 3, 6)))}
    wanted = {
        "x": numpy_gram(random(seed=3)[:targets]),
        "y": numpy_gram(random((2, 2, 9, 6), seed=4)[:targets]),
    }
    weights = {"y": 3.0, "x": 0.25}
    losses = style_loss(
        {layer: tf.constant(gram, tf.float32) for layer, gram in grams.items()},
        {layer: tf.constant(gram, tf.float32) for layer, gram in wanted.items()},
        weights,
        normalization,
    )
    assert list(losses) == ["y", "x"]
    for layer, loss in losses.items():
        expected = numpy_style(grams[layer], wanted[layer], normalization)
        assert loss.shape == (2,)
        np.testing.assert_allclose(loss, weights[layer] * expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [("relative", 4.0), ("sum", 16.0), ("gatys", 4.0), ("mean", 4.0)],
)
def test_style_loss_of_constant_grams_by_hand(normalization, expected):
    grams = {"x": tf.fill([1, 2, 2], 3.0)}  # 4 times 2², and 4 times 1²
    targets = {"x": tf.fill([1, 2, 2], 1.0)}
    losses = style_loss(grams, targets, {"x": 1.0}, normalization)
    np.testing.assert_allclose(losses["x"], [expected], rtol=1e-6)


def test_style_loss_takes_only_the_layers_that_have_a_weight():
    grams = {"x": tf.ones([1, 2, 2]), "y": tf.ones([1, 2, 2])}
    assert list(style_loss(grams, grams, {"y": 1.0})) == ["y"]


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


def test_a_blend_of_one_style_is_that_style():
    grams = {
        "x": tf.constant(random((2, 3, 4, 4))),
        "y": tf.constant(random((2, 3, 2, 2))),
    }
    for normalization in NORMALIZATIONS:
        blend = blend_grams([grams], np.full([1, 3], 0.3, "float32"), normalization)
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
        style_loss({"x": gram_matrix(s * F)}, {"x": gram_matrix(s * P)}, {"x": 1.0})
        for s in (scale, 1.0)
    )
    np.testing.assert_allclose(scaled["x"], grams["x"], rtol=1e-4)


def test_relative_losses_of_a_blank_target_are_finite_and_positive():
    zeros = np.zeros(SHAPE, "float32")
    assert content_loss(zeros, zeros).numpy().tolist() == [0.0, 0.0]
    blank, grams = {"x": gram_matrix(zeros)}, {"x": gram_matrix(random())}
    for losses in (
        content_loss(random(), zeros),
        style_loss(grams, blank, {"x": 1})["x"],
    ):
        assert np.isfinite(losses).all() and np.all(losses > 0)


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

    monkeypatch.setattr(tfstyle.losses.perceptual, "multiplies_bfloat16", lambda: True)
    gram, gradient = gram_and_gradient(features)
    assert (gram.dtype, gradient.dtype) == (tf.float32, tf.bfloat16)
    exact = numpy_gram(wide)
    assert np.linalg.norm(gram - exact) < 2e-3 * np.linalg.norm(exact)
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
    loss = make_loss(tiny_features, normalization=normalization)
    images, content, style = (random((2, 12, 9, 3), seed) for seed in range(3))
    targets = loss.targets(content, style)
    features = tiny_features(tf.constant(images))
    whole = loss.sums(features, targets, images)

    def part(y, y_end, x, x_end):
        """The sums of a part of every layer, cut where the picture is, in its share."""
        windows = {
            layer: tuple(
                slice(round(begin / of * length), round(end / of * length))
                for begin, end, of, length in (
                    (y, y_end, 12, feature.shape[1]),
                    (x, x_end, 9, feature.shape[2]),
                )
            )
            for layer, feature in features.items()
        }
        return loss.sums(
            {layer: f[(slice(None), *windows[layer])] for layer, f in features.items()},
            Targets(
                {
                    layer: f[(slice(None), *windows[layer])]
                    for layer, f in targets.content.items()
                },
                {},
                {},
            ),
            images[:, y : y_end + 1, x : x_end + 1],  # one row and one column beyond
            (y_end - y, x_end - x),
        )

    for parts in (
        [(0, 5, 0, 9), (5, 12, 0, 9)],
        [(0, 12, 0, 4), (0, 12, 4, 9)],
        [(0, 5, 0, 4), (0, 5, 4, 9), (5, 12, 0, 4), (5, 12, 4, 9)],
    ):
        sums = [part(*place) for place in parts]
        assert tuple(sums[0]) == loss.term_names
        added = {name: sum(s[name] for s in sums) for name in whole}
        for name, value in whole.items():
            np.testing.assert_allclose(added[name], value, rtol=1e-4, atol=1e-4)
        entries = {layer: f[0].numpy().size for layer, f in features.items()}
        entries["image"] = images[0].size
        total, terms = loss.total(added, targets, entries)
        expected, expected_terms = loss(images, targets)
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        for name, term in expected_terms.items():
            np.testing.assert_allclose(terms[name], term, rtol=1e-4, err_msg=name)


def test_targets_have_the_norms_of_the_content_features(tiny_features):
    loss = make_loss(tiny_features)
    content, style = random((2, 12, 9, 3), 1), random((1, 7, 11, 3), 2)
    targets = loss.targets(content, style)
    features = tiny_features(tf.constant(content))
    assert list(targets.norms) == list(targets.content) == ["b", "c"]
    for layer, norm in targets.norms.items():
        assert norm.shape == (2,)
        expected = squares(features[layer].numpy().astype("float64"))
        np.testing.assert_allclose(norm, expected, rtol=1e-5)
    loss = make_loss(tiny_features, content_weight=0.0)
    assert loss.targets(None, style).norms == {}


def test_the_total_looks_at_norms_not_at_features(tiny_features):
    loss = make_loss(tiny_features)
    images, content, style = (random((1, 12, 9, 3), seed) for seed in range(3))
    targets = loss.targets(content, style)
    features = tiny_features(tf.constant(images))
    sums = loss.sums(features, targets, images)
    entries = {layer: f[0].numpy().size for layer, f in features.items()}
    entries["image"] = images[0].size
    without = Targets({}, targets.norms, targets.grams)
    total, _ = loss.total(sums, without, entries)
    np.testing.assert_allclose(total, loss(images, targets)[0], rtol=1e-6)


def test_the_own_targets_have_no_loss(tiny_features):
    loss = make_loss(tiny_features, tv_weight=0.0)
    images = random((1, 12, 9, 3))
    total, terms = loss(images, loss.targets(images, images))
    assert total.numpy() == 0
    assert all(term.numpy() == 0 for term in terms.values())


def test_one_style_serves_a_batch(tiny_features):
    loss = make_loss(tiny_features, content_weight=0.0)
    images, style = random((3, 12, 9, 3)), random((1, 7, 11, 3), 1)
    total, _ = loss(images, loss.targets(None, style))
    alone = [
        loss(images[i : i + 1], loss.targets(None, style))[0].numpy() for i in range(3)
    ]
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
    total, _ = loss(checkerboard(4, 6), Targets({}, {}, {}))
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
