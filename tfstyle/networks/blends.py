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
    file = files_of_network(model)[0]
    try:
        if file.name == CONFIG:
            text = file.read_bytes()
        else:
            with zipfile.ZipFile(file) as archive:
                text = archive.read(CONFIG)
        settings = json.loads(text)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}
    return settings if isinstance(settings, dict) else {}


def files_of_network(model: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The files that a network is read from: one, or the two of a preset.

    Args:
      model: Same as ``preset`` in ``StyleNet.from_preset``.
    """
    path = network_path(model)
    if (path / CONFIG).is_file():
        return [path / CONFIG, path / WEIGHTS]
    return [path / TRAINED if path.is_dir() else path]


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
