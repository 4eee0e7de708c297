"""Tests of FeatureExtractor."""

import dataclasses
import functools
import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle import FeatureExtractor
from tfstyle.backbones import NAMES, feature_extractor, get_backbone
from tfstyle.backbones.base import preprocess
from tfstyle.backbones.feature_extractor import resolve_layers
from tfstyle.backbones.laplacian import LAPLACIAN
from tfstyle.backbones.weights import load_weights, save_weights
from tfstyle.errors import UsageError
from tfstyle.losses import PerceptualLoss, gram_matrix

pytestmark = pytest.mark.fast

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
def test_feature_extractor_cuts_the_network_at_the_deepest_layer(name, layers, last):
    order = [key[:-7] for key in convolutions_of(name) if key.endswith("/kernel")]
    extract = FeatureExtractor(without_weights(name), layers)
    assert set(convolutions_in(extract)) == set(order[: order.index(last) + 1])


def test_feature_extractor_builds_only_the_heads_that_are_asked_for():
    for layer, head in (("block4_conv1", True), ("block4_conv2", False)):
        found = convolutions_in(FeatureExtractor("slim19", [layer]))
        assert ("block4_conv1_head" in found) == head


def test_call_computes_all_layers_in_one_pass(tiny):
    extract = tiny(["relu1_1", "conv1_1", "conv2_1", "block3_conv1", "pool3"])
    traced = tf.function(extract).get_concrete_function(
        tf.TensorSpec([None, None, None, 3])
    )
    kinds = [operation.type for operation in traced.graph.get_operations()]
    assert kinds.count("Conv2D") == 3
    assert kinds.count("MaxPool") == 3


def test_call_runs_the_network_once(tiny, monkeypatch):
    extract = tiny(["relu1_1", "block3_conv1"])
    model, calls = extract.model, []
    monkeypatch.setattr(extract, "_run", lambda x: calls.append(1) or model(x))
    extract(random(64, 64))
    assert len(calls) == 1


def test_call_returns_each_layer_once_under_its_given_name(tiny):
    extract = tiny(["block2_conv1", "relu2_1", "relu1_1", "conv2_1", "relu2_1"])
    assert extract.layers == ("block2_conv1", "relu2_1", "relu1_1", "conv2_1")
    features = extract(random(12, 10))
    assert tuple(features) == extract.layers
    np.testing.assert_array_equal(features["block2_conv1"], features["relu2_1"])
    assert features["conv2_1"].numpy().min() < 0 <= features["relu2_1"].numpy().min()


def test_call_returns_the_same_with_other_layers(tiny):
    picture = random(16, 13)
    together = tiny(["relu1_1", "conv2_1", "relu3_1"])(picture)
    for layer, feature in together.items():
        alone = tiny([layer])(picture)[layer]
        np.testing.assert_allclose(feature, alone, rtol=1e-5, atol=1e-5)


def test_call_has_a_gradient_by_the_picture_only(tiny):
    extract = tiny(["block3_conv1"])
    assert extract.model.trainable_variables == []
    picture = tf.constant(random(12, 12))
    with tf.GradientTape() as tape:
        tape.watch(picture)
        total = tf.reduce_sum(extract(picture)["block3_conv1"])
    gradient = tape.gradient(total, picture).numpy()
    assert np.isfinite(gradient).all()
    assert np.mean(gradient != 0) > 0.9


def test_call_of_unknown_size(tiny):
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


def test_preprocess_by_hand():
    red = np.float32([[[[1.0, 0.0, 0.0]]]])
    caffe = preprocess(red, "caffe")
    np.testing.assert_allclose(caffe, [[[[-103.939, -116.779, 131.32]]]], rtol=1e-5)
    torch = preprocess(red, "torch")
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(torch, [[[expected]]], rtol=1e-5)


def test_preprocess_equals_keras_applications():
    picture = random(5, 4)
    for convention in ("caffe", "torch"):
        expected = keras.applications.imagenet_utils.preprocess_input(
            255 * picture, mode=convention
        )
        ours = preprocess(picture, convention)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_feature_extractor_preprocessing_of_caller_file_and_network_in_that_order(
    tiny, tmp_path
):
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


# Weights.


def test_feature_extractor_reads_the_published_weights_once(tiny_backbone):
    reads, arrays = [], tiny_backbone.published_weights()
    backbone = dataclasses.replace(
        tiny_backbone, published_weights=lambda: reads.append(1) or arrays
    )
    extract = FeatureExtractor(backbone, ["relu1_1", "block3_conv1"])
    for size in (16, 16, 24):
        extract(random(size, size))
    assert len(reads) == 1


def test_feature_extractor_reads_a_file_once_and_nothing_else(
    tiny, tmp_path, monkeypatch
):
    reads = []
    monkeypatch.setattr(
        feature_extractor,
        "load_weights",
        lambda *source: reads.append(source[1]) or load_weights(*source),
    )
    arrays = dict(tiny.args[0].published_weights())
    save_weights(tmp_path / "tiny.npz", arrays)
    extract = tiny(["block3_conv1"], weights=tmp_path / "tiny.npz")
    extract(random(16, 16))
    assert reads == [tmp_path / "tiny.npz"]
    kernel = extract.model.get_layer("block1_conv1").get_weights()[0]
    np.testing.assert_array_equal(kernel, arrays["block1_conv1/kernel"])


# Pictures of other kinds.


def test_call_scales_uint8(tiny):
    extract = tiny(["relu1_1", "block3_conv1"])
    levels = np.round(255 * random(12, 10)).astype("uint8")
    expected = extract(levels.astype("float32") / 255)
    traced = tf.function(extract, autograph=False)
    for ours in (extract(levels), extract(tf.constant(levels)), traced(levels)):
        for layer, feature in expected.items():
            np.testing.assert_allclose(ours[layer], feature, rtol=1e-5, atol=1e-5)


def test_call_takes_a_picture_without_batch_axis(tiny):
    extract = tiny(["block2_conv1"])
    picture = random(12, 10)
    expected = extract(picture)["block2_conv1"]
    traced = tf.function(extract)
    for image in (picture[0], picture[0].tolist(), tf.Variable(picture[0])):
        ours = extract(image)["block2_conv1"]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    ours = traced(tf.constant(picture[0]))["block2_conv1"]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_call_takes_arrays_lists_and_every_float(tiny, jit_compile):
    extract = tiny(["block2_conv1"], jit_compile=jit_compile)
    picture = np.round(16 * random(12, 10)) / 16  # exact in 8 bits
    expected = extract(tf.constant(picture))["block2_conv1"]
    kinds = [tf.constant(picture, dtype) for dtype in ("float64", "float16")]
    kinds += [tf.cast(picture, tf.bfloat16), picture.astype("float64")]
    for images in (*kinds, picture.tolist(), keras.Variable(picture)):
        ours = extract(images)["block2_conv1"]
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_call_has_a_gradient_by_a_variable(tiny):
    extract, variable = tiny(["block2_conv1"]), tf.Variable(random(12, 10))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(extract(variable)["block2_conv1"])
    assert np.mean(tape.gradient(total, variable).numpy() != 0) > 0.5


def test_call_takes_pictures_a_little_beyond_their_range(tiny):
    # L-BFGS without bounds, and Lanczos, leave [0, 1].
    features = tiny(["block2_conv1"])(3 * random(12, 10) - 1)
    assert np.isfinite(features["block2_conv1"]).all()


@pytest.mark.parametrize(
    ("images", "named"),
    [
        (255 * random(12, 10), "floats up to 25"),
        (tf.constant(255 * random(12, 10)[0]), "floats up to 25"),
        (tf.Variable(255 * random(12, 10)), "floats up to 25"),
        (tf.cast(255 * random(12, 10), tf.bfloat16), "floats up to 25"),
        (np.zeros([1, 12, 10, 3], "int64"), "int64"),
        (np.zeros([12, 10, 3], bool), "bool"),
        (tf.zeros([1, 12, 10, 3], tf.complex64), "complex64"),
        (np.zeros([12, 10], "float32"), "[12, 10]"),
        (np.zeros([1, 1, 12, 10, 3], "float32"), "[1, 1, 12, 10, 3]"),
        (np.zeros([1, 12, 10, 4], "float32"), "[1, 12, 10, 4]"),
        (tf.zeros([1, 3, 12, 10]), "[1, 3, 12, 10]"),
        (0.5, "[]"),
        ("photo.jpg", "[]"),
        (None, "NoneType"),
        ([[1.0], [1.0, 2.0]], "list"),
        ({"a": 1}, "dict"),
    ],
)
def test_call_refuses_other_values_in_one_line(tiny, images, named):
    with pytest.raises(UsageError) as caught:
        tiny(["block1_conv1"])(images)
    message = str(caught.value)
    assert message.startswith("images: ") and "\n" not in message
    assert named in message
    assert "[N, H, W, 3]" in message and "[0, 1]" in message and "uint8" in message


@pytest.mark.parametrize("shape", [None, [None, None], [None] * 4, [1, 9, 9, 1]])
def test_call_refuses_other_shapes_while_it_is_traced(tiny, shape):
    traced = tf.function(tiny(["block1_conv1"]), autograph=False)
    with pytest.raises(UsageError, match=r"images: has the shape .*\[N, H, W, 3\]"):
        traced.get_concrete_function(tf.TensorSpec(shape))


def test_call_adds_no_check_to_a_graph(tiny):
    extract = tiny(["block1_conv1"])
    spec = tf.TensorSpec([1, 12, 10, 3])
    ours, plain = (
        tf.function(function).get_concrete_function(spec)
        for function in (extract, extract.model)
    )
    kinds = [
        sorted(operation.type for operation in traced.graph.get_operations())
        for traced in (ours, plain)
    ]
    assert kinds[0] == kinds[1]
    # Values are not looked at, not even those of constants.
    levels = 255 * random(12, 10)
    features = tf.function(lambda: extract(levels), autograph=False)()["block1_conv1"]
    expected = ours(tf.constant(levels))["block1_conv1"]
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-2)


def test_call_of_a_keras_tensor_is_a_keras_tensor(tiny):
    inputs = keras.Input([12, 10, 3])
    features = tiny(["block2_conv1"])(inputs)
    assert features["block2_conv1"].shape == (None, 6, 5, 12)


def test_laplacian_layer_is_the_laplacian_of_a_quarter(tiny):
    picture = random(16, 20)
    reduced = picture.reshape(1, 4, 4, 5, 4, 3).mean((2, 4))
    padded = np.pad(reduced, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    around += padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    edges = tiny([LAPLACIAN])(picture)[LAPLACIAN]
    np.testing.assert_allclose(edges, 4 * reduced - around, rtol=1e-4, atol=1e-5)


# Precision and compilation.


TINY_LAYERS = ["block1_conv1", "conv2_1", "block3_conv1"]


def test_call_in_bfloat16_is_near_float32(tiny):
    exact, near = (tiny(TINY_LAYERS, precision=p) for p in ("float32", "bfloat16"))
    assert (exact.dtype, near.dtype) == ("float32", "bfloat16")
    assert {weight.dtype for weight in near.model.weights} == {"float32"}
    picture = random(21, 18)
    ours, theirs = near(picture), exact(picture)
    # The picture itself and the first convolution are not rounded.
    np.testing.assert_array_equal(ours["block1_conv1"], theirs["block1_conv1"])
    assert near.dtypes["block1_conv1"] == tf.float32
    for layer in TINY_LAYERS[1:]:
        assert ours[layer].dtype == near.dtypes[layer] == tf.bfloat16
        feature = theirs[layer]
        difference = np.float32(ours[layer]) - feature
        assert 0 < np.linalg.norm(difference) < 3e-2 * np.linalg.norm(feature)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_perceptual_loss_and_gradient_are_in_float32(tiny, precision):
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
    for tensor in (total, gradient, *terms.values()):
        assert tensor.dtype == tf.float32
        assert np.isfinite(tensor).all()
    assert {gram.dtype for gram in targets.statistics.values()} == {tf.float32}
    assert np.mean(gradient.numpy() != 0) > 0.9


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_feature_extractor_leaves_the_precision_of_other_models(
    tiny_backbone, tiny, precision
):
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


def test_feature_extractor_jit_compile_has_the_same_features_and_gradient(tiny):
    results = []
    for compiled in (False, True):
        # XLA has no gradient of max pooling if other tests ask for determinism.
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
def test_feature_extractor_refuses_an_unknown_layer_with_the_nearest(
    backbone, layer, nearest
):
    with pytest.raises(UsageError) as caught:
        FeatureExtractor(
            backbone, ["1" if backbone == "squeezenet" else "relu1_1", layer]
        )
    message = str(caught.value)
    assert message.startswith(f"{backbone} has no layer {layer!r}; did you mean ")
    assert nearest in message.split("did you mean ")[1]
    assert message.endswith("?")


def test_feature_extractor_refuses_a_layer_like_no_other_with_some():
    with pytest.raises(UsageError, match="did you mean block1_conv1 or "):
        FeatureExtractor("vgg19", ["???"])


def test_get_backbone_refuses_an_unknown_name_with_the_nearest():
    with pytest.raises(UsageError, match="'vgg18'; did you mean vgg1"):
        FeatureExtractor("vgg18", ["block1_conv1"])


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ({"pooling": "mean"}, "pooling='mean': give max or avg"),
        ({"preprocessing": "Caffe"}, "preprocessing='Caffe': give caffe or torch"),
        ({"precision": "half"}, "precision='half': give "),
    ],
)
def test_feature_extractor_refuses_another_choice(tiny, choice, named):
    with pytest.raises(UsageError) as caught:
        tiny(["block1_conv1"], **choice)
    assert str(caught.value).startswith(named)


def test_feature_extractor_takes_one_layer_as_text(tiny):
    assert tiny("block1_conv1").layers == ("block1_conv1",)


def test_names_of_backbones_need_no_tensorflow(no_tensorflow):
    spec = importlib.util.find_spec("tfstyle.backbones")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.NAMES == NAMES == ("slim19", "vgg19", "vgg16", "squeezenet")


def test_resolve_layers_maps_names_to_taps():
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
    ("slim19", "laplacian"): 8,
}


@pytest.mark.parametrize(("name", "layer"), LEAST_SIZES)
def test_call_takes_the_least_size_and_refuses_a_pixel_less(name, layer):
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
        message = str(caught.value)
        for named in (f"{width}×{height} pixels", layer, name, f"least {least} pixels"):
            assert named in message
        assert "choose a larger picture or size" in message


def test_least_size_runs_nothing(monkeypatch):
    extract = FeatureExtractor(without_weights("slim19"), ["block3_conv1"])
    monkeypatch.setattr(extract.model, "call", None)
    assert extract.least_size == 8


@pytest.mark.parametrize("name", NAMES)
def test_check_size_takes_64_pixels_for_every_layer(name):
    backbone = without_weights(name)
    extract = FeatureExtractor(backbone, backbone.layers)
    assert extract.least_size <= 64
    extract.check_size(64, 64)


@pytest.mark.parametrize("name", NAMES)
def test_call_of_several_layers_of_each_backbone(name):
    extract = FeatureExtractor(without_weights(name), NETWORKS[name])
    features = extract(random(40, 56))
    assert list(features) == NETWORKS[name]
    heights = [feature.shape[1] for feature in features.values()]
    assert heights == sorted(heights, reverse=True)
