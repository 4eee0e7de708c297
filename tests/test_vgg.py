"""Tests of VGG-16 and VGG-19, against keras.applications and NumPy."""

import dataclasses
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.backbones.vgg import VGG16, VGG19
from tfstyle.backbones.weights import save_weights
from tfstyle.errors import UsageError
from tfstyle.images import load_image

TRUE_LAYERS = [f"block{b}_conv{i}" for b, i in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1))]


@dataclasses.dataclass
class Reference:
    """A network of keras.applications with random weights, and its features."""

    model: keras.Model
    weights: dict[str, np.ndarray]
    features: dict[str, np.ndarray]


def make_reference(application, preprocess_input, images):
    keras.utils.set_random_seed(3)
    model = application(include_top=False, weights=None)
    weights = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel, bias = layer.get_weights()
            bias = np.random.default_rng(len(weights)).normal(size=bias.shape) / 2
            layer.set_weights([1.4 * kernel, bias])  # keeps the scale through a ReLU
            weights[f"{layer.name}/kernel"], weights[f"{layer.name}/bias"] = (
                layer.get_weights()
            )
    layers = [layer for layer in model.layers if layer.name.startswith("block")]
    network = keras.Model(model.input, {x.name: x.output for x in layers})
    features = network(preprocess_input(255.0 * images))
    return Reference(model, weights, {k: v.numpy() for k, v in features.items()})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=[1, 48, 40, 3]).astype("float32")


@pytest.fixture(scope="module")
def vgg19(images):
    applications = keras.applications
    return make_reference(
        applications.VGG19, applications.vgg19.preprocess_input, images
    )


@pytest.fixture(scope="module")
def vgg16(images):
    applications = keras.applications
    return make_reference(
        applications.VGG16, applications.vgg16.preprocess_input, images
    )


def assert_same(features, expected):
    assert set(features) == set(expected)
    for layer, theirs in expected.items():
        ours = features[layer].numpy()
        assert ours.shape == theirs.shape, layer
        assert np.linalg.norm(theirs) > 1, layer  # not all dead
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 1e-5, layer


def test_vgg19_equals_keras_in_every_layer(vgg19, images, tmp_path):
    path = tmp_path / "vgg19.npz"
    save_weights(path, vgg19.weights)
    assert len(vgg19.features) == 16 + 5
    extract = FeatureExtractor("vgg19", vgg19.features, weights=path)
    assert_same(extract(images), vgg19.features)


def test_vgg16_equals_keras_in_every_layer(vgg16, images, tmp_path):
    path = tmp_path / "vgg16.weights.h5"
    vgg16.model.save_weights(path)
    assert len(vgg16.features) == 13 + 5
    extract = FeatureExtractor("vgg16", vgg16.features, weights=path)
    assert_same(extract(images), vgg16.features)


@pytest.mark.parametrize("name", ["vgg19", "vgg16"])
def test_vgg_published_weights_are_the_file_of_keras(
    name, request, monkeypatch, images, tmp_path
):
    reference = request.getfixturevalue(name)
    path, asked = tmp_path / "weights.h5", []
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, reference.model)

    def get_file(name, url, cache_subdir, file_hash):
        asked.append((name, url, Path(cache_subdir).name, file_hash))
        return path

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    theirs = getattr(keras.applications, name.upper())(include_top=False)
    extract = FeatureExtractor(name, ["block3_conv1", "block2_pool"])
    assert asked[0] == asked[1] and len(asked) == 2
    for layer in ("block1_conv1", "block3_conv1"):
        ours, wanted = (
            m.get_layer(layer).get_weights() for m in (extract.model, theirs)
        )
        for array, expected in zip(ours, wanted, strict=True):
            np.testing.assert_array_equal(array, expected)
    features = extract(images)
    assert_same(features, {layer: reference.features[layer] for layer in features})


def extractor_of(reference, backbone, layers, **options):
    backbone = dataclasses.replace(
        backbone, published_weights=lambda: reference.weights
    )
    return FeatureExtractor(backbone, layers, **options)


def test_vgg_conv_is_before_the_relu_and_relu_is_after(vgg19, images):
    layers = ["conv4_2", "relu4_2", "block4_conv2", "pool4", "block4_pool"]
    features = extractor_of(vgg19, VGG19, layers)(images)
    before = features["conv4_2"].numpy()
    assert before.shape == (1, 6, 5, 512)
    assert before.min() < -0.1
    np.testing.assert_array_equal(np.maximum(before, 0), features["relu4_2"])
    np.testing.assert_array_equal(features["block4_conv2"], features["relu4_2"])
    np.testing.assert_array_equal(features["block4_pool"], features["pool4"])


@pytest.mark.parametrize(("pooling", "reduce"), [("max", np.max), ("avg", np.mean)])
def test_vgg_pools_windows_of_2(vgg16, images, pooling, reduce):
    layers = ["block1_conv2", "pool1", "conv2_1"]
    extract = extractor_of(vgg16, VGG16, layers, pooling=pooling)
    before, after, _ = (f.numpy() for f in extract(images).values())
    windows = before.reshape(1, 24, 2, 20, 2, 64)
    np.testing.assert_allclose(after, reduce(windows, axis=(2, 4)), rtol=1e-5)


def test_vgg_average_pooling_changes_the_layers_after_it(vgg16, images):
    features = [
        extractor_of(vgg16, VGG16, ["conv2_1"], pooling=pooling)(images)["conv2_1"]
        for pooling in ("max", "avg")
    ]
    assert not np.allclose(*features, rtol=0.1)


def test_vgg_layers_have_the_names_of_keras_and_of_the_papers():
    for backbone, per_block in ((VGG19, (2, 2, 4, 4, 4)), (VGG16, (2, 2, 3, 3, 3))):
        expected = {}
        for block, count in enumerate(per_block, 1):
            for i in range(1, count + 1):
                expected[f"block{block}_conv{i}"] = f"block{block}_conv{i}"
                expected[f"relu{block}_{i}"] = f"block{block}_conv{i}"
                expected[f"conv{block}_{i}"] = f"conv{block}_{i}"
            expected[f"block{block}_pool"] = f"block{block}_pool"
            expected[f"pool{block}"] = f"block{block}_pool"
        assert backbone.layers == expected
        assert set(backbone.content_layers) == {"block4_conv2"}
        assert list(backbone.style_layers) == [f"block{b}_conv1" for b in range(1, 6)]


# The true weights of the first five convolutions.


@pytest.fixture
def true_weights(shared):
    path = shared / "weights" / "vgg19_normalised_to_block3_conv1.npz"
    if not path.is_file():
        pytest.skip(f"needs {path}; set TFSTYLE_SHARED to the folder that has it")
    return path


def convolve(x, kernel, bias):
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    return np.einsum("yxihw,hwio->yxo", windows, kernel, optimize=True) + bias


def max_pool(x):
    height, width = x.shape[0] // 2, x.shape[1] // 2
    x = x[: 2 * height, : 2 * width]
    return x.reshape(height, 2, width, 2, -1).max((1, 3))


def test_vgg19_true_weights_equal_a_forward_pass_by_hand(true_weights):
    picture = np.random.default_rng(1).uniform(size=[21, 18, 3])
    with np.load(true_weights) as file:
        arrays = {name: file[name].astype("float64") for name in file.files}
    x = 255 * picture[..., ::-1] - np.array([103.939, 116.779, 123.68])
    expected = {}
    for layer in TRUE_LAYERS:
        if layer in ("block2_conv1", "block3_conv1"):
            x = max_pool(x)
        x = convolve(x, arrays[f"{layer}/kernel"], arrays[f"{layer}/bias"])
        expected[f"conv{layer[5]}_{layer[-1]}"] = x
        x = expected[layer] = np.maximum(x, 0)
    extract = FeatureExtractor("vgg19", expected, weights=true_weights)
    for layer, features in extract(picture[None].astype("float32")).items():
        theirs = expected[layer]
        assert features.shape == (1, *theirs.shape)
        error = np.linalg.norm(features[0] - theirs) / np.linalg.norm(theirs)
        assert error < 1e-5, layer


def test_vgg19_true_weights_have_mean_activations_near_1(true_weights, shared):
    photo = load_image(shared / "images" / "content" / "tubingen.jpg", 128)
    features = FeatureExtractor("vgg19", TRUE_LAYERS, weights=true_weights)(photo)
    for layer, feature in features.items():
        assert 0.5 < np.mean(feature) < 2, layer


def test_feature_extractor_names_the_first_layer_that_a_file_lacks(true_weights):
    for layer in ("block3_conv2", "relu3_2", "block4_conv2"):
        with pytest.raises(UsageError) as caught:
            FeatureExtractor("vgg19", ["block1_conv1", layer], weights=true_weights)
        message = str(caught.value)
        assert message.startswith(f"{true_weights}: has no block3_conv2 ")
        assert "(its last convolution is block3_conv1)" in message
        assert "\n" not in message


def test_feature_extractor_refuses_weights_of_another_network(shared):
    path = shared / "weights" / "squeezenet_v1.1_imagenet_notop.h5"
    with pytest.raises(UsageError, match="has no block1_conv1"):
        FeatureExtractor("vgg19", ["block1_conv1"], weights=path)


def test_feature_extractor_keeps_the_order_of_a_batch(true_weights):
    images = np.random.default_rng(2).uniform(size=[3, 16, 16, 3]).astype("float32")
    extract = FeatureExtractor("vgg19", ["block3_conv1"], weights=true_weights)
    together = extract(images)["block3_conv1"]
    alone = [extract(tf.constant(images[i : i + 1]))["block3_conv1"] for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-4)
