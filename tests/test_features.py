"""Tests of tfstyle/features.py."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.backbones import NAMES, get_backbone
from tfstyle.backbones.base import preprocess
from tfstyle.backbones.feature_extractor import FeatureExtractor, resolve_layers
from tfstyle.backbones.weights import save_weights
from tfstyle.errors import UsageError
from tfstyle.losses import PerceptualLoss, gram_matrix

NETWORKS = {
    "slim19": ["block1_conv1", "block3_conv4", "block5_conv1"],
    "vgg19": ["block1_conv1", "block2_conv2", "block5_conv4", "block5_pool"],
    "vgg16": ["block1_conv1", "pool2", "block4_conv2"],
    "squeezenet": ["conv1", "fire2", "fire5", "fire9"],
}


@functools.cache
def convolutions_of(name):
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, get_backbone(name).build(inputs, "max"))
    return {
        f"{layer.name}/{part.name}": tuple(part.shape)
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        for part in layer.weights
    }


def without_weights(name):
    """A backbone that needs no file; only the sizes of its features mean anything."""
    weights = {
        array: np.zeros(shape, "float32")
        for array, shape in convolutions_of(name).items()
    }
    return dataclasses.replace(get_backbone(name), published_weights=lambda: weights)


def convolutions_in(extract):
    return [
        layer.name
        for layer in extract.model.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]


def random(height, width, seed=0):
    shape = [1, height, width, 3]
    return np.random.default_rng(seed).uniform(size=shape).astype("float32")


@pytest.fixture
def tiny(tiny_backbone):
    """An extractor of the tiny network's layers."""
    return functools.partial(FeatureExtractor, tiny_backbone)


# Cut, one pass, names.


@pytest.mark.parametrize(
    ("name", "layers", "last"),
    [
        ("vgg19", ["conv1_2", "block3_conv2"], "block3_conv2"),
        ("vgg19", ["block3_conv2", "relu1_1"], "block3_conv2"),
        ("vgg16", ["pool2"], "block2_conv2"),
        ("squeezenet", ["fire3", "1"], "fire3_expand3x3"),
        ("squeezenet", ["fire4/squeeze1x1"], "fire4_squeeze1x1"),
    ],
)
def test_the_network_is_cut_at_the_deepest_layer(name, layers, last):
    order = [key[:-7] for key in convolutions_of(name) if key.endswith("/kernel")]
    extract = FeatureExtractor(without_weights(name), layers)
    assert set(convolutions_in(extract)) == set(order[: order.index(last) + 1])


def test_slim19_has_only_the_heads_that_are_asked_for():
    extract = FeatureExtractor("slim19", ["block2_conv1", "block3_conv2"])
    assert set(convolutions_in(extract)) == {
        *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
        *("block3_conv1", "block3_conv2", "block2_conv1_head"),
    }


def test_all_layers_come_from_one_pass(tiny):
    extract = tiny(["relu1_1", "conv1_1", "conv2_1", "block3_conv1", "pool3"])
    traced = tf.function(extract).get_concrete_function(
        tf.TensorSpec([None, None, None, 3])
    )
    kinds = [operation.type for operation in traced.graph.get_operations()]
    assert kinds.count("Conv2D") == 3
    assert kinds.count("MaxPool") == 3


def test_the_network_runs_once_per_call(tiny, monkeypatch):
    extract = tiny(["relu1_1", "block3_conv1"])
    model, calls = extract.model, []
    monkeypatch.setattr(extract, "_run", lambda x: calls.append(1) or model(x))
    extract(random(64, 64))
    assert len(calls) == 1


def test_features_bear_the_names_as_given_once_each(tiny):
    extract = tiny(["block2_conv1", "relu2_1", "relu1_1", "conv2_1", "relu2_1"])
    assert extract.layers == ("block2_conv1", "relu2_1", "relu1_1", "conv2_1")
    features = extract(random(12, 10))
    assert tuple(features) == extract.layers
    np.testing.assert_array_equal(features["block2_conv1"], features["relu2_1"])
    assert features["conv2_1"].numpy().min() < 0 <= features["relu2_1"].numpy().min()


def test_layers_do_not_change_each_other(tiny):
    picture = random(16, 13)
    together = tiny(["relu1_1", "conv2_1", "relu3_1"])(picture)
    for layer, feature in together.items():
        alone = tiny([layer])(picture)[layer]
        np.testing.assert_allclose(feature, alone, rtol=1e-5, atol=1e-5)


def test_the_network_is_frozen_but_its_input_is_not(tiny):
    extract = tiny(["block3_conv1"])
    assert extract.model.trainable_variables == []
    picture = tf.constant(random(12, 12))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        total = tf.reduce_sum(extract(picture)["block3_conv1"])
    gradient = tape.gradient(total, picture).numpy()
    assert np.isfinite(gradient).all()
    assert np.mean(gradient != 0) > 0.9


def test_sizes_may_be_unknown(tiny):
    extract = tiny(["block2_conv1"])
    traced = tf.function(
        extract, input_signature=[tf.TensorSpec([None, None, None, 3])]
    )
    for shape in ((16, 13), (24, 9)):
        expected = extract(random(*shape))["block2_conv1"]
        ours = traced(random(*shape))["block2_conv1"]
        assert ours.shape == (1, shape[0] // 2, shape[1] // 2, 12)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


# Preprocessing.


def test_preprocessing_by_hand():
    red = np.float32([[[[1.0, 0.0, 0.0]]]])
    caffe = preprocess(red, "caffe")
    np.testing.assert_allclose(caffe, [[[[-103.939, -116.779, 131.32]]]], rtol=1e-5)
    torch = preprocess(red, "torch")
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(torch, [[[expected]]], rtol=1e-5)


def test_preprocessing_is_that_of_keras_applications():
    picture = random(5, 4)
    for convention in ("caffe", "torch"):
        expected = keras.applications.imagenet_utils.preprocess_input(
            255 * picture, mode=convention
        )
        ours = preprocess(picture, convention)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_preprocessing_of_caller_file_and_network_in_that_order(tiny, tmp_path):
    arrays = tiny.args[0].published_weights()
    path = tmp_path / "tiny.npz"
    picture = random(8, 8)

    def features(**options):
        return tiny(["conv1_1"], **options)(picture)["conv1_1"].numpy()

    torch = features()
    kernel, bias = arrays["block1_conv1/kernel"], arrays["block1_conv1/bias"]
    for convention in ("torch", "caffe"):
        x = np.float32(preprocess(picture, convention))
        by_hand = (tf.nn.conv2d(x, kernel, 1, "SAME") + bias).numpy()
        ours = features(preprocessing=convention)
        np.testing.assert_allclose(ours, by_hand, rtol=1e-4, atol=1e-3)
    caffe = features(preprocessing="caffe")
    assert not np.allclose(torch, caffe, rtol=0.1)

    save_weights(path, arrays)
    np.testing.assert_array_equal(features(weights=path), torch)
    save_weights(path, arrays, preprocessing="caffe")
    np.testing.assert_array_equal(features(weights=path), caffe)
    np.testing.assert_array_equal(features(weights=path, preprocessing="torch"), torch)


# Precision and compilation.


TINY_LAYERS = ["block1_conv1", "conv2_1", "block3_conv1"]


def test_features_in_bfloat16_are_near_those_in_float32(tiny):
    exact, near = (tiny(TINY_LAYERS, precision=p) for p in ("float32", "bfloat16"))
    assert (exact.dtype, near.dtype) == ("float32", "bfloat16")
    assert {weight.dtype for weight in near.model.weights} == {"float32"}
    # The first layer's input is the picture as it is, not rounded by the caller.
    picture = random(21, 18)
    ours = near(picture)
    for layer, feature in exact(picture).items():
        assert ours[layer].dtype == tf.bfloat16
        difference = np.float32(ours[layer]) - feature
        assert 0 < np.linalg.norm(difference) < 3e-2 * np.linalg.norm(feature)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_losses_and_gradients_are_in_float32(tiny, precision):
    loss = PerceptualLoss(
        tiny(TINY_LAYERS, precision=precision),
        content_layers={"block3_conv1": 1.0},
        style_layers=dict.fromkeys(TINY_LAYERS, 1.0),
        content_weight=0.3,
        style_weight=1.0,
        tv_weight=0.2,
    )
    # 65 536 positions: bfloat16 cannot count beyond 256.
    picture = tf.constant(random(256, 256))
    for feature in loss.features(picture).values():
        gram = gram_matrix(feature)
        assert gram.dtype == tf.float32
        wide = np.float64(np.float32(feature))
        by_hand = np.einsum("nhwc,nhwd->ncd", wide, wide) / wide.size
        np.testing.assert_allclose(gram, by_hand, rtol=1e-4, atol=1e-6)
    targets = loss.targets(random(256, 256, 1), random(64, 64, 2))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        total, terms = loss(picture, targets)
    gradient = tape.gradient(total, picture)
    for tensor in (total, gradient, *terms.values(), *targets.norms.values()):
        assert tensor.dtype == tf.float32
        assert np.isfinite(tensor).all()
    assert {gram.dtype for gram in targets.grams.values()} == {tf.float32}
    assert np.mean(gradient.numpy() != 0) > 0.9


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_other_models_keep_their_precision(tiny_backbone, tiny, precision):
    def policy():
        return keras.config.dtype_policy().name, keras.config.floatx()

    before = policy()
    tiny(["block1_conv1"], precision=precision)
    assert policy() == before == ("float32", "float32")
    assert keras.layers.Dense(1).dtype_policy.name == "float32"

    def fail(x, pooling):
        raise RuntimeError(policy()[0])

    broken = dataclasses.replace(tiny_backbone, build=fail)
    with pytest.raises(RuntimeError) as caught:
        FeatureExtractor(broken, ["block1_conv1"], precision=precision)
    inside = {"bfloat16": "mixed_bfloat16"}.get(precision, precision)
    assert str(caught.value) == inside
    assert policy() == before


def test_a_compiled_network_has_the_same_features_and_gradient(tiny):
    results = []
    for compiled in (False, True):
        # XLA has no gradient of max pooling where other tests ask for repeatable bits.
        extract = tiny(TINY_LAYERS, jit_compile=compiled, pooling="avg")
        picture = tf.constant(random(21, 18))
        with tf.GradientTape() as tape:
            tape.watch(picture)
            features = extract(picture)
            total = tf.add_n([tf.reduce_sum(f**2) for f in features.values()])
        results.append([*features.values(), tape.gradient(total, picture)])
    for plain, compiled in zip(*results, strict=True):
        assert compiled.dtype == plain.dtype
        difference = np.abs(compiled - plain).max()
        assert difference <= 1e-5 * np.abs(plain).max()


# Refusals.


@pytest.mark.parametrize(
    ("backbone", "layer", "nearest"),
    [
        ("vgg19", "relu4_9", "relu4_"),
        ("vgg19", "block4_conv9", "block4_conv"),
        ("vgg16", "block3_conv4", "block3_conv3"),
        ("slim19", "block5_conv2", "block5_conv1"),
        ("slim19", "Block1_conv1", "block1_conv1"),
        ("squeezenet", "fire10", "fire"),
    ],
)
def test_an_unknown_layer_is_refused_with_the_nearest(backbone, layer, nearest):
    with pytest.raises(UsageError) as caught:
        FeatureExtractor(
            backbone, ["1" if backbone == "squeezenet" else "relu1_1", layer]
        )
    message = str(caught.value)
    assert message.startswith(f"{backbone} has no layer {layer!r}; did you mean ")
    assert nearest in message.split("did you mean ")[1]
    assert message.endswith("?")


def test_a_layer_like_no_other_is_refused_with_some():
    with pytest.raises(UsageError, match="did you mean block1_conv1 or "):
        FeatureExtractor("vgg19", ["???"])


def test_an_unknown_backbone_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="'vgg18'; did you mean vgg1"):
        FeatureExtractor("vgg18", ["block1_conv1"])


def test_resolve_layers():
    layers = resolve_layers(get_backbone("vgg19"), ["relu4_2", "conv4_2", "pool1"])
    assert layers == {
        "relu4_2": "block4_conv2",
        "conv4_2": "conv4_2",
        "pool1": "block1_pool",
    }


LEAST_SIZES = {
    # Reflect padding mirrors one pixel, so the smallest map has two a side.
    ("slim19", "block1_conv1"): 2,
    ("slim19", "block2_conv1"): 4,
    ("slim19", "block5_conv1"): 32,
    ("vgg19", "block1_conv1"): 1,
    ("vgg19", "block3_conv1"): 4,
    ("vgg16", "block5_conv3"): 16,
    ("vgg16", "block5_pool"): 32,
    ("squeezenet", "conv1"): 3,
    ("squeezenet", "fire2"): 7,
    ("squeezenet", "fire9"): 31,
}


@pytest.mark.parametrize(("name", "layer"), LEAST_SIZES)
def test_the_least_size_works_and_a_pixel_less_is_refused(name, layer):
    least = LEAST_SIZES[name, layer]
    extract = FeatureExtractor(without_weights(name), [layer])
    assert extract.least_size == least
    for height, width in ((least, least), (least, least + 5), (least + 5, least)):
        feature = extract(random(height, width))[layer]
        assert min(feature.shape[1:3]) >= 1
    for height, width in ((least - 1, least), (least + 9, least - 1)):
        if least == 1:
            continue
        with pytest.raises(UsageError) as caught:
            extract(random(height, width))
        assert str(caught.value) == (
            f"a picture of {width}×{height} pixels is too small for the layers "
            f"{layer} of {name}: each side needs at least {least} pixels"
        )


@pytest.mark.parametrize("name", NAMES)
def test_64_pixels_are_enough_for_every_layer(name):
    backbone = without_weights(name)
    extract = FeatureExtractor(backbone, backbone.layers)
    assert extract.least_size <= 64
    extract.check_size(64, 64)


@pytest.mark.parametrize("name", NAMES)
def test_features_of_several_layers(name):
    extract = FeatureExtractor(without_weights(name), NETWORKS[name])
    features = extract(random(40, 56))
    assert list(features) == NETWORKS[name]
    heights = [feature.shape[1] for feature in features.values()]
    assert heights == sorted(heights, reverse=True)
