"""Tests of scripts/convert_squeezenet.py, with random weights of the real shapes."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import load_script

from tfstyle.backbones.squeezenet import SQUEEZENET
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.errors import UsageError

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = Path(os.environ.get("TFSTYLE_SHARED", _ROOT.parent / "shared"))
_INDEX = _SHARED / "checks" / "squeezenet.ckpt.index"
_SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
_FIRES = [(64, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128)]
_FIRES += [(256, 48, 192), (384, 48, 192), (384, 64, 256), (512, 64, 256)]


convert_squeezenet = load_script("convert_squeezenet")


def _checkpoint_shapes() -> dict[str, tuple[int, ...]]:
    """The variables of the assignment's checkpoint, classifier included."""
    shapes = {"net/layer_with_weights-0": (3, 3, 3, 64)}
    for number, (channels, squeeze, expand) in enumerate(_FIRES, 1):
        fire = f"net/layer_with_weights-{number}"
        shapes[f"{fire}/squeeze"] = (1, 1, channels, squeeze)
        shapes[f"{fire}/expand1x1"] = (1, 1, squeeze, expand)
        shapes[f"{fire}/expand3x3"] = (3, 3, squeeze, expand)
    shapes["net/layer_with_weights-9"] = (1, 1, 512, 1000)
    kernels = {f"{name}/kernel{_SUFFIX}": shape for name, shape in shapes.items()}
    biases = {f"{name}/bias{_SUFFIX}": shape[-1:] for name, shape in shapes.items()}
    return kernels | biases


def _write_checkpoint(
    folder: Path, shapes: dict[str, tuple[int, ...]]
) -> tuple[Path, dict[str, np.ndarray]]:
    generator = np.random.default_rng(4)
    arrays = {
        # Scaled so that deep features neither vanish nor explode.
        name: generator.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype("f4")
        for name, shape in shapes.items()
    }
    prefix = folder / "squeezenet.ckpt"
    names = list(arrays)
    tf.raw_ops.SaveV2(
        prefix=f"{prefix}_shard",
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[arrays[name] for name in names],
    )
    # A shard alone does not have the file names of the assignment's checkpoint.
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=[f"{prefix}_shard"], destination_prefix=str(prefix)
    )
    return prefix, arrays


def _fire(torch, channels: int, squeeze: int, expand: int):
    """torchvision's Fire module, with its names."""

    class Fire(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.squeeze = torch.nn.Conv2d(channels, squeeze, 1)
            self.expand1x1 = torch.nn.Conv2d(squeeze, expand, 1)
            self.expand3x3 = torch.nn.Conv2d(squeeze, expand, 3, padding=1)

        def forward(self, x):
            x = torch.relu(self.squeeze(x))
            both = [torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))]
            return torch.cat(both, 1)

    return Fire()


def _squeezenet(torch):
    """torchvision's squeezenet1_1, with its names and random weights."""
    torch.manual_seed(5)
    pools = [torch.nn.MaxPool2d(3, 2, ceil_mode=True) for _ in range(3)]
    fires = [_fire(torch, *sizes) for sizes in _FIRES]
    conv1 = torch.nn.Conv2d(3, 64, 3, stride=2)
    features = [conv1, torch.nn.ReLU(), pools[0], *fires[:2], pools[1], *fires[2:4]]
    features += [pools[2], *fires[4:]]
    classifier = [torch.nn.Dropout(), torch.nn.Conv2d(512, 1000, 1)]
    return torch.nn.ModuleDict(
        {
            "features": torch.nn.Sequential(*features),
            "classifier": torch.nn.Sequential(*classifier),
        }
    )


def _torch_features(torch, network, images: np.ndarray) -> list[np.ndarray]:
    x = torch.tensor(images.transpose(0, 3, 1, 2))
    features = []
    with torch.no_grad():
        for layer in network["features"]:
            x = layer(x)
            features.append(x.numpy().transpose(0, 2, 3, 1))
    return features


def _our_features(weights: dict[str, np.ndarray], images: np.ndarray) -> list:
    inputs = keras.Input([None, None, 3])
    taps = SQUEEZENET.build(inputs, "max")
    names = [SQUEEZENET.layers[str(i)] for i in range(13)]
    model = keras.Model(inputs, [taps[name] for name in names])
    assign_weights(model, weights, "converted")
    return [np.asarray(feature) for feature in model(images)]


def _assert_same_features(torch, network, weights):
    # At this size, pools that round up (torchvision) and down (here) agree.
    images = np.random.default_rng(6).normal(size=[1, 63, 63, 3]).astype("float32")
    theirs = _torch_features(torch, network, images)
    ours = _our_features(weights, images)
    assert len(ours) == len(theirs) == 13
    for index, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape, index
        assert np.linalg.norm(a - b) < 1e-4 * np.linalg.norm(b), index


def test_convert_of_a_state_dict_gives_the_features_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    network = _squeezenet(torch)
    torch.save(network.state_dict(), tmp_path / "squeezenet1_1.pth")
    convert_squeezenet.convert(tmp_path / "squeezenet1_1.pth", tmp_path / "s.npz")
    weights, preprocessing = read_weights(tmp_path / "s.npz")
    assert preprocessing == "torch"
    assert len(weights) == 50
    _assert_same_features(torch, network, weights)


def test_convert_of_a_checkpoint_gives_the_features_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    prefix, arrays = _write_checkpoint(tmp_path, _checkpoint_shapes())
    network = _squeezenet(torch)
    indices = [0, 3, 4, 6, 7, 9, 10, 11, 12]
    state = {}
    for name, array in arrays.items():
        layer, *rest = name.removesuffix(_SUFFIX).split("-")[1].split("/")
        where = ["features", str(indices[int(layer)])] if layer != "9" else None
        *part, kind = rest
        key = ".".join([*(where or ["classifier", "1"]), *part])
        if kind == "kernel":
            state[f"{key}.weight"] = torch.tensor(array.transpose(3, 2, 0, 1).copy())
        else:
            state[f"{key}.bias"] = torch.tensor(array)
    network.load_state_dict(state)
    convert_squeezenet.convert(Path(f"{prefix}.index"), tmp_path / "s.npz")
    weights, preprocessing = read_weights(tmp_path / "s.npz")
    assert preprocessing == "torch"
    _assert_same_features(torch, network, weights)


def test_read_of_a_checkpoint_keeps_every_array(tmp_path):
    prefix, arrays = _write_checkpoint(tmp_path, _checkpoint_shapes())
    weights = convert_squeezenet.read(prefix)
    assert len(weights) == 50
    pairs = {
        "conv1/kernel": "net/layer_with_weights-0/kernel",
        "fire2/squeeze1x1/bias": "net/layer_with_weights-1/squeeze/bias",
        "fire9/expand3x3/kernel": "net/layer_with_weights-8/expand3x3/kernel",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(weights[ours], arrays[theirs + _SUFFIX])


def test_checkpoint_of_these_tests_is_like_the_assignments():
    if not _INDEX.is_file():
        pytest.skip(f"needs {_INDEX}; set TFSTYLE_SHARED to the folder that has it")
    listed = tf.train.list_variables(str(_INDEX.with_suffix("")))
    shapes = {name: tuple(shape) for name, shape in listed if name.endswith(_SUFFIX)}
    assert shapes == _checkpoint_shapes()


@pytest.mark.parametrize("name", ["", ".index", ".data-00000-of-00001"])
def test_checkpoint_prefix_of_any_file_of_a_checkpoint(tmp_path, name):
    path = tmp_path / "squeezenet.ckpt"
    Path(f"{path}.index").touch()
    found = convert_squeezenet.checkpoint_prefix(Path(f"{path}{name}"))
    assert found == str(path)


def _refusal(source: Path, target: Path) -> str:
    with pytest.raises(UsageError) as caught:
        convert_squeezenet.convert(source, target)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_convert_refuses_a_missing_file(tmp_path):
    message = _refusal(tmp_path / "no.pth", tmp_path / "s.npz")
    assert "no.pth: no such file" in message and ".ckpt.index" in message


def test_convert_refuses_a_file_that_is_not_a_state_dict(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "text.pth"
    path.write_text("hello")
    message = _refusal(path, tmp_path / "s.npz")
    assert message.startswith(f"{path}: not a state dict of PyTorch")
    assert "squeezenet1_1-b8a52dc0.pth" in message


def test_convert_runs_no_code_in_a_state_dict(tmp_path):
    torch = pytest.importorskip("torch")

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    assert "not a state dict" in _refusal(tmp_path / "evil.pth", tmp_path / "s.npz")
    assert not (tmp_path / "ran").exists()


def test_convert_refuses_a_state_dict_of_another_network(tmp_path):
    torch = pytest.importorskip("torch")
    state = _squeezenet(torch).state_dict()
    del state["features.6.squeeze.weight"]
    torch.save(state, tmp_path / "other.pth")
    message = _refusal(tmp_path / "other.pth", tmp_path / "s.npz")
    assert "other.pth: has no features.6.squeeze.weight, so it is not Squ" in message


def test_convert_refuses_a_state_dict_with_another_shape(tmp_path):
    torch = pytest.importorskip("torch")
    state = _squeezenet(torch).state_dict()
    state["features.0.weight"] = torch.zeros(96, 3, 7, 7)
    torch.save(state, tmp_path / "other.pth")
    message = _refusal(tmp_path / "other.pth", tmp_path / "s.npz")
    assert (
        "conv1/kernel has shape [7, 7, 3, 96], but conv1 needs [3, 3, 3, 64]" in message
    )


def test_convert_refuses_a_tensor_instead_of_a_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.zeros(3), tmp_path / "tensor.pth")
    message = _refusal(tmp_path / "tensor.pth", tmp_path / "s.npz")
    assert "holds a Tensor, not a state dict" in message


def test_convert_refuses_a_checkpoint_without_its_data(tmp_path):
    prefix, _ = _write_checkpoint(tmp_path, _checkpoint_shapes())
    Path(f"{prefix}.data-00000-of-00001").unlink()
    message = _refusal(Path(f"{prefix}.index"), tmp_path / "s.npz")
    assert f"{prefix}: cannot be read (" in message
    assert message.endswith("both its .index and its .data-00000-of-00001 file")


def test_convert_refuses_a_damaged_checkpoint(tmp_path):
    index = tmp_path / "bad.ckpt.index"
    index.write_bytes(
        b"not an index at all, but longer than a footer of forty-eight bytes"
    )
    assert "bad.ckpt: cannot be read (" in _refusal(index, tmp_path / "s.npz")


def test_convert_refuses_a_checkpoint_of_another_network(tmp_path):
    shapes = _checkpoint_shapes()
    del shapes[f"net/layer_with_weights-8/expand3x3/bias{_SUFFIX}"]
    prefix, _ = _write_checkpoint(tmp_path, shapes)
    message = _refusal(prefix, tmp_path / "s.npz")
    assert f"has no net/layer_with_weights-8/expand3x3/bias{_SUFFIX}, so" in message


def test_command_converts_a_checkpoint_and_refuses_in_one_line(tmp_path):
    prefix, _ = _write_checkpoint(tmp_path, _checkpoint_shapes())

    def run(source: str) -> subprocess.CompletedProcess:
        script = _ROOT / "scripts" / "convert_squeezenet.py"
        flags = [f"--input={source}", f"--output={tmp_path / 's.npz'}"]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        command = [sys.executable, str(script), *flags]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    done = run(f"{prefix}.index")
    assert (done.returncode, done.stdout) == (0, f"wrote {tmp_path / 's.npz'}\n")
    assert read_weights(tmp_path / "s.npz")[1] == "torch"
    failed = run("nowhere.pth")
    assert failed.returncode == 2
    assert "convert_squeezenet: nowhere.pth: no such file; give" in failed.stderr
    assert "Traceback" not in failed.stderr
