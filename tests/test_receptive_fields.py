"""What the features of a network see."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.backbones import get_backbone, slim19, squeezenet, vgg
from tfstyle.backbones.feature_extractor import FeatureExtractor, receptive_fields
from tfstyle.images.tiles import Field

pytestmark = pytest.mark.fast


def random_squeezenet(path):
    backbone = get_backbone("squeezenet")
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, backbone.build(inputs, "max"))
    rng = np.random.default_rng(4)
    np.savez(
        path,
        **{
            f"{layer.name}/{part}": rng.normal(
                0, 2 / np.sqrt(array[..., 0].size), array.shape
            )
            for layer in model.layers
            for part, array in zip(
                ("kernel", "bias"), layer.get_weights(), strict=False
            )
        },
    )
    return path


def test_feature_extractor_fields_of_slim19():
    extract = FeatureExtractor("slim19", ["relu1_1", "relu2_1", "relu5_1", "pool1"])
    assert extract.fields == {
        "relu1_1": Field(1, 1, 1),
        "relu2_1": Field(2, 4, 4),
        "relu5_1": Field(16, 70, 70),
        "pool1": Field(2, 2, 2),
    }


def test_receptive_fields_of_windows_that_are_not_padded():
    x = inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(2, 3, strides=2)(x)
    outputs = {"a": x, "b": keras.layers.MaxPooling2D(3, 2)(x)}
    fields = receptive_fields(keras.Model(inputs, outputs))
    assert fields[id(outputs["a"])][1] == Field(2, 0, 1)
    assert fields[id(outputs["b"])][1] == Field(4, 0, 3)


def test_feature_extractor_fields_of_squeezenet_by_hand(tmp_path):
    layers = ["relu_conv1", "pool1", "fire2", "fire3", "pool3", "fire4", "fire5"]
    weights = random_squeezenet(tmp_path / "squeezenet.npz")
    # fire5 at i sees fire3 from 2i-4 to 2i+6, conv1 from 4i-12 to 4i+18.
    assert FeatureExtractor("squeezenet", layers, weights=weights).fields == {
        "relu_conv1": Field(2, 0, 1),
        "pool1": Field(4, 0, 3),
        "fire2": Field(4, 4, 7),
        "fire3": Field(4, 8, 11),
        "pool3": Field(8, 8, 15),
        "fire4": Field(8, 16, 23),
        "fire5": Field(8, 24, 31),
    }


ONE_CHANNEL = dict.fromkeys(slim19.CHANNELS, 1)


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (
            lambda x: vgg.build(x, ONE_CHANNEL, "avg"),
            ["block1_conv1", "block2_conv2", "block4_conv1", "block5_conv1"],
        ),
        (
            lambda x: vgg.build(x, ONE_CHANNEL, "avg", "reflect"),
            ["block2_conv1", "block3_conv1", "block5_conv1"],
        ),
        (
            lambda x: squeezenet.build(x, "avg"),
            ["relu_conv1", "fire3/concat", "fire5/concat", "fire7/concat"],
        ),
    ],
    ids=["zero", "reflect", "squeezenet"],
)
def test_receptive_fields_are_the_pixels_that_change_a_feature(build, layers):
    inputs = keras.Input([None, None, 3])
    outputs = build(inputs)
    model = keras.Model(inputs, {layer: outputs[layer] for layer in layers})
    for weight in model.weights:
        weight.assign(tf.ones(weight.shape) / np.prod(weight.shape[:-1]))
    fields = receptive_fields(model)
    height, width = 203, 171
    picture = tf.ones([1, height, width, 3])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(picture)
        features = model(picture)
        # A feature at the border, one in the middle and the last.
        picked = {
            (layer, y, x): tf.reduce_sum(feature[0, y, x])
            for layer, feature in features.items()
            for y, x in (
                (0, 1),
                (feature.shape[1] // 2, feature.shape[2] // 2),
                (feature.shape[1] - 1, feature.shape[2] - 1),
            )
        }
    for (layer, *place), value in picked.items():
        seen = np.argwhere(tape.gradient(value, picture)[0, ..., 0].numpy())
        field = fields[id(model.output[layer])][1]
        for i, begin, end, length in zip(
            place, seen.min(0), seen.max(0) + 1, (height, width), strict=True
        ):
            assert begin == max(i * field.stride - field.before, 0), layer
            assert end == min((i + 1) * field.stride + field.after, length), layer


@pytest.mark.parametrize("pool", [False, True])
def test_receptive_fields_refuses_pools_that_pad(pool):
    x = inputs = keras.Input([None, None, 3])
    kind = keras.layers.MaxPooling2D if pool else keras.layers.AveragePooling2D
    x = kind(3, 2, padding="same", name="half")(x)
    with pytest.raises(ValueError, match="half: strides with padding cannot be tiled"):
        receptive_fields(keras.Model(inputs, {"x": x}))


def test_receptive_fields_refuses_strided_convolutions_that_pad():
    inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(2, 3, strides=2, padding="same", name="half")(inputs)
    with pytest.raises(ValueError, match="half: strides with padding cannot be tiled"):
        receptive_fields(keras.Model(inputs, {"x": x}))
