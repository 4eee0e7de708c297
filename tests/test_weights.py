"""Tests of weights: reading and writing files, downloads, assignment to a network."""

import dataclasses
import os
import pickle
import urllib.error
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from tfstyle.backbones import squeezenet, vgg
from tfstyle.backbones.weights import load_weights, read_weights, save_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.backbones.weights_download import download, keras_models_folder
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import sha256

pytestmark = pytest.mark.fast

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = Path(os.environ.get("TFSTYLE_SHARED", _ROOT.parent / "shared"))


def _random(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype("float32")


def _weights() -> dict[str, np.ndarray]:
    return {
        "conv1/kernel": _random((3, 3, 3, 4)),
        "conv1/bias": _random((4,)),
        "fire2/squeeze1x1/kernel": _random((1, 1, 4, 2)),
        "fire2/squeeze1x1/bias": _random((2,)),
    }


def _network() -> keras.Model:
    x = inputs = keras.Input([None, None, 3])
    x = keras.ops.relu(keras.layers.Conv2D(4, 3, name="conv1")(x))
    x = keras.layers.BatchNormalization(name="normalised")(x)
    x = keras.layers.Conv2D(2, 1, name="fire2_squeeze1x1")(x)
    return keras.Model(inputs, x)


def _small_vgg(filters: int = 3, cut: str | None = None) -> keras.Model:
    inputs = keras.Input([None, None, 3])
    channels = dict.fromkeys(vgg.convolutions(vgg.VGG19_CONVOLUTIONS), filters)
    taps = vgg.build(inputs, channels, "max")
    model = keras.Model(inputs, taps[cut] if cut else taps)
    for variable in model.variables:
        variable.assign(np.random.default_rng(7).normal(size=variable.shape))
    return model


def _squeezenet(seed: int, cut: str = "fire9/concat") -> keras.Model:
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, squeezenet.build(inputs)[cut])
    for layer in model.layers:
        for variable in layer.weights:
            shape = tuple(variable.shape)
            variable.assign(keras.random.normal(shape, 0, 0.1))
    return model


def _assert_same(a: keras.Model, b: keras.Model) -> None:
    """Every convolution of `a` is that of `b`."""
    convolutions = [x for x in a.layers if isinstance(x, keras.layers.Conv2D)]
    assert convolutions
    for layer in convolutions:
        for x, y in zip(
            layer.get_weights(), b.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(x, y)


def _drop_layer_names(path: Path) -> None:
    """Makes a file of Keras 3.6 or later what Keras before 3.6 wrote."""
    with h5py.File(path, "r+") as file:
        for group in file["layers"].values():
            group["vars"].attrs.pop("name")


def _refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ------------------------------------------------------------------------- .npz


@pytest.mark.parametrize("preprocessing", [None, "caffe", "torch"])
def test_save_weights_and_read_weights_of_npz(tmp_path, preprocessing):
    save_weights(tmp_path / "w.npz", _weights(), preprocessing)
    arrays, said = read_weights(tmp_path / "w.npz")
    assert said == preprocessing
    assert list(arrays) == list(_weights())
    for name, array in _weights().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_read_weights_makes_float32_of_half_precision(tmp_path):
    halves = {name: array.astype("float16") for name, array in _weights().items()}
    save_weights(tmp_path / "w.npz", halves)
    arrays, _ = read_weights(str(tmp_path / "w.npz"))
    assert {array.dtype for array in arrays.values()} == {np.dtype("float32")}
    np.testing.assert_array_equal(arrays["conv1/bias"], halves["conv1/bias"])


def test_read_weights_of_npz_keeps_convolutions_only(tmp_path):
    np.savez(tmp_path / "w.npz", **_weights(), note=np.array("hello"), step=np.int64(3))
    assert list(read_weights(tmp_path / "w.npz")[0]) == list(_weights())


def test_read_weights_refuses_pickled_objects_without_running_them(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "w.npz"
    np.savez(path, **_weights(), extra=np.array([Evil()], dtype=object))
    assert "pickled objects" in _refusal(path)
    path.write_bytes(pickle.dumps(Evil()))
    assert "not an .npz file" in _refusal(path)
    assert not (tmp_path / "ran").exists()


def test_read_weights_refuses_npz_that_was_cut_short(tmp_path):
    path = tmp_path / "w.npz"
    save_weights(path, _weights())
    path.write_bytes(path.read_bytes()[:-40])
    assert "damaged" in _refusal(path)


def test_read_weights_refuses_npz_with_a_flipped_byte(tmp_path):
    path = tmp_path / "w.npz"
    save_weights(path, _weights())
    data = bytearray(path.read_bytes())
    data[250] ^= 0xFF
    path.write_bytes(data)
    assert "damaged .npz file" in _refusal(path)


def test_read_weights_refuses_an_unknown_preprocessing(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(path, **_weights(), preprocessing=np.array("tf"))
    message = _refusal(path)
    assert "preprocessing 'tf'" in message and "caffe or torch" in message


@pytest.mark.parametrize(
    "arrays", [{}, {"a": np.zeros(3)}, {"dense/kernel": np.zeros([3, 3])}]
)
def test_read_weights_refuses_npz_without_a_convolution(tmp_path, arrays):
    np.savez(tmp_path / "w.npz", **arrays)
    assert "no convolution" in _refusal(tmp_path / "w.npz")


def test_save_weights_writes_the_file_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "w.npz"
    save_weights(path, _weights(), "torch")
    before = path.read_bytes()

    def fail(file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(TfstyleError, match=r"w.npz: .*No space left"):
        save_weights(path, _weights())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_save_weights_refuses_another_extension_preprocessing_and_folder(tmp_path):
    with pytest.raises(UsageError, match=r"w.h5: weights are written as .npz"):
        save_weights(tmp_path / "w.h5", _weights())
    with pytest.raises(UsageError, match="unknown preprocessing 'tf'; give caffe or"):
        save_weights(tmp_path / "w.npz", _weights(), "tf")
    with pytest.raises(TfstyleError, match="No such file or directory"):
        save_weights(tmp_path / "nowhere" / "w.npz", _weights())
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------- .h5


def _write_keras_2(group: h5py.Group, names: dict[str, tuple[str, str]]) -> None:
    weights = _weights()
    group.attrs["layer_names"] = [b"input_1", *(layer.encode() for layer in names)]
    group.create_group("input_1").attrs["weight_names"] = np.array([])
    for layer, (kernel, bias) in names.items():
        inner = group.create_group(layer)
        inner.attrs["weight_names"] = [kernel.encode(), bias.encode()]
        inner[kernel] = weights[f"{layer}/kernel"]
        inner[bias] = weights[f"{layer}/bias"]


@pytest.mark.parametrize("whole_model", [False, True])
@pytest.mark.parametrize("extension", [".h5", ".hdf5", ".H5", ".weights.h5"])
def test_read_weights_of_keras_2_ignores_the_names_of_arrays(
    tmp_path, whole_model, extension
):
    path = tmp_path / f"w{extension}"
    names = {
        "conv1": ("uniform1", "conv1_b"),
        "fire2/squeeze1x1": ("uniform2", "fire2/squeeze1x1_b"),
    }
    with h5py.File(path, "w") as file:
        _write_keras_2(
            file.create_group("model_weights") if whole_model else file, names
        )
    arrays, preprocessing = read_weights(path)
    assert preprocessing is None
    assert list(arrays) == list(_weights())
    for name, array in _weights().items():
        np.testing.assert_array_equal(arrays[name], array)


def test_read_weights_of_a_whole_model(tmp_path):
    network = _network()
    network.save(tmp_path / "model.h5")
    arrays, _ = read_weights(tmp_path / "model.h5")
    assert [name for name in arrays if "normalised" in name] == []
    target = _network()
    assign_weights(target, arrays, "model.h5")
    _assert_same(target, network)


def test_read_weights_of_the_published_squeezenet(tmp_path):
    path = _SHARED / "weights" / "squeezenet_v1.1_imagenet_notop.h5"
    if not path.is_file():
        pytest.skip(f"needs {path}; set TFSTYLE_SHARED to the folder that has it")
    arrays, preprocessing = read_weights(path)
    assert preprocessing is None
    assert sha256(path) == squeezenet.SHA256
    assert len(arrays) == 50
    assert arrays["fire9/expand3x3/kernel"].shape == (3, 3, 64, 256)
    model = _squeezenet(1)
    assign_weights(model, arrays, path.name)
    layer = model.get_layer("fire9_expand3x3")
    np.testing.assert_array_equal(
        layer.get_weights()[0], arrays["fire9/expand3x3/kernel"]
    )


@pytest.mark.parametrize("named", [True, False])
def test_read_weights_of_keras_3_vgg(tmp_path, named):
    path = tmp_path / "vgg.weights.h5"
    network = _small_vgg()
    network.save_weights(path)
    if not named:
        _drop_layer_names(path)
    arrays, _ = read_weights(path)
    assert ("block5_conv4/kernel" in arrays) == named
    assert ("conv2d_15/kernel" in arrays) != named
    target = _small_vgg(cut="block5_conv1")
    for variable in target.variables:
        variable.assign(np.zeros(variable.shape))
    assign_weights(target, arrays, "vgg.weights.h5")
    _assert_same(target, network)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("cut", ["fire9/concat", "fire6/squeeze1x1", "fire5/expand1x1"])
def test_read_weights_of_keras_3_squeezenet(tmp_path, named, cut):
    path = tmp_path / "s.weights.h5"
    network = _squeezenet(1)
    network.save_weights(path)
    if not named:
        _drop_layer_names(path)
    target = _squeezenet(2, cut)
    assign_weights(target, read_weights(path)[0], "s.weights.h5")
    _assert_same(target, network)


def test_read_weights_of_a_trained_model_ignores_the_optimizer(tmp_path):
    network = _network()
    network.compile("adam", "mse")
    network.fit(np.ones([1, 5, 5, 3]), np.ones([1, 3, 3, 2]), verbose=0)
    network.save_weights(tmp_path / "w.weights.h5")
    assert set(read_weights(tmp_path / "w.weights.h5")[0]) == {
        f"{layer}/{part}"
        for layer in ("conv1", "fire2_squeeze1x1")
        for part in ("kernel", "bias")
    }


def test_assign_weights_refuses_automatic_names_in_another_order(tmp_path):
    path = tmp_path / "s.weights.h5"
    _squeezenet(1).save_weights(path)
    _drop_layer_names(path)
    # Without fire5/expand1x1, what comes next in the file is another layer.
    target = _squeezenet(2, "fire5/expand3x3")
    before = [np.array(variable) for variable in target.variables]
    with pytest.raises(UsageError, match=r"s: conv2d_11/kernel has shape \[1, 1, 32"):
        assign_weights(target, read_weights(path)[0], "s")
    for variable, array in zip(target.variables, before, strict=True):
        np.testing.assert_array_equal(variable, array)


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5"])
def test_read_weights_refuses_a_web_page_as_h5(tmp_path, name):
    (tmp_path / name).write_bytes(b"<!DOCTYPE html>")
    assert "not an HDF5 file" in _refusal(tmp_path / name)


def test_read_weights_refuses_h5_that_was_cut_short(tmp_path):
    path = tmp_path / "w.weights.h5"
    _network().save_weights(path)
    path.write_bytes(path.read_bytes()[:-3000])
    assert "damaged" in _refusal(path)


def test_read_weights_refuses_h5_without_a_convolution(tmp_path):
    keras.Sequential([keras.Input([3]), keras.layers.Dense(2)]).save_weights(
        tmp_path / "w.weights.h5"
    )
    assert "no convolution" in _refusal(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    assert "no convolution" in _refusal(tmp_path / "empty.h5")


# ------------------------------------------------------------------------- any file


def test_read_weights_refuses_a_missing_file(tmp_path):
    message = _refusal(tmp_path / "w.npz")
    assert "No such file or directory" in message and ".weights.h5" in message


def test_read_weights_refuses_a_folder(tmp_path):
    message = _refusal(tmp_path)
    assert "Is a directory" in message and ".npz" in message


def test_read_weights_refuses_an_unknown_extension(tmp_path):
    (tmp_path / "w.keras").touch()
    message = _refusal(tmp_path / "w.keras")
    assert "not a format that tfstyle reads" in message and ".npz" in message
    assert "model.save_weights('name.weights.h5')" in message


# ------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["fire2/squeeze1x1", "fire2_squeeze1x1"])
def test_assign_weights_takes_slashes_and_underscores_alike(name):
    weights = {
        key.replace("fire2/squeeze1x1", name): array
        for key, array in _weights().items()
    }
    network = _network()
    assign_weights(network, weights, "w.npz")
    for layer in ("conv1", "fire2/squeeze1x1"):
        kernel, bias = network.get_layer(layer.replace("/", "_")).get_weights()
        np.testing.assert_array_equal(kernel, _weights()[f"{layer}/kernel"])
        np.testing.assert_array_equal(bias, _weights()[f"{layer}/bias"])


def test_assign_weights_ignores_layers_that_the_network_does_not_have():
    more = {"conv9/kernel": _random((1, 1, 9, 9)), "conv9/bias": _random((9,))}
    assign_weights(_network(), _weights() | more, "w.npz")


def _assignment_refusal(weights: dict[str, np.ndarray]) -> str:
    with pytest.raises(UsageError) as caught:
        assign_weights(_network(), weights, "w.npz")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_assign_weights_names_a_missing_layer():
    weights = {k: v for k, v in _weights().items() if k.startswith("conv1")}
    message = _assignment_refusal(weights)
    assert message.startswith("w.npz: has no fire2_squeeze1x1 ")
    assert "its last convolution is conv1)" in message


def test_assign_weights_names_a_missing_bias():
    weights = _weights()
    del weights["fire2/squeeze1x1/bias"]
    message = _assignment_refusal(weights)
    assert message.startswith("w.npz: has no bias of fire2_squeeze1x1 ")


def test_assign_weights_names_both_shapes():
    weights = _weights() | {"conv1/kernel": _random((4, 3, 3, 3))}
    message = _assignment_refusal(weights)
    assert message.startswith("w.npz: conv1/kernel has shape [4, 3, 3, 3]")
    assert "conv1 needs [3, 3, 3, 4]" in message


# ------------------------------------------------------------------------- download


URL = "https://example.org/w.h5"
ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256


@pytest.fixture
def web(monkeypatch, tmp_path):
    """The bytes that downloads get, or the exception that they raise; counts them."""
    web = {"answer": b"abc", "downloads": 0}

    def urlretrieve(url, target, _):
        assert url == URL
        web["downloads"] += 1
        if isinstance(web["answer"], BaseException):
            raise web["answer"]
        Path(target).write_bytes(web["answer"])

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", urlretrieve)
    monkeypatch.setattr("keras.src.backend.config.keras_home", lambda: str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return web


def test_download_keeps_the_file_in_kerass_cache(web, tmp_path):
    for _ in range(2):
        assert download(URL, ABC) == tmp_path / "models" / "w.h5"
    assert web["downloads"] == 1
    assert (tmp_path / "models" / "w.h5").read_bytes() == b"abc"


def test_download_replaces_a_file_with_another_digest(web, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "w.h5").write_bytes(b"abd")
    assert download(URL, ABC).read_bytes() == b"abc"
    assert web["downloads"] == 1


def test_download_refuses_bytes_with_another_digest(web):
    web["answer"] = b"abd"
    with pytest.raises(TfstyleError, match=r"w.h5: could not be .*corrupted"):
        download(URL, ABC)


def test_download_names_reason_address_and_ways_out_in_one_line(web, tmp_path):
    web["answer"] = urllib.error.HTTPError(URL, 404, "Not\n Found", {}, None)
    with pytest.raises(TfstyleError) as caught:
        download(URL, ABC)
    message = str(caught.value)
    assert caught.value.exit_code == 1
    assert message.startswith("w.h5: ") and "\n" not in message
    assert "(404 -- Not Found)" in message and message.count(URL) == 1
    for way_out in (str(tmp_path / "models"), "--weights=PATH", "--backbone=slim19"):
        assert way_out in message


def test_download_does_not_swallow_ctrl_c(web):
    web["answer"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        download(URL, ABC)


def test_keras_models_folder_is_where_keras_puts_files(web, tmp_path, monkeypatch):
    path = keras.utils.get_file("w.h5", URL, cache_subdir="models")
    assert Path(path).parent == keras_models_folder() == tmp_path / "models"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "missing"))
    assert keras_models_folder() == Path("/tmp/.keras/models")


# ------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("said", [None, "caffe", "torch"])
def test_load_weights_of_a_file_asks_for_its_preprocessing(tmp_path, said):
    save_weights(tmp_path / "w.npz", _weights(), said)
    arrays, preprocessing = load_weights(squeezenet.SQUEEZENET, tmp_path / "w.npz")
    assert list(arrays) == list(_weights())
    assert preprocessing == (said or "caffe")


@pytest.mark.parametrize("preprocessing", ["caffe", "torch"])
def test_load_weights_of_imagenet_are_the_published_ones(preprocessing):
    published = _weights()
    backbone = dataclasses.replace(
        squeezenet.SQUEEZENET,
        preprocessing=preprocessing,
        published_weights=lambda: published,
    )
    arrays, said = load_weights(backbone, "imagenet")
    assert arrays is published and said == preprocessing
