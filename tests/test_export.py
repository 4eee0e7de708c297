"""Tests of tfstyle/networks/export.py and export_optimizer.py."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively_network
from tensorflow.core.protobuf import saved_model_pb2

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.networks import formats
from tfstyle.networks.export import export_network
from tfstyle.networks.export_optimizer import export_optimizer
from tfstyle.networks.style_net import load_network


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"])


# Of no multiple of anything.
PICTURE = np.random.default_rng(9).uniform(size=[1, 33, 51, 3]).astype("float32")


def in_new_process(program: str, *words) -> np.ndarray:
    """What a program, which is given the picture's file, leaves in a file."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.load(words[-1])


@pytest.fixture(scope="module")
def served(network, tmp_path_factory):
    """The first version of a SavedModel, of a blend."""
    folder = tmp_path_factory.mktemp("served")
    assert export_network(network, folder, style_name="a:1,b:3") < 1 / 255
    return folder / "1"


def test_saved_model_runs_where_there_is_only_tensorflow(network, served, tmp_path):
    np.save(tmp_path / "picture.npy", PICTURE)
    program = """
import sys
sys.modules["tfstyle"] = sys.modules["keras"] = None  # cannot be imported
import numpy as np, tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
results = [
    model.signatures["serving_default"](images=tf.constant(images)),
    model.signatures["uint8"](images=tf.constant((images * 255).round(), tf.uint8)),
    model.signatures["blend"](images=tf.constant(np.repeat(images, 2, 0)),
        styles=tf.constant([[0.25, 0.75], [1.0, 0.0]])),
]
plain, levels, blends = (result["stylized"].numpy() for result in results)
assert levels.dtype == np.uint8, levels.dtype
np.save(sys.argv[3], np.concatenate([plain, levels / 255, blends]))
"""
    results = in_new_process(
        program, served, tmp_path / "picture.npy", tmp_path / "out.npy"
    )
    blend, first = network.blend("a:1,b:3"), network.blend("a")
    wanted = network(PICTURE, blend).numpy()[0]
    np.testing.assert_allclose(results[0], wanted, atol=1e-4)
    np.testing.assert_allclose(results[1], wanted, atol=0.03)  # of rounded levels
    np.testing.assert_allclose(results[2], wanted, atol=1e-4)
    np.testing.assert_allclose(results[3], network(PICTURE, first)[0], atol=1e-4)


def test_saved_model_is_a_function_of_pictures_and_a_layer_of_keras(network, served):
    images = np.concatenate([PICTURE, 1 - PICTURE])
    wanted = network(images, network.blend("a:1,b:3"))
    loaded = tf.saved_model.load(str(served))
    np.testing.assert_allclose(loaded(images), wanted, atol=1e-4)
    np.testing.assert_allclose(loaded.serve(tf.constant(images)), wanted, atol=1e-4)
    layer = keras.layers.TFSMLayer(served)
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, layer(inputs))
    np.testing.assert_allclose(model.predict(images, verbose=0), wanted, atol=1e-4)


def test_export_network_writes_the_next_version(network, tmp_path):
    (tmp_path / "9").mkdir()
    (tmp_path / "10").mkdir()
    export_network(network, tmp_path)
    assert {child.name for child in tmp_path.iterdir()} == {"9", "10", "11"}


def test_export_network_to_keras_has_all_styles(network, tmp_path):
    assert export_network(network, tmp_path / "m.keras", "keras") == 0
    loaded = load_network(tmp_path / "m.keras")
    np.testing.assert_array_equal(
        loaded(PICTURE, loaded.blend("b")), network(PICTURE, network.blend("b"))
    )


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 1e-4), ("float16", 0.01), ("int8", 0.15)]
)
def test_export_network_to_litert_takes_odd_sizes(
    network, tmp_path, precision, tolerance
):
    pytest.importorskip("ai_edge_litert")
    path = tmp_path / "m.tflite"
    options = {"style_name": "b", "quantize": precision}
    assert export_network(network, path, "litert", **options) < tolerance
    np.save(tmp_path / "picture.npy", PICTURE)
    program = """
import sys
sys.modules["tensorflow"] = None
import numpy as np
from ai_edge_litert.interpreter import Interpreter
images = np.load(sys.argv[2])
interpreter = Interpreter(model_path=sys.argv[1])
runner = interpreter.get_input_details()[0]["index"]
interpreter.resize_tensor_input(runner, images.shape)
interpreter.allocate_tensors()
interpreter.set_tensor(runner, images)
interpreter.invoke()
result = interpreter.get_output_details()[0]["index"]
np.save(sys.argv[3], interpreter.get_tensor(result))
"""
    result = in_new_process(
        program, path, tmp_path / "picture.npy", tmp_path / "out.npy"
    )
    wanted = network(PICTURE, network.blend("b"))
    np.testing.assert_allclose(result, wanted, atol=tolerance)


def test_export_network_to_onnx_takes_any_batch_and_size(network, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    path = tmp_path / "m.onnx"
    assert export_network(network, path, "onnx", style_name="b") < 1 / 255
    images = np.concatenate([PICTURE, 1 - PICTURE])
    np.save(tmp_path / "picture.npy", images)
    program = """
import sys
sys.modules["tensorflow"] = None
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
result = session.run(["stylized"], {"images": np.load(sys.argv[2])})[0]
np.save(sys.argv[3], result)
"""
    result = in_new_process(
        program, path, tmp_path / "picture.npy", tmp_path / "out.npy"
    )
    np.testing.assert_allclose(result, network(images, network.blend("b")), atol=1e-4)


def test_export_network_writes_nothing_that_differs(network, tmp_path, monkeypatch):
    monkeypatch.setitem(formats.TOLERANCES, "float32", -1.0)
    (tmp_path / "m.keras").write_bytes(b"an earlier one")
    for format, name in (("savedmodel", "m"), ("keras", "m.keras")):
        with pytest.raises(TfstyleError, match=r"differ from the network's by 0\.0000"):
            export_network(network, tmp_path / name, format)
    assert not list((tmp_path / "m").iterdir())
    assert (tmp_path / "m.keras").read_bytes() == b"an earlier one"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("broken", [0, 1])
def test_check_refuses_results_that_are_no_numbers(broken):
    examples = [{"x": np.float32([i])} for i in range(2)]
    part = formats.Part(lambda x: {"y": x}, examples)
    assert formats.check(lambda x: {"y": x}, part, "float32") == 0
    with pytest.raises(TfstyleError, match=r"differ from the network's by nan"):
        formats.check(
            lambda x: {"y": np.where(x == broken, np.nan, x)}, part, "float32"
        )


def test_export_network_refuses(network, tmp_path):
    with pytest.raises(UsageError, match="format='coreml': choose one of savedmodel, "):
        export_network(network, tmp_path / "m", "coreml")
    with pytest.raises(UsageError, match="quantize='int4': choose one of float32, "):
        export_network(network, tmp_path / "m", "litert", quantize="int4")
    with pytest.raises(UsageError, match="int8': onnx is written in float32 only"):
        export_network(network, tmp_path / "m", "onnx", quantize="int8")
    with pytest.raises(UsageError, match="there is no style 'c'"):
        export_network(network, tmp_path / "m", style_name="c")
    assert not list(tmp_path.iterdir())


def test_export_network_names_a_missing_library(network, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(UsageError, match=r"pip install 'tfstyle\[export\]'"):
        export_network(network, tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())


def test_export_optimizer_gives_what_stylize_gives_in_float32(
    tmp_path, tiny_backbone, bfloat16_cpu, content, style
):
    options = {"tv_weight": 0.1, "normalization": "mean", "learning_rate": 0.005}
    assert export_optimizer(tmp_path / "m", **options) < 1 / 255
    stylize = tf.saved_model.load(str(tmp_path / "m" / "1")).signatures["stylize"]
    found = stylize(
        content=tf.constant(content),
        style=tf.constant(style),
        steps=tf.constant(15),
        content_weight=tf.constant(0.01),
        style_weight=tf.constant(3.0),
    )
    wanted = tfstyle.stylize(
        content,
        style,
        **options,
        precision="float32",
        optimizer="adam",
        scales=1,
        margin=0,
        color="free",
        style_scale=(1.0,),
        steps=15,
        content_weight=0.01,
        style_weight=3.0,
    )
    np.testing.assert_allclose(found["stylized"], wanted.images, atol=2e-3)
    np.testing.assert_allclose(found["losses"], wanted.history["total"], rtol=2e-3)
    assert found["losses"][-1] < 0.9 * found["losses"][0]
    text = (tmp_path / "m" / "1" / "saved_model.pb").read_bytes()
    saved = saved_model_pb2.SavedModel.FromString(text)
    nodes = [
        n for f in saved.meta_graphs[0].graph_def.library.function for n in f.node_def
    ]
    assert any(node.op == "Conv2D" for node in nodes)
    assert tf.bfloat16.as_datatype_enum not in {n.attr["T"].type for n in nodes}
