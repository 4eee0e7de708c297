"""Shows what TensorFlow really sees here, and which weights are on this machine."""

from __future__ import annotations

import pathlib
import platform
import sys
from collections.abc import Iterator

import numpy as np
import PIL
from absl import flags

import tfstyle
from tfstyle.cli.quiet import import_tensorflow


def define_flags(values: flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(values: flags.FlagValues) -> int:
    """Prints versions, devices and weights."""
    for name, value in facts().items():
        print(f"{name:12} {value}")
    for name, value in weights():
        print(f"{name:12} {value}")
    return 0


def facts() -> dict[str, str]:
    """Versions and the device that a run would use."""
    tf = import_tensorflow()
    import keras

    return {
        "tfstyle": tfstyle.__version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
        "device": device(),
    }


def device() -> str:
    """The devices that TensorFlow sees, GPUs by name."""
    tf = import_tensorflow()
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        built = (
            "" if tf.test.is_built_with_cuda() else ", TensorFlow built without CUDA"
        )
        return f"CPU (no GPU seen{built})"
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    return "GPU: " + ", ".join(d.get("device_name", "unnamed") for d in details)


def weights() -> Iterator[tuple[str, str]]:
    """Which published weights are here, by backbone."""
    from tfstyle.backbones.slim19 import WEIGHTS
    from tfstyle.backbones.weights import keras_models_folder

    yield "slim19", f"bundled, {WEIGHTS.stat().st_size / 1e6:.1f} MB"
    folder = keras_models_folder()
    for name in ("vgg19", "vgg16", "squeezenet"):
        found = _newest(folder, f"{name}*")
        yield name, str(found) if found else f"not fetched yet, would go to {folder}"


def _newest(folder: pathlib.Path, pattern: str) -> pathlib.Path | None:
    files = sorted(folder.glob(pattern)) if folder.is_dir() else []
    return files[-1] if files else None
