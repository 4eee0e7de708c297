"""Shows versions, the devices that TensorFlow sees, and the weights on this machine.

tfstyle info --image=out.png
"""

from __future__ import annotations

import pathlib
import platform
import sys

import numpy as np
import PIL
from absl import flags

from tfstyle.backbones import NAMES
from tfstyle.cli.flags import argument, define
from tfstyle.cli.quiet import import_tensorflow
from tfstyle.options.provenance import Origin, read_origin
from tfstyle.version import __version__

NVIDIA_DRIVER = pathlib.Path("/dev/nvidiactl")

POSITIONAL = ("image",)


def define_flags(values: flags.FlagValues) -> None:
    """The picture to read."""
    text = (
        "A picture that tfstyle wrote: show the command, version and flags that made "
        "it, and the SHA-256 of the pictures that it was made from."
    )
    define(values, [argument("image", text)])


def run(values: flags.FlagValues) -> int:
    """Prints versions, devices and weights, or how a picture was made."""
    if image := values.image:
        print("\n".join(_made_by(read_origin(image))))
        return 0
    folder = keras_folder()
    for name, version in versions().items():
        print(f"{name:12} {version}")
    print(f"{'device':12} {device()}")
    for name in NAMES:
        file = weights_file(name)
        where = f"not here; the first run fetches them into {folder}"
        print(f"{name:12} {file or where}")
    from tfstyle.networks.style_net import load_network

    print(f"{'styles':12} {', '.join(load_network().style_names)}")
    return 0


def _made_by(origin: Origin) -> list[str]:
    """How a picture was made, in lines that ``--flagfile`` can read."""
    sources = [source for listed in origin.pictures.values() for source in listed]
    return [
        f"# tfstyle {origin.command}, version {origin.version}",
        *origin.words(),
        *(f"# SHA-256 of {source.file}: {source.sha256}" for source in sources),
    ]


def versions() -> dict[str, str]:
    """Versions of tfstyle and of the packages that it uses."""
    tf = import_tensorflow()
    import keras

    return {
        "tfstyle": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "platform": f"{sys.platform} {platform.machine()}",
    }


def device() -> str:
    """The device that a run uses: the GPUs that TensorFlow sees, or the CPU."""
    tf = import_tensorflow()
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return "GPU: " + ", ".join(d.get("device_name", "unnamed") for d in details)
    if NVIDIA_DRIVER.exists():
        return (
            "CPU (TensorFlow does not see this machine's NVIDIA GPU; try "
            "pip install 'tensorflow[and-cuda]')"
        )
    return "CPU (TensorFlow sees no GPU)"


def keras_folder() -> pathlib.Path:
    """Where Keras keeps the weights that it has fetched."""
    import_tensorflow()
    from tfstyle.backbones.weights_download import keras_models_folder

    return keras_models_folder()


def weights_file(backbone: str) -> pathlib.Path | None:
    """The published weights of a backbone, if they are on this machine."""
    folder = keras_folder()
    from tfstyle.backbones.slim19 import WEIGHTS

    if backbone == "slim19":
        return WEIGHTS
    return next(folder.glob(f"{backbone}_weights_*_notop.h5"), None)
