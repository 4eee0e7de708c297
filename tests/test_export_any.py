"""Tests of tfstyle/networks/export_any.py: any style in other runtimes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw

from tfstyle.errors import UsageError
from tfstyle.networks.export import export_network
from tfstyle.networks.formats import call_litert, call_onnx
from tfstyle.networks.style_net import load_network

CONTENT, STYLE = draw(33, 51, (9, 7, 12)), draw(24, 40, (5, 21, 8))


@pytest.fixture(scope="module")
def network():
    return load_network("any")


@pytest.fixture(scope="module")
def wanted(network):
    return network(CONTENT, network.code(STYLE)).numpy()


@pytest.fixture(scope="module")
def served(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    assert export_network(network, folder) < 1 / 255
    return str(folder / "1")


def test_saved_model_is_called_like_the_module_of_tf_hub(served, wanted):
    # The line of TensorFlow's tutorial, with another handle.
    hub_module = tf.saved_model.load(served)
    stylized_image = hub_module(tf.constant(CONTENT), tf.constant(STYLE))[0]
    np.testing.assert_allclose(stylized_image, wanted, atol=1e-5)


def test_saved_model_has_signatures_for_both_and_for_the_parts(served, wanted):
    signatures = tf.saved_model.load(served).signatures
    content, style = tf.constant(CONTENT), tf.constant(STYLE)
    whole = signatures["serving_default"](content=content, style=style)
    np.testing.assert_allclose(whole["stylized"], wanted, atol=1e-5)
    code = signatures["encode"](style=style)
    parts = signatures["stylize"](content=content, **code)
    np.testing.assert_allclose(parts["stylized"], wanted, atol=1e-5)


def test_saved_model_is_a_layer_of_keras(served, wanted):
    layer = keras.layers.TFSMLayer(served)
    np.testing.assert_allclose(layer([CONTENT, STYLE]), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("format", "extension", "read"),
    [("litert", ".tflite", call_litert), ("onnx", ".onnx", call_onnx)],
)
def test_parts_make_the_whole(network, wanted, tmp_path, format, extension, read):
    pytest.importorskip("ai_edge_litert" if format == "litert" else "tf2onnx")
    calls = {}
    for part in ("whole", "encode", "stylize"):
        path = tmp_path / (part + extension)
        assert export_network(network, path, format, part=part) < 1 / 255
        calls[part] = read(path)
    whole = calls["whole"](content=CONTENT, style=STYLE)["stylized"]
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    code = calls["encode"](style=STYLE)
    parts = calls["stylize"](content=CONTENT, **code)["stylized"]
    np.testing.assert_allclose(parts, wanted, atol=1e-4)


def test_keras_file_holds_the_network(network, wanted, tmp_path):
    assert export_network(network, tmp_path / "any.keras", "keras") < 1e-4
    loaded = load_network(tmp_path / "any.keras")
    np.testing.assert_allclose(loaded(CONTENT, loaded.code(STYLE)), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"part": "half"}, "part='half': choose one of whole, encode, stylize"),
        ({"part": "encode"}, "part='encode': savedmodel has the whole network"),
        ({"style_name": "a"}, "style_name: a network for any style has none"),
    ],
)
def test_export_network_refuses(network, tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        export_network(network, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
