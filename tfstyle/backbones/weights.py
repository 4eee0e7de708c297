"""Weights files: read, written, fetched, and put into a network."""

from __future__ import annotations

import hashlib
import math
import os
import pathlib
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import h5py
import keras
import numpy as np

from tfstyle.backbones.base import Weights
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import beside

PREPROCESSING = ("caffe", "torch")

_FORMATS = "a .npz, .h5 or .weights.h5 file"
_MOST_BYTES = 2**31
"""Of all weights, unpacked; VGG-19 with its classifier has a quarter."""
_AUTOMATIC_NAME = re.compile(r"conv2d(_\d+)?")
# What Keras 3 and TensorFlow 2.13 put around the name of a layer.
_CONTAINERS = {"layers", "_layer_checkpoint_dependencies", "vars"}

T = TypeVar("T")


def read_weights(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], str | None]:
    """Reads the convolutions of a weights file.

    Args:
      path: A ``.npz`` with arrays ``layer/kernel`` and ``layer/bias``; an ``.h5`` as
        Keras 1 and 2 write it, weights alone or the whole model; or a ``.weights.h5``
        of Keras 3.

    Returns:
      The arrays, float32, by ``layer/kernel`` (HWIO) and ``layer/bias``, in the order
      of the file; and the preprocessing that the file asks for, ``caffe`` or
      ``torch``, or None where it does not say. Layers other than convolutions are left
      out. A ``.weights.h5`` of Keras before 3.6 has no layer names, only automatic
      ones (``conv2d``, ``conv2d_1``): see ``assign_weights``.

    Raises:
      UsageError: The file cannot be read, is of another format, holds pickled objects
        (which could run code, and are not loaded) or something that is no weight,
        takes data from another file, is larger than any network, or has no convolution.
    """
    path = pathlib.Path(path)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            # Opening a pipe would wait for its other end.
            raise UsageError(f"{path}: is not a regular file; give {_FORMATS}")
        path.open("rb").close()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); give {_FORMATS}"
        ) from error
    readers = {".npz": _read_npz, ".h5": _read_h5, ".hdf5": _read_h5}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(
            f"{path}: not a format that tfstyle reads weights from; give {_FORMATS}, "
            "which model.save_weights('name.weights.h5') writes"
        )
    arrays, preprocessing = reader(path)
    if not any(a.ndim == 4 for name, a in arrays.items() if name.endswith("/kernel")):
        raise UsageError(
            f"{path}: there is no convolution inside; give the weights of a network, "
            "in .npz as layer/kernel and layer/bias"
        )
    return {name: _numbers(path, name, a) for name, a in arrays.items()}, preprocessing


def _numbers(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array of a file as float32, if it is one of numbers with a name to show."""
    if not name.isprintable() or len(name) > 200:
        wrong = "is no name of a layer"
    elif array.dtype.kind not in "fiu":
        wrong = f"holds {array.dtype}, not numbers"
    else:
        with np.errstate(over="ignore"):
            array = array.astype("float32")
        if np.isfinite(array).all():
            return array
        wrong = "holds NaN or infinity"
    raise UsageError(f"{path}: {name!a:.60} {wrong}; give the weights of a network")


def _check_bytes(source: str, count: float, most: float) -> None:
    if count > most:
        raise UsageError(
            f"{source}: unpacks to {count / 1e6:.3g} megabytes, more than its network "
            "may have; fetch it again"
        )


def _read_npz(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: not an .npz file, or a damaged one; fetch it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(part.file_size for part in file.zip.infolist())
            _check_bytes(str(path), size, _MOST_BYTES)
            entries = {name: file[name] for name in file.files}
    except UsageError:
        raise
    except Exception as error:  # NumPy and zipfile raise whatever comes along
        if "allow_pickle" in str(error):
            raise UsageError(
                f"{path}: holds pickled objects, which could run code and are not "
                "loaded; save plain arrays with numpy.savez"
            ) from error
        raise UsageError(f"{path}: a damaged .npz file; fetch it again") from error
    said = entries.pop("preprocessing", None)
    preprocessing = None if said is None else str(said)
    if preprocessing not in (*PREPROCESSING, None):
        raise UsageError(
            f"{path}: asks for the preprocessing {preprocessing!a:.40}; "
            f"save it with {' or '.join(PREPROCESSING)}"
        )
    # NumPy hands out the members that are no arrays as bytes.
    arrays = {
        name: array
        for name, array in entries.items()
        if name.endswith(("/kernel", "/bias")) and getattr(array, "dtype", "O") != "O"
    }
    return arrays, preprocessing


def _read_h5(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
    try:
        _check_bytes(str(path), path.stat().st_size, _MOST_BYTES)
        check_heaps(path.read_bytes())
        with h5py.File(path, "r") as file:
            check_hdf5(file, str(path), _MOST_BYTES)
            root = file.get("model_weights", file)
            layers = _keras_2 if "layer_names" in root.attrs else _keras_3
            found = dict(layers(root))
            # Many layers may share one dataset.
            size = sum(dataset.nbytes for dataset in found.values())
            _check_bytes(str(path), size, _MOST_BYTES)
            return {name: dataset[()] for name, dataset in found.items()}, None
    except UsageError:
        raise
    except Exception as error:  # HDF5 raises whatever comes along
        raise UsageError(
            f"{path}: not an HDF5 file, or a damaged one; fetch it again"
        ) from error


def check_heaps(data: bytes) -> None:
    """Refuses an HDF5 file whose texts are damaged in a way that HDF5 never ends at.

    A single bit may do so: in the length of the room that a heap of texts has left.

    Raises:
      ValueError: They are.
      struct.error: They are cut off.
    """
    for heap in re.finditer(rb"GCOL\x01\0\0\0", data):
        at, end = heap.end() + 8, heap.start()
        end += struct.unpack_from("<Q", data, heap.end())[0]
        number = 1
        while number and end - at >= 16:
            number, length = struct.unpack_from("<H6xQ", data, at)
            at += 16 + -(-length // 8) * 8 if number else length
        if not 0 <= end - at < 16:
            raise ValueError("a damaged heap")


def check_hdf5(file: h5py.File, source: str, most_bytes: float) -> None:
    """Refuses an HDF5 file that takes data from another place, or is too large.

    Links and datasets may name any other file, whose bytes would be read as weights.

    Args:
      file: The file.
      source: Its name, for messages.
      most_bytes: What all datasets together may unpack to.

    Raises:
      UsageError: It does, or it is.
    """
    total = 0.0

    def check(name: str, item: Any) -> None:
        nonlocal total
        outside = [getattr(item, "external", None), getattr(item, "is_virtual", False)]
        if isinstance(item, h5py.Group):
            links = (item.get(key, getlink=True) for key in item)
            outside = [not isinstance(link, h5py.HardLink) for link in links]
        if any(outside):
            raise UsageError(
                f"{source}: what {name!a:.60} holds is in another place, which is not "
                "read; give a file that has the weights themselves"
            )
        if isinstance(item, h5py.Dataset):
            chunk = math.prod(item.chunks or (0,)) * item.dtype.itemsize
            total += max(item.nbytes, chunk)
            _check_bytes(source, total, most_bytes)

    check("/", file)
    file.visititems(check)


def _keras_2(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """The convolutions of the format in which attributes list layers and weights.

    The names of the weights say nothing: old Keras called them ``uniform1``.
    """
    for layer in map(_text, root.attrs["layer_names"]):
        group = root[layer]
        weights = [group[_text(name)] for name in group.attrs["weight_names"]]
        kernels = [weight for weight in weights if weight.ndim == 4]
        biases = [weight for weight in weights if weight.ndim == 1]
        if kernels:
            yield f"{layer}/kernel", kernels[0]
            if biases:
                yield f"{layer}/bias", biases[0]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _keras_3(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """The convolutions of ``layers/conv2d_1/vars/{0,1}``, in the order of the layers.

    The groups are numbered by class. From Keras 3.6 on, the attribute ``name`` of
    ``vars`` has the layer's own name. HDF5 lists conv2d_10 before conv2d_2.
    """
    groups: dict[str, h5py.Group] = {}

    def collect(path: str, item: Any) -> None:
        if path.endswith("/vars") and getattr(item.get("0"), "ndim", 0) == 4:
            groups[path] = item

    root.visititems(collect)
    for path in sorted(groups, key=_natural):
        group = groups[path]
        parts = [part for part in path.split("/") if part not in _CONTAINERS]
        layer = _text(group.attrs.get("name", "/".join(parts)))
        yield f"{layer}/kernel", group["0"]
        if getattr(group.get("1"), "ndim", 0) == 1:
            yield f"{layer}/bias", group["1"]


def _natural(path: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path)]


def assign_weights(model: keras.Model, weights: Weights, source: str) -> None:
    """Gives each convolution of a network its kernel and bias.

    Layers go by name, with ``/`` and ``_`` alike, because Keras 3 refuses
    ``/``. Where the file has automatic names only (``conv2d``, ``conv2d_1``), they go
    in order instead, if all shapes fit. Layers that the network lacks are ignored, so
    a network may be cut.

    Args:
      model: The network, functional and not nested.
      weights: Arrays as ``read_weights`` returns them.
      source: Where they come from, for messages.

    Raises:
      UsageError: A layer is missing, or a shape does not fit. The network is as it was.
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    given = _matching([layer.name for layer in layers], weights)
    arrays = []
    for layer in layers:
        name = given.get(layer.name, layer.name)
        for part in layer.weights:
            key = f"{name}/{part.name}"
            arrays.append(_fitting(key, part.shape, weights, layer.name, source))
    for variable, array in zip(
        (part for layer in layers for part in layer.weights), arrays, strict=True
    ):
        variable.assign(array)


def _matching(names: Iterable[str], weights: Weights) -> dict[str, str]:
    files = [key.removesuffix("/kernel") for key in weights if key.endswith("/kernel")]
    if all(_AUTOMATIC_NAME.fullmatch(name) for name in files):
        return dict(zip(names, files, strict=False))
    return {name.replace("/", "_"): name for name in files}


def _fitting(
    key: str, shape: tuple[int, ...], weights: Weights, layer: str, source: str
) -> np.ndarray:
    if key not in weights:
        what = layer if key.endswith("/kernel") else f"bias of {layer}"
        last = [name for name in weights if name.endswith("/kernel")][-1:]
        raise UsageError(
            f"{source}: has no {what} (its last convolution is "
            f"{''.join(last).removesuffix('/kernel') or 'missing too'}); "
            "name layers that it has, or give another weights file"
        )
    if weights[key].shape != tuple(shape):
        raise UsageError(
            f"{source}: {key} has shape {list(weights[key].shape)}, but {layer} "
            f"needs {list(shape)}; give weights of this network"
        )
    return weights[key]


def save_weights(
    path: str | os.PathLike[str], weights: Weights, preprocessing: str | None = None
) -> None:
    """Writes a ``.npz`` that ``read_weights`` reads.

    The file is either complete or as it was before.

    Args:
      path: The file, ``.npz``.
      weights: Arrays by ``layer/kernel`` (HWIO) and ``layer/bias``.
      preprocessing: The convention that they need, ``caffe`` or ``torch``.

    Raises:
      UsageError: The extension or the preprocessing is another, or the file cannot be
        written.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: weights are written as .npz; give such a name")
    if preprocessing not in (*PREPROCESSING, None):
        raise UsageError(
            f"{path}: unknown preprocessing {preprocessing!r}; "
            f"give {' or '.join(PREPROCESSING)}"
        )
    entries = dict(weights)
    if preprocessing is not None:
        entries["preprocessing"] = np.array(preprocessing)
    try:
        with beside(path) as temporary, temporary.open("xb") as file:
            np.savez(file, **entries)  # type: ignore[arg-type]
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); "
            "check the folder and its free space"
        ) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, hexadecimal."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def keras_models_folder() -> pathlib.Path:
    """The folder that ``keras.utils.get_file`` keeps weights in.

    Keras falls back to ``/tmp`` where it may not write, and has no public name for
    the outcome.
    """
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(home, os.W_OK):
        home = pathlib.Path("/tmp/.keras")
    return home / "models"


def download(fetch: Callable[[], T], file: str, url: str) -> T:
    """Calls what downloads a weights file and tells a failure in one line.

    Args:
      fetch: Downloads the file, if Keras's cache does not have it.
      file: Name of the file in the cache.
      url: Where it comes from.

    Returns:
      What ``fetch`` returns.

    Raises:
      TfstyleError: ``fetch`` failed; the message has the ways around it.
    """
    try:
        return fetch()
    # `keras.utils.get_file` raises plain Exceptions.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.removeprefix(f"URL fetch failure on {url}: ")
        raise TfstyleError(
            f"{file}: could not be downloaded ({reason.removeprefix('None -- ')}); "
            f"fetch it from {url} and put it into {keras_models_folder()}, or anywhere "
            "with --weights=PATH; or take --backbone=slim19, which comes with tfstyle"
        ) from error
