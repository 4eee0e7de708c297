"""Files and folders of trained networks, which may come from anybody.

Keras does not deserialise them, because it would build whatever a file says: only
names, two sizes and numbers are taken from a file.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import h5py
import keras
import numpy as np

from tfstyle.backbones.weights_hdf5 import check_hdf5, check_heaps
from tfstyle.errors import UsageError, one_line
from tfstyle.files import beside, make_folder, replaced
from tfstyle.networks.blends import CONFIG, WEIGHTS, parts_of_network, place_of_parts
from tfstyle.version import __version__

METADATA = "metadata.json"
"""What KerasHub's presets have beside ``CONFIG`` and ``WEIGHTS``."""

_WAY_OUT = (
    "give 'bundled' or 'any', or a network that tfstyle train made: model.keras, the "
    "folder of its run, or a folder of save_to_preset"
)
_MOST_BLOCKS = 200

Builder: TypeAlias = Callable[[Mapping[str, Any], int], keras.Model]
"""Builds a network from its configuration, which anybody may have written, and the
bytes of its weights; raises ``ValueError`` if these do not describe one."""


def read_network(path: pathlib.Path, builders: Mapping[str, Builder]) -> keras.Model:
    """Reads a trained network.

    Args:
      path: A ``.keras`` file, the folder of a preset, or the folder of a training.
      builders: What builds the network that gets the weights, by the name of its class
        in files.

    Returns:
      The network.

    Raises:
      UsageError: If the file does not exist, or is not such a network.
    """
    path = place_of_parts(path)
    if not path.is_dir() and not path.is_file():
        raise UsageError(f"{path}: no such file; {_WAY_OUT}")
    try:
        parts = parts_of_network(path)
        settings, weights = json.loads(parts[CONFIG]), parts[WEIGHTS]
        build = builders.get(settings["registered_name"])
        if build is None:
            raise UsageError(
                f"{path}: a Keras model, but not one that tfstyle train wrote; "
                f"{_WAY_OUT}"
            )
        network = build(settings["config"], len(weights))
        _fill(network, weights, str(path))
    except UsageError:
        raise
    except Exception as error:  # zipfile, json, h5py and Keras raise all kinds
        kind = "preset" if path.is_dir() else ".keras file"
        raise UsageError(
            f"{path}: cannot be read as a {kind} ({one_line(error)}); {_WAY_OUT}"
        ) from error
    return network


def write_preset(network: keras.Model, folder: str | os.PathLike[str]) -> None:
    """Writes a network as a folder, in the place of an earlier one.

    Raises:
      TfstyleError: If it cannot be written; an earlier preset stays as it was.
    """
    facts = {
        "keras_version": keras.__version__,
        "tfstyle_version": __version__,
        "parameter_count": network.count_params(),
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
    }
    texts = {CONFIG: keras.saving.serialize_keras_object(network), METADATA: facts}
    folder = make_folder(folder)
    # The files appear when all of them are written.
    with contextlib.ExitStack() as stack:
        for name, content in texts.items():
            file = stack.enter_context(replaced(folder / name))
            file.write_text(json.dumps(content, indent=2) + "\n")
        weights = stack.enter_context(beside(folder / WEIGHTS, ".weights.h5"))
        network.save_weights(weights)


def checked_shape(config: Mapping[str, Any], size: int) -> tuple[list[str], int, int]:
    """Style names, width and blocks of a ``StyleNet``.

    Args:
      config: What the file says; anybody may have written it.
      size: Bytes of its weights.

    Raises:
      ValueError: If it does not describe a network, or describes one that needs more
        weights.
    """
    names, width, blocks = (config[key] for key in ("style_names", "width", "blocks"))
    if not (
        isinstance(names, list)
        and names
        and all(isinstance(name, str) and name.isprintable() for name in names)
        and type(width) is type(blocks) is int
        and width > 0
        and 0 <= blocks <= _MOST_BLOCKS
    ):
        raise ValueError("no list of styles, or no width and blocks")
    # At least the third convolution, the blocks and a normalisation.
    least = (2 + 8 * blocks) * (6 * width) ** 2 + 2 * len(names) * width
    if 4 * least > size:
        raise ValueError("fewer weights than the network has")
    return names, width, blocks


def _fill(network: keras.Model, weights: bytes, source: str) -> None:
    """Gives a network the weights of an HDF5 file, which Keras reads from disk only."""
    check_heaps(weights)
    with h5py.File(io.BytesIO(weights), "r") as file:
        check_hdf5(file, source, len(weights))
    with tempfile.TemporaryDirectory(prefix="tfstyle-") as folder:
        checked = pathlib.Path(folder) / WEIGHTS
        checked.write_bytes(weights)
        network.load_weights(checked)
    if not all(np.isfinite(part).all() for part in network.get_weights()):
        raise ValueError("weights that are NaN or infinite")
