"""Reads the convolutions of HDF5 files that Keras 1, 2 and 3 wrote.

Files may come from anywhere. They are checked before HDF5 follows a link or unpacks
anything in them.
"""

from __future__ import annotations

import math
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from tfstyle.errors import UsageError

# What Keras 3 and TensorFlow 2.13 put around the name of a layer.
_CONTAINERS = {"layers", "_layer_checkpoint_dependencies", "vars"}


def read_hdf5(path: pathlib.Path, most_bytes: float) -> dict[str, np.ndarray]:
    """Reads the convolutions of an HDF5 file.

    Args:
      path: The file.
      most_bytes: The most that all datasets together may unpack to.

    Returns:
      Arrays by ``layer/kernel`` and ``layer/bias``, in the order of the file.

    Raises:
      UsageError: If the file is damaged, is larger, or takes data from another file.
    """
    try:
        check_bytes(str(path), path.stat().st_size, most_bytes)
        check_heaps(path.read_bytes())
        with h5py.File(path, "r") as file:
            check_hdf5(file, str(path), most_bytes)
            root = file.get("model_weights", file)
            convolutions = _keras_2 if "layer_names" in root.attrs else _keras_3
            found = dict(convolutions(root))
            # Several layers may share one dataset.
            size = sum(dataset.nbytes for dataset in found.values())
            check_bytes(str(path), size, most_bytes)
            return {name: dataset[()] for name, dataset in found.items()}
    except UsageError:
        raise
    except Exception as error:  # HDF5 raises errors of many types
        raise UsageError(
            f"{path}: not an HDF5 file, or a damaged one; fetch it again"
        ) from error


def check_bytes(source: str, count: float, most: float) -> None:
    """Refuses a file that unpacks to more bytes than its network may have.

    Raises:
      UsageError: If ``count`` exceeds ``most``.
    """
    if count > most:
        raise UsageError(
            f"{source}: unpacks to {count / 1e6:.3g} megabytes, more than its network "
            "may have; fetch it again"
        )


def check_heaps(data: bytes) -> None:
    """Refuses an HDF5 file whose heaps of texts would make HDF5 loop forever.

    One flipped bit is enough: in the field for the free space of a heap.

    Raises:
      ValueError: If a heap is damaged.
      struct.error: If a heap is cut off.
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
    """Refuses an HDF5 file that takes data from elsewhere, or is too large.

    Links and datasets may name any other file, whose bytes would be read as weights.

    Args:
      file: The file.
      source: Its name, for messages.
      most_bytes: The most that all datasets together may unpack to.

    Raises:
      UsageError: If the file takes data from elsewhere, or unpacks to more.
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
            check_bytes(source, total, most_bytes)

    check("/", file)
    file.visititems(check)


def _keras_2(root: h5py.Group) -> Iterator[tuple[str, h5py.Dataset]]:
    """The convolutions of the format in which attributes list layers and weights.

    Weights are told apart by rank: old Keras gave them names such as ``uniform1``.
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

    The groups are numbered by class. Since Keras 3.6, the attribute ``name`` of
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
