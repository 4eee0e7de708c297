"""Converts SqueezeNet 1.1 of PyTorch, or of the CS231n assignment, to tfstyle's .npz.

Reads either

  torchvision's state dict   `squeezenet1_1-b8a52dc0.pth`; needs PyTorch.
  a TensorFlow checkpoint    `squeezenet.ckpt.index` and `.data-00000-of-00001`, which
                             the assignment hands out.

Both networks are fed RGB pictures with ImageNet's mean and standard deviation
normalised, which the .npz records. The classifier is left out.

Usage:
  python scripts/convert_squeezenet.py --input=squeezenet1_1-b8a52dc0.pth \
      --output=squeezenet.npz
and then give any command --backbone=squeezenet --weights=squeezenet.npz.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# Before TensorFlow is imported: its start-up chatter would drown the one-line errors.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfstyle.backbones import squeezenet
from tfstyle.backbones.weights import assign_weights, save_weights
from tfstyle.errors import TfstyleError, UsageError

FLAGS = flags.FLAGS

flags.DEFINE_string("input", None, "State dict (.pth) or checkpoint (.ckpt.index).")
flags.DEFINE_string("output", None, "File to write, .npz.")

_FIRE_PARTS = {
    "squeeze": "squeeze1x1",
    "expand1x1": "expand1x1",
    "expand3x3": "expand3x3",
}
_VARIABLE = ".ATTRIBUTES/VARIABLE_VALUE"


def torch_names() -> Iterator[tuple[str, str]]:
    """Our layers with torchvision's: `fire2/squeeze1x1` is `features.3.squeeze`."""
    yield "conv1", "features.0"
    for index, layer in enumerate(squeezenet.INDEXED):
        if layer in squeezenet.FIRES:
            for part, here in _FIRE_PARTS.items():
                yield f"{layer}/{here}", f"features.{index}.{part}"


def checkpoint_names() -> Iterator[tuple[str, str]]:
    """Our layers with the checkpoint's, which counts the layers with weights."""
    yield "conv1", "net/layer_with_weights-0"
    for number, fire in enumerate(squeezenet.FIRES, 1):
        for part, here in _FIRE_PARTS.items():
            yield f"{fire}/{here}", f"net/layer_with_weights-{number}/{part}"


def from_state_dict(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Renames torchvision's arrays and turns kernels from OIHW to HWIO.

    Args:
      state: Arrays or tensors by `features.N.[part.]weight` and `.bias`.

    Returns:
      Arrays by `layer/kernel` and `layer/bias`.

    Raises:
      KeyError: A layer is missing.
    """
    arrays = {}
    for layer, theirs in torch_names():
        kernel = np.asarray(state[f"{theirs}.weight"])
        arrays[f"{layer}/kernel"] = kernel.transpose(2, 3, 1, 0)
        arrays[f"{layer}/bias"] = np.asarray(state[f"{theirs}.bias"])
    return arrays


def read_state_dict(path: Path) -> Mapping[str, Any]:
    """Reads a state dict of PyTorch without unpickling objects."""
    try:
        import torch
    except ImportError as error:
        raise UsageError(
            f"{path}: PyTorch is needed to read it; run 'pip install torch'"
        ) from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load raises UnpicklingError, RuntimeError, EOFError, KeyError and others.
    except Exception as error:
        raise UsageError(
            f"{path}: not a state dict of PyTorch; give torchvision's "
            "squeezenet1_1-b8a52dc0.pth, or model.state_dict() saved by torch.save"
        ) from error
    if not isinstance(state, Mapping):
        raise UsageError(
            f"{path}: holds a {type(state).__name__}, not a state dict; "
            "save model.state_dict() with torch.save"
        )
    return state


def from_checkpoint(prefix: str) -> dict[str, np.ndarray]:
    """Reads the assignment's TensorFlow checkpoint.

    Args:
      prefix: Path without `.index`.

    Returns:
      Arrays by `layer/kernel` and `layer/bias`.

    Raises:
      KeyError: A layer is missing.
      UsageError: The checkpoint cannot be read.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        known = reader.get_variable_to_shape_map()
        names = {
            f"{layer}/{part}": f"{theirs}/{part}/{_VARIABLE}"
            for layer, theirs in checkpoint_names()
            for part in ("kernel", "bias")
        }
        missing = [theirs for theirs in names.values() if theirs not in known]
        if missing:
            raise KeyError(missing[0])
        return {name: reader.get_tensor(theirs) for name, theirs in names.items()}
    except (tf.errors.OpError, RuntimeError) as error:
        raise UsageError(
            f"{prefix}: cannot be read ({' '.join(str(error).split())}); "
            "give both its .index and its .data-00000-of-00001 file"
        ) from error


def checkpoint_prefix(path: Path) -> str | None:
    """The prefix of a checkpoint that `path` names or is a file of, or None."""
    prefix = path.with_suffix("") if _is_part(path) else path
    return str(prefix) if Path(f"{prefix}.index").is_file() else None


def _is_part(path: Path) -> bool:
    return path.suffix == ".index" or path.suffix.startswith(".data-")


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads either kind of file.

    Args:
      path: A state dict, or a checkpoint's prefix, index or data file.

    Returns:
      Arrays by `layer/kernel` and `layer/bias`.

    Raises:
      UsageError: The file cannot be read, or is of another network.
    """
    prefix = checkpoint_prefix(path)
    if prefix is None and not path.is_file():
        raise UsageError(f"{path}: no such file; give a .pth or a .ckpt.index")
    try:
        if prefix is None:
            return from_state_dict(read_state_dict(path))
        return from_checkpoint(prefix)
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
      UsageError: `source` cannot be read or is of another network, or `target` cannot
        be written.
    """
    arrays = read(source)
    inputs = keras.Input([None, None, 3])
    network = keras.Model(inputs, squeezenet.build(inputs)["fire9/concat"])
    assign_weights(network, arrays, str(source))
    save_weights(target, arrays, preprocessing="torch")


def main(argv: list[str]) -> None:
    """Runs the conversion that the flags describe."""
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
