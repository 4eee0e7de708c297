"""Names of styles, and their blends: ``a:0.7,b:0.3``. TensorFlow is not imported."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfstyle.errors import UsageError, did_you_mean

BUNDLED = "bundled"
ANY = "any"
PRESET_FILES = {
    name: pathlib.Path(__file__).with_name(file)
    for name, file in ((BUNDLED, "styles.keras"), (ANY, "any.keras"))
}
"""The networks that come with the package."""
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
"""The files of a preset, as KerasHub names them; ``CONFIG`` names the styles."""
_MOST_BYTES = {CONFIG: 10**6, WEIGHTS: 2**30}
TRAINED = "model.keras"
"""The network in the folder of a training."""
MOST_SCALE = 8
"""The coarsest strokes that a network of any style can be asked for."""


def read_style_names(model: str | os.PathLike[str] = BUNDLED) -> list[str]:
    """The styles of a network, without building it.

    Args:
      model: Same as ``preset`` in ``StyleNet.from_preset``.

    Returns:
      Their names; empty if the network takes any style, or if there is no such
      network, which ``from_preset`` refuses.
    """
    try:
        return list(_file_settings(model)["config"]["style_names"])
    except (KeyError, TypeError, ValueError):
        return []


def takes_any_style(model: str | os.PathLike[str]) -> bool:
    """Whether a network takes pictures as styles, without building it.

    Args:
      model: Same as ``preset`` in ``StyleNet.from_preset``.
    """
    return _file_settings(model).get("class_name") == "AnyStyleNet"


def _file_settings(model: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration of a network; empty if it cannot be read."""
    try:
        path = place_of_parts(network_path(model))
        settings = json.loads(parts_of_network(path, [CONFIG])[CONFIG])
    except Exception:  # zipfile and json raise all kinds
        return {}
    return settings if isinstance(settings, dict) else {}


def parts_of_network(
    path: pathlib.Path, names: Sequence[str] = (CONFIG, WEIGHTS)
) -> dict[str, bytes]:
    """Parts of a network's file or folder, which anybody may have written.

    Args:
      path: What ``place_of_parts`` gives.
      names: The parts.

    Returns:
      The content of each part.

    Raises:
      Exception: Of any kind, if there is no such part, or one is too large.
    """
    if path.is_dir():
        return {name: _limited(path / name, _MOST_BYTES[name]) for name in names}
    if not path.is_file():  # a pipe would block
        raise ValueError(f"there is no file {path.name}")
    with zipfile.ZipFile(path) as archive:
        return {name: _member(archive, name, _MOST_BYTES[name]) for name in names}


def _limited(path: pathlib.Path, most: int) -> bytes:
    if not path.is_file():  # a pipe would block
        raise ValueError(f"there is no file {path.name}")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} has more than {most} bytes")
    return content


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if archive.getinfo(name).file_size > most:
        raise ValueError(f"{name} unpacks to more than {most} bytes")
    return archive.read(name)


def files_of_network(model: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The files that a network is read from: one, or the two of a preset.

    Args:
      model: Same as ``preset`` in ``StyleNet.from_preset``.
    """
    path = place_of_parts(network_path(model))
    return [path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]


def place_of_parts(path: pathlib.Path) -> pathlib.Path:
    """The file, or the folder of a preset, that holds the parts of a network.

    Args:
      path: A ``.keras`` file, the folder of a preset, or the folder of a training.
    """
    if path.is_dir() and not (path / CONFIG).is_file():
        return path / TRAINED
    return path


def network_path(model: str | os.PathLike[str]) -> pathlib.Path:
    """The file or folder of a network, see ``StyleNet.from_preset``."""
    return PRESET_FILES.get(str(model), pathlib.Path(model))


def parse_blend(text: str) -> dict[str, float]:
    """Reads a blend from text.

    Args:
      text: ``name:weight,...``. A name without a weight has weight 1. The weights of a
        name that stands twice are added up.

    Returns:
      Weights by name, as they are in the text.

    Raises:
      UsageError: If there is no name, or a weight is not a number.
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, weight = (text.strip() for text in part.partition(":"))
        try:
            weights[name] = weights.get(name, 0.0) + float(weight or 1)
        except ValueError:
            raise UsageError(
                f"style {part!r}: {weight!r} is not a number; write name:weight,..."
            ) from None
    if not weights:
        raise UsageError(f"style {text!r}: give the name of a style")
    return weights


def blend_weights(
    styles: Sequence[str], blend: str | Mapping[str, float] | None
) -> np.ndarray:
    """The share of each style in a blend.

    Args:
      styles: Names of all styles.
      blend: A name, ``name:weight,...`` or a mapping; None for the first style.

    Returns:
      Shares in the order of ``styles``, ``[1, styles]`` float32, that add up to 1.

    Raises:
      UsageError: If a style does not exist, or a weight is not above 0.
    """
    blend = styles[0] if blend is None else blend
    if not isinstance(blend, str | Mapping):
        raise UsageError(
            f"style={blend!r}: give the name of a style, or a blend as name:weight,..."
        )
    weights = blend if isinstance(blend, Mapping) else parse_blend(blend)
    shares = np.zeros([1, len(styles)])
    for name, weight in weights.items():
        if not isinstance(weight, int | float | np.number) or not 0 < weight < np.inf:
            raise UsageError(f"style {name}:{weight}: give a weight above 0")
        shares[0, _index(styles, name)] += weight
    if not weights:
        raise UsageError(f"style {blend!r}: give the name of a style")
    return (shares / shares.sum()).astype("float32")


def _index(styles: Sequence[str], name: str) -> int:
    if name not in styles:
        hint = did_you_mean(name, styles, most=1, cutoff=0.4)
        raise UsageError(
            f"there is no style {name!r}; {hint}{' ' * bool(hint)}the styles are "
            f"{', '.join(styles)}"
        )
    return styles.index(name)
