"""Hostile weights, models and checkpoints: refused, and nothing in them is run."""

import contextlib
import dataclasses
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from conftest import simple_pictures

from tfstyle.backbones import weights as weights_module
from tfstyle.backbones.weights import read_weights
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.networks.blends import read_style_names, takes_any_style
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.options import Options
from tfstyle.stylizer.checkpoint import Checkpoint, State
from tfstyle.stylizer.problem import NO_NEIGHBORS

KERNEL = np.arange(108, dtype="float32").reshape(3, 3, 3, 4)
BIAS = np.arange(4, dtype="float32")
ELSEWHERE = "in another place, which is not read; give a file that has the weights"


class Evil:
    """What runs when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A file that must never be made."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array))
    return file.getvalue()


def npy_header(shape, kind="<f4"):
    file = io.BytesIO()
    facts = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, facts)
    return file.getvalue()


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def refusal(read, path, kind=UsageError):
    with pytest.raises(kind) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and text.isprintable() and len(text) < 700
    return text.removeprefix(f"{path}: ")


# --------------------------------------------------------------------- weights, .npz


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"c/kernel.npy": npy_header((10**6, 10**6, 3, 3))}, "a damaged .npz file"),
        ({"c/kernel.npy": npy_header((2**62, 4, 3, 3))}, "a damaged .npz file"),
        ({"c/kernel.npy": npy_header((-1, 4, 3, 3))}, "a damaged .npz file"),
        ({"c/kernel.npy": npy_header((3, 3, 3, 4), "<f4")}, "a damaged .npz file"),
        (
            {"c/kernel.npy": b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000},
            "",
        ),
        ({"c/kernel.npy": npy(KERNEL.astype("U4"))}, "'c/kernel' holds <U4, not numb"),
        ({"c/kernel.npy": npy(KERNEL * 1j)}, "'c/kernel' holds complex"),
        ({"c/kernel.npy": npy(KERNEL.astype([("a", "f4")]))}, "'c/kernel' holds [('a'"),
        (
            {"c/kernel.npy": npy(np.full(KERNEL.shape, np.nan))},
            "'c/kernel' holds NaN or infinity",
        ),
        (
            {"c/kernel.npy": npy(np.full(KERNEL.shape, 1e300))},
            "'c/kernel' holds NaN or infinity",
        ),
        ({"a\n\x1b[31m/kernel.npy": npy(KERNEL)}, r"'a\n\x1b[31m/kernel' is not a"),
        ({"a" * 9999 + "/kernel.npy": npy(KERNEL)}, "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ({"preprocessing.npy": npy("a\n\x1b[31m")}, r"asks for the preprocessing 'a\n"),
        ({"preprocessing.npy": npy(np.zeros([99, 99]))}, "asks for the preprocessing"),
        ({"c/kernel": b"pickled"}, "there is no convolution inside"),
    ],
)
def test_npz_of_odd_arrays(tmp_path, members, text):
    path = zipped(tmp_path / "w.npz", members)
    assert refusal(read_weights, path).startswith(text)


def test_npz_whose_header_is_code(tmp_path, marker):
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()\n".encode()
    data = b"\x93NUMPY\1\0" + struct.pack("<H", len(code)) + code
    path = zipped(tmp_path / "w.npz", {"c/kernel.npy": data})
    assert refusal(read_weights, path) == "a damaged .npz file; fetch it again"


def test_npz_of_pickles(tmp_path, marker):
    array = io.BytesIO()
    np.lib.format.write_array(array, np.array([Evil(marker)], dtype=object))
    members = {"c/kernel.npy": npy(KERNEL), "notes.npy": array.getvalue()}
    assert refusal(read_weights, zipped(tmp_path / "w.npz", members)).startswith(
        "holds pickled objects, which could run code and are not loaded"
    )
    (tmp_path / "p.npz").write_bytes(pickle.dumps(Evil(marker)))
    assert refusal(read_weights, tmp_path / "p.npz").startswith("not an .npz file")


@pytest.mark.parametrize("at", ["method", "encrypted"])
def test_npz_packed_in_an_unknown_way(tmp_path, at):
    path = zipped(tmp_path / "w.npz", {"c/kernel.npy": npy(KERNEL)})
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\1\2")
    places = (8, central + 10) if at == "method" else (6, central + 8)
    for place in places:
        data[place] = 99 if at == "method" else 1
    path.write_bytes(data)
    assert refusal(read_weights, path) == "a damaged .npz file; fetch it again"


def test_npz_that_unpacks_to_too_much(tmp_path, monkeypatch):
    data = npy_header((1, 1, 1, 10**6)) + bytes(4 * 10**6)
    members = {f"layer{i}/kernel.npy": data for i in range(3)}
    path = zipped(tmp_path / "w.npz", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 20_000
    assert len(read_weights(path)[0]) == 3
    monkeypatch.setattr(weights_module, "_MOST_BYTES", 10**7)
    assert refusal(read_weights, path).startswith("unpacks to 12 megabytes, more than")
    monkeypatch.undo()
    assert 574_671_192 < weights_module._MOST_BYTES < 4 * 574_671_192  # VGG-19


@pytest.mark.parametrize("target", ["pipe", "/dev/zero"])
@pytest.mark.parametrize("name", ["w.npz", "w.h5"])
def test_weights_that_are_no_file(tmp_path, name, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / name).symlink_to(target)
    assert refusal(read_weights, tmp_path / name).startswith("is not a regular file; g")


# --------------------------------------------------------------------- weights, HDF5


@pytest.fixture
def secret(tmp_path):
    """Another HDF5 file, and one of bytes, that nobody asked for."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel"] = KERNEL
        file["layers/conv2d/vars/0"] = KERNEL
    (tmp_path / "secret.txt").write_bytes(b"secret" * 999)
    return tmp_path


def keras_2(file, kernel):
    file.attrs["layer_names"] = ["c"]
    group = file.create_group("c")
    group.attrs["weight_names"] = ["k"]
    kernel(group, "k")


def keras_3(file, kernel):
    kernel(file.create_group("layers/conv2d/vars"), "0")


def external_link(secret):
    link = h5py.ExternalLink(str(secret / "secret.h5"), "/kernel")
    return lambda group, name: group.__setitem__(name, link)


def soft_link(secret):
    return lambda group, name: group.__setitem__(name, h5py.SoftLink("/elsewhere"))


def external_bytes(secret):
    place = [(str(secret / "secret.txt"), 0, KERNEL.nbytes)]
    return lambda group, name: group.create_dataset(
        name, KERNEL.shape, "f4", external=place
    )


def virtual(secret):
    layout = h5py.VirtualLayout(KERNEL.shape, "f4")
    layout[...] = h5py.VirtualSource(secret / "secret.h5", "kernel", KERNEL.shape)
    return lambda group, name: group.create_virtual_dataset(name, layout)


OUTSIDE = [external_link, soft_link, external_bytes, virtual]


@pytest.mark.parametrize("layout", [keras_2, keras_3])
@pytest.mark.parametrize("kernel", OUTSIDE)
def test_hdf5_that_takes_data_from_elsewhere(tmp_path, secret, layout, kernel):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layout(file, kernel(secret))
    assert ELSEWHERE in refusal(read_weights, tmp_path / "w.h5")


@pytest.mark.parametrize("name", ["model_weights", "layers"])
def test_hdf5_of_groups_elsewhere(tmp_path, secret, name):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file[name] = h5py.ExternalLink(str(secret / "secret.h5"), f"/{name}"[:1])
    assert ELSEWHERE in refusal(read_weights, tmp_path / "w.h5")


@pytest.mark.parametrize(
    ("shape", "chunks"),
    [((10**5, 10**5, 100, 10), (1, 1, 1, 1)), ((3, 3, 1000, 10**6), (1, 1, 10, 10))],
)
@pytest.mark.parametrize("layout", [keras_2, keras_3])
def test_hdf5_of_absurd_shapes(tmp_path, layout, shape, chunks):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        layout(file, lambda g, name: g.create_dataset(name, shape, "f4", chunks=chunks))
    assert (tmp_path / "w.h5").stat().st_size < 10_000
    assert refusal(read_weights, tmp_path / "w.h5").startswith("unpacks to ")


def test_hdf5_of_a_large_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "_MOST_BYTES", 10**6)
    shape, rest = (
        (1, 1, 1, 1),
        {"chunks": (1, 1, 1, 10**6), "maxshape": (1, 1, 1, None)},
    )
    with h5py.File(tmp_path / "w.h5", "w") as file:
        keras_3(file, lambda g, name: g.create_dataset(name, shape, "f4", **rest))
    assert refusal(read_weights, tmp_path / "w.h5").startswith("unpacks to 4 megab")


def test_hdf5_whose_layers_share_their_weights(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        names = [f"c{i}" for i in range(30)]
        file.attrs["layer_names"] = names
        file["shared/k"] = KERNEL
        file["shared"].attrs["weight_names"] = ["k"]
        for name in names:
            file[name] = file["shared"]
    assert len(read_weights(tmp_path / "w.h5")[0]) == 30
    monkeypatch.setattr(weights_module, "_MOST_BYTES", 29 * KERNEL.nbytes)
    assert refusal(read_weights, tmp_path / "w.h5").startswith("unpacks to ")


def test_hdf5_too_long_to_be_read(tmp_path):
    with (tmp_path / "w.h5").open("wb") as file:
        file.truncate(10**12)  # nothing on the disk, all of it in memory if read
    assert refusal(read_weights, tmp_path / "w.h5").startswith("unpacks to 1e+06 megab")


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (attribute("layer_names", 5), "not an HDF5 file"),
        (attribute("layer_names", np.array([b"\xff\xfe"])), "not an HDF5 file"),
        (lambda f: keras_2(f, lambda g, k: g.create_group(k)), "not an HDF5 file"),
        (lambda f: f.__setitem__("model_weights", BIAS), "not an HDF5 file"),
        (lambda f: f.__setitem__("layers/conv2d/vars", BIAS), "not an HDF5 file"),
        (
            lambda f: keras_3(f, lambda g, k: g.create_dataset(k, (3, 3, 3, 4), "S1")),
            "'conv2d/kernel' holds |S1, not numbers",
        ),
        (
            lambda f: keras_3(
                f, lambda g, k: g.create_dataset(k, (3, 3, 3, 4), h5py.string_dtype())
            ),
            "'conv2d/kernel' holds object, not numbers",
        ),
        (
            lambda f: keras_3(
                f, lambda g, k: (g.attrs.update(name="a\n"), g.update({k: KERNEL}))
            ),
            r"'a\n/kernel' is not a layer name",
        ),
    ],
)
def test_hdf5_of_odd_parts(tmp_path, make, text):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        make(file)
    assert refusal(read_weights, tmp_path / "w.h5").startswith(text)


def test_packed_hdf5_is_read(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        keras_2(file, lambda g, k: g.create_dataset(k, data=KERNEL, compression="gzip"))
    np.testing.assert_array_equal(
        read_weights(tmp_path / "w.h5")[0]["c/kernel"], KERNEL
    )


# --------------------------------------------------------------------- models


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The members of a ``.keras`` file."""
    path = tmp_path_factory.mktemp("network") / "model.keras"
    save_network(StyleNet(["a", "b"], 4, 1), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def model(tmp_path, parts):
    """Writes a ``.keras`` file with another configuration or other weights."""

    def write(config=None, weights=None, settings=None, **more):
        described = json.loads(parts["config.json"])
        described["config"].update(config or {})
        changed = {"config.json": settings or json.dumps(described)}
        if weights:
            file = io.BytesIO(parts["model.weights.h5"])
            with h5py.File(file, "r+") as opened:
                weights(opened)
            changed["model.weights.h5"] = file.getvalue()
        return zipped(
            tmp_path / "m.keras", parts | changed | more, zipfile.ZIP_DEFLATED
        )

    return write


def test_a_network_is_read_without_keras(model, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("Keras was asked to build what a file says")

    monkeypatch.setattr(keras.saving, "load_model", asked)
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", asked)
    evil = {"module": "os", "class_name": "system", "config": {"command": "false"}}
    network = load_network(model({"dtype": evil, "name": evil, "trainable": evil}))
    assert network.style_names == ["a", "b"]
    assert network.compute_dtype == "float32"
    assert load_network().style_names


@pytest.mark.parametrize("extension", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore")
def test_a_lambda_layer_is_not_run(tmp_path, extension):
    marker = tmp_path / "ran"
    code = f"lambda x: (__import__('pathlib').Path({str(marker)!r}).touch(), x)[1]"
    network = keras.Sequential([keras.Input([3]), keras.layers.Lambda(eval(code))])
    path = tmp_path / f"m.{extension}"
    network.save(path)
    assert marker.exists()
    marker.unlink()
    refusal(load_network, path)
    shutil.copy(path, tmp_path / "copy.keras")
    refusal(load_network, tmp_path / "copy.keras")
    with contextlib.suppress(UsageError):  # its weights, of which it has none
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"module": "os", "class_name": "system", "config": "touch ran"},
        {"module": "builtins", "class_name": "function", "config": "exec"},
        {"registered_name": "tfstyle>StyleNet"},
        {"registered_name": "tfstyle>StyleNet", "config": []},
        {"registered_name": "tfstyle>ConditionalInstanceNormalization", "config": {}},
        {"registered_name": None, "class_name": "Functional", "config": {}},
        [1, 2],
        "[" * 100_000,
        "no JSON",
    ],
)
def test_other_models_are_refused(model, settings):
    text = settings if isinstance(settings, str) else json.dumps(settings)
    refusal(load_network, model(settings=text))


def test_a_model_of_another_name_is_refused(model, parts):
    settings = json.loads(parts["config.json"]) | {"registered_name": "a>StyleNet"}
    text = refusal(load_network, model(settings=json.dumps(settings)))
    assert text.startswith("a Keras model, but not one that tfstyle train wrote")


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"width": 3000, "blocks": 40}, "fewer weights than the network has"),
        ({"width": 10**9}, "fewer weights than the network has"),
        ({"style_names": ["a"] * 10**5}, "fewer weights than the network has"),
        ({"blocks": 10**9, "width": 1}, "no list of styles, or no width and blocks"),
        ({"blocks": -1}, "no list of styles, or no width and blocks"),
        ({"width": "4"}, "no list of styles, or no width and blocks"),
        ({"width": True}, "no list of styles, or no width and blocks"),
        ({"width": 0}, "no list of styles, or no width and blocks"),
        ({"style_names": "ab"}, "no list of styles, or no width and blocks"),
        ({"style_names": []}, "no list of styles, or no width and blocks"),
        ({"style_names": ["a\n\x1b[31m", "b"]}, "no list of styles, or no width and"),
        ({"style_names": [1, 2]}, "no list of styles, or no width and blocks"),
        ({"style_names": ["a"]}, "could not be loaded"),
        ({"blocks": 0}, "could not be loaded"),
        ({"style_names": ["a" * 2 * 10**6]}, "unpacks to more than 1000000 bytes"),
    ],
)
def test_absurd_networks_are_not_built(model, config, text):
    assert text in refusal(load_network, model(config))


def set_kernel(make):
    def change(file):
        group = file["convolutions/conv2d/vars"]
        del group["0"]
        make(group, "0")

    return change


@pytest.mark.parametrize("kernel", OUTSIDE)
def test_a_model_that_takes_weights_from_elsewhere(model, secret, kernel):
    assert ELSEWHERE in refusal(load_network, model(weights=set_kernel(kernel(secret))))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            set_kernel(
                lambda g, k: g.create_dataset(k, (9, 9, 10**5, 10**5), chunks=True)
            ),
            "unpacks to ",
        ),
        (set_kernel(lambda g, k: g.update({k: np.full((9, 9, 3, 4), np.nan)})), "NaN"),
        (
            set_kernel(lambda g, k: g.update({k: np.zeros((9, 9, 4, 3))})),
            "could not be",
        ),
        (set_kernel(lambda g, k: g.create_group(k)), "could not be loaded"),
        (lambda f: f.__delitem__("last"), "could not be loaded"),
    ],
)
def test_odd_weights_of_a_model(model, change, text):
    assert text in refusal(load_network, model(weights=change))


@pytest.mark.filterwarnings("ignore")
def test_nothing_else_in_a_model_is_unpacked(model, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    path = model(**{"../evil": b"x", "assets/../../evil": b"x", "/evil": b"x"})
    before = sorted(tmp_path.rglob("*"))
    assert load_network(path).width == 4
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("read", [read_weights, load_network])
def test_a_saved_model_is_refused(tmp_path, read):
    folder = tmp_path / "served" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"\x08\x01\x12\x02\x0a\x00")
    (folder / "variables").mkdir()
    with pytest.raises(UsageError, match=r"Is a directory|model\.keras: no such file"):
        read(folder)
    refusal(read, folder / "saved_model.pb")


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "model.keras", "nowhere"])
def test_a_model_that_is_no_file(tmp_path, target):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "model.keras").symlink_to(target)
    with pytest.raises(UsageError, match=r"model\.keras: no such file; give 'bundled'"):
        load_network(tmp_path)


def test_what_a_model_is_for_is_read_with_the_same_care(tmp_path, model):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "deep.keras").write_bytes(model().read_bytes())
    with zipfile.ZipFile(tmp_path / "deep.keras", "w") as archive:
        archive.writestr("config.json", "[" * 10**5)
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "config.json").write_text(" " * 10**6 + '{"config": {}}')
    for name in ("pipe", "deep.keras", "long"):
        assert not takes_any_style(tmp_path / name)
        assert read_style_names(tmp_path / name) == []


def test_the_commands_refuse_in_one_line(folder, secret, model, refused):
    with h5py.File(folder / "w.h5", "w") as file:
        keras_3(file, external_link(secret))
    words = ["--content=content.png", "--style=style.png", "--output=out.png"]
    code, line = refused("stylize", *words, "--weights=w.h5", "--size=16")
    assert code == 2 and ELSEWHERE in line
    path = model(weights=set_kernel(external_link(secret)))
    code, line = refused(
        "apply", "--content=content.png", f"--model={path}", "--output=out.png"
    )
    assert code == 2 and ELSEWHERE in line
    assert not (folder / "out.png").exists()


# --------------------------------------------------------------------- checkpoints


@pytest.fixture
def checkpoint(tmp_path, content, style):
    """A checkpoint, and what its file holds."""
    pictures = simple_pictures(content, style)
    kept = Checkpoint(tmp_path / "run", Options(steps=(3,)), pictures, 30.0)
    picture = np.zeros([1, 4, 4, 3], "float32")
    kept.save(
        State(
            0,
            False,
            1.0,
            np.zeros([2, 4]),
            [picture, np.float32(np.inf)],
            NO_NEIGHBORS,
        )
    )
    assert kept.load().variables[1] == np.inf
    with np.load(kept.file) as arrays:
        return kept, dict(arrays)


def damaged(kept):
    text = refusal(lambda _: kept.load(), kept.file, TfstyleError)
    assert text == "the checkpoint is damaged; delete it to start afresh"


def with_facts(arrays, **changes):
    facts = json.loads(str(arrays["facts"])) | changes
    return arrays | {"facts": np.array(json.dumps(facts))}


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": -1},
        {"scale": "0"},
        {"scale": True},
        {"finished": 1},
        {"seconds": "1"},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"variables": 0},
        {"variables": 10**9},
        {"variables": "2"},
        {"identity": [1]},
        {"identity": None},
    ],
)
def test_a_checkpoint_of_odd_facts(checkpoint, changes):
    kept, arrays = checkpoint
    np.savez(kept.file, **with_facts(arrays, **changes))
    damaged(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.zeros(4)},
        {"neighbors": np.zeros([4], "int32")},
        {"neighbors": np.full([1, 2, 2, 1], -1, "int32")},
        {"neighbors": np.zeros([1, 2, 2, 1], "float32")},
        {"rows": np.array([["a"]])},
        {"variable_0": np.full([1, 4, 4, 3], np.nan)},
        {"variable_0": np.full([1, 4, 4, 3], "a")},
        {"variable_1": np.array([1j])},
        {"facts": np.array("[" * 100_000)},
        {"facts": np.array("[]")},
        {"facts": np.zeros(3)},
    ],
)
def test_a_checkpoint_of_odd_arrays(checkpoint, changes):
    kept, arrays = checkpoint
    np.savez(kept.file, **arrays | changes)
    damaged(kept)


def test_a_checkpoint_of_pickles(checkpoint, marker):
    kept, arrays = checkpoint
    evil = np.array([Evil(marker)], dtype=object)
    for name in ("facts", "rows", "variable_0"):
        np.savez(kept.file, **arrays | {name: evil})
        damaged(kept)
    kept.file.write_bytes(pickle.dumps(Evil(marker)))
    damaged(kept)


def test_a_checkpoint_that_unpacks_to_more(checkpoint):
    kept, arrays = checkpoint
    np.savez_compressed(kept.file, **arrays)
    damaged(kept)
    members = {f"{name}.npy": npy(array) for name, array in arrays.items()}
    shape = npy_header((10**6, 10**6, 3, 3))
    zipped(kept.file, members | {"variable_0.npy": shape})
    damaged(kept)


def test_a_checkpoint_that_is_no_file(checkpoint):
    kept, _ = checkpoint
    kept.file.unlink()
    os.mkfifo(kept.file)
    assert refusal(lambda _: kept.load(), kept.file).startswith("is no file; choose")


@pytest.mark.parametrize("name", ["tfstyle", "optimizer"])
def test_what_a_checkpoint_says_is_shown_on_one_line(checkpoint, name):
    kept, arrays = checkpoint
    identity = json.loads(str(arrays["facts"]))["identity"] | {name: "a\n\x1b[31m"}
    np.savez(kept.file, **with_facts(arrays, identity=identity))
    assert r"'a\n\x1b[31m'" in refusal(lambda _: kept.load(), kept.file)


def test_a_state_is_all_of_these_fields():
    names = {field.name for field in dataclasses.fields(State)}
    assert names == {
        "scale",
        "finished",
        "seconds",
        "rows",
        "variables",
        "neighbors",
    }
