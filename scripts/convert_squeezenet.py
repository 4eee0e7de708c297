"""Converts SqueezeNet 1.1 of PyTorch, or of the CS231n assignment, to tfstyle's .npz.

The input is one of

  torchvision's state dict   `squeezenet1_1-b8a52dc0.pth`; needs PyTorch.
  a TensorFlow checkpoint    `squeezenet.ckpt.index` and `.data-00000-of-00001`, which
                             the assignment hands out.

Both networks expect RGB pictures normalised with ImageNet's mean and standard
deviation, which the .npz records. The classifier is left out.

Example:
  python scripts/convert_squeezenet.py --input=squeezenet1_1-b8a52dc0.pth \
      --output=squeezenet.npz
  tfstyle stylize ... --backbone=squeezenet --weights=squeezenet.npz
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Read when TensorFlow is imported, whose notices would hide the one-line errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfstyle.backbones import squeezenet
from tfstyle.backbones.weights import save_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.errors import TfstyleError, UsageError

FLAGS = flags.FLAGS
flags.DEFINE_string("input", None, "State dict (.pth) or checkpoint (.ckpt.index).")
flags.DEFINE_string("output", None, "File to write, .npz.")


def layer_names() -> Iterator[tuple[str, str, str]]:
    """The name of each convolution here, in torchvision and in the checkpoint.

    torchvision numbers all layers, the checkpoint those with weights.
    """
    yield "conv1", "features.0", "net/layer_with_weights-0"
    for number, fire in enumerate(squeezenet.FIRES, 1):
        torch = f"features.{squeezenet.INDEXED.index(fire)}"
        checkpoint = f"net/layer_with_weights-{number}"
        for layer in ("squeeze1x1", "expand1x1", "expand3x3"):
            part = layer.replace("squeeze1x1", "squeeze")
            yield f"{fire}/{layer}", f"{torch}.{part}", f"{checkpoint}/{part}"


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Reads a state dict of PyTorch, without running code in it.

    Args:
      path: The file.

    Returns:
      Arrays by `layer/kernel`, turned from OIHW to HWIO, and `layer/bias`.

    Raises:
      KeyError: If a layer is missing.
      UsageError: If the file is not a state dict, or PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"{path}: reading it needs PyTorch; run 'pip install torch'"
        ) from error
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises errors of many types
        raise UsageError(
            f"{path}: not a state dict of PyTorch; give torchvision's "
            "squeezenet1_1-b8a52dc0.pth, or model.state_dict() saved by torch.save"
        ) from error
    if not isinstance(state, Mapping):
        raise UsageError(
            f"{path}: holds a {type(state).__name__}, not a state dict; "
            "save model.state_dict() with torch.save"
        )
    arrays = {}
    for layer, name, _ in layer_names():
        kernel = np.asarray(state[f"{name}.weight"])
        arrays[f"{layer}/kernel"] = kernel.transpose(2, 3, 1, 0)
        arrays[f"{layer}/bias"] = np.asarray(state[f"{name}.bias"])
    return arrays


def read_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Reads the assignment's TensorFlow checkpoint.

    Args:
      prefix: Path without `.index`.

    Returns:
      Arrays by `layer/kernel` and `layer/bias`.

    Raises:
      KeyError: If a layer is missing.
      UsageError: If the checkpoint cannot be read.
    """
    names = {
        f"{layer}/{part}": f"{name}/{part}/.ATTRIBUTES/VARIABLE_VALUE"
        for layer, _, name in layer_names()
        for part in ("kernel", "bias")
    }
    try:
        reader = tf.train.load_checkpoint(prefix)
        for name in names.values():
            if not reader.has_tensor(name):
                raise KeyError(name)
        return {ours: reader.get_tensor(name) for ours, name in names.items()}
    except (tf.errors.OpError, RuntimeError) as error:
        raise UsageError(
            f"{prefix}: cannot be read ({' '.join(str(error).split())}); "
            "give both its .index and its .data-00000-of-00001 file"
        ) from error


def checkpoint_prefix(path: Path) -> str | None:
    """The prefix of the checkpoint that `path` names or is a file of, or None."""
    is_part = path.suffix == ".index" or path.suffix.startswith(".data-")
    prefix = path.with_suffix("") if is_part else path
    return str(prefix) if Path(f"{prefix}.index").is_file() else None


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads either kind of file.

    Args:
      path: A state dict, or a checkpoint's prefix, index or data file.

    Returns:
      Arrays by `layer/kernel` and `layer/bias`.

    Raises:
      UsageError: If the file cannot be read, or is of another network.
    """
    prefix = checkpoint_prefix(path)
    if prefix is None and not path.is_file():
        raise UsageError(f"{path}: no such file; give a .pth or a .ckpt.index")
    try:
        return read_state_dict(path) if prefix is None else read_checkpoint(prefix)
    except KeyError as error:
        raise UsageError(
            f"{path}: has no {error.args[0]}, so it is not SqueezeNet 1.1; "
            "give torchvision's squeezenet1_1 or the assignment's squeezenet.ckpt"
        ) from error


def convert(source: Path, target: Path) -> None:
    """Converts one file.

    Args:
      source: A state dict, or a checkpoint's prefix, index or data file.
      target: The .npz to write.

    Raises:
      UsageError: If `source` cannot be read or is of another network.
      TfstyleError: If `target` cannot be written.
    """
    arrays = read(source)
    inputs = keras.Input([None, None, 3])
    network = keras.Model(inputs, squeezenet.build(inputs)["fire9/concat"])
    assign_weights(network, arrays, str(source))  # checks the shapes
    save_weights(target, arrays, preprocessing="torch")


def main(argv: list[str]) -> None:
    """Converts the file that the flags name."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    try:
        convert(Path(FLAGS.input), Path(FLAGS.output))
    except TfstyleError as error:
        print(f"convert_squeezenet: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    print(f"wrote {FLAGS.output}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["input", "output"])
    app.run(main)
