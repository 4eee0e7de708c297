"""MicroAST's published weights: for our network of it, and in PyTorch to compare with.

Wang, Zhao, Zuo, Li, Chen, Xing and Lu, "MicroAST: Towards Super-Fast Ultra-Resolution
Arbitrary Style Transfer" (AAAI 2023). The weights are a file of the shared folder. This
writes them for tfstyle, and ``distil_shifts.py`` makes of them the network for any
style that comes with it:

  python scripts/microast.py --output=any.keras
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

from tfstyle.networks.any_style import LAYERS, AnyStyleNet
from tfstyle.networks.style_net import save_network

FLAGS = flags.FLAGS

SHARED = pathlib.Path(
    os.environ.get(
        "TFSTYLE_SHARED", pathlib.Path(__file__).resolve().parents[2] / "shared"
    )
)
"""The folder of reference data, which is not part of the project."""
WEIGHTS = SHARED / "weights" / "microast.npz"

_ENCODER = {
    "first": "enc1.0",
    "half": "enc1.2",
    "half_mixed": "enc1.4",
    "quarter": "enc1.6",
    "quarter_mixed": "enc1.8",
    "shallow_1": "enc1.10.conv1",
    "shallow_2": "enc1.10.conv2",
    "deep_1": "enc2.0.conv1",
    "deep_2": "enc2.0.conv2",
}
_MODULATOR = {
    "factor_shallow": "weight1.0",
    "factor_deep": "weight2.0",
    "bypass_shallow": "bias1.0",
    "bypass_deep": "bias2.0",
}
_DECODER = {
    "deep_1": "dec1.conv1",
    "deep_2": "dec1.conv2",
    "shallow_1": "dec2.conv1",
    "shallow_2": "dec2.conv2",
    "half": "dec3.1",
    "half_mixed": "dec3.3",
    "whole": "dec3.6",
    "whole_mixed": "dec3.8",
    "rgb": "dec3.10",
}
NAMES = {
    f"{part}_{ours}": f"{module}/{theirs}"
    for part, module, names in (
        ("content", "content_encoder", _ENCODER),
        ("style", "style_encoder", _ENCODER),
        ("style", "modulator", _MODULATOR),
        ("decoder", "decoder", _DECODER),
    )
    for ours, theirs in names.items()
}
"""By the name of a layer of ``AnyStyleNet``, that of the published one."""

_EPSILON = 1e-5


def published() -> AnyStyleNet:
    """The network with the published weights.

    One pixel at the border differs: the published network enlarges first, and then
    reflects.

    Raises:
      OSError: If the shared folder has no weights.
    """
    arrays, network = _arrays(WEIGHTS), AnyStyleNet(seed=0)
    for name, (_, _, channels, _) in LAYERS.items():
        kernel, bias = _weights(arrays, NAMES[name])
        network.convolutions[name].set_weights([ungrouped(kernel, channels), bias])
    return network


class Look(NamedTuple):
    """What the network knows of a style, shallow features first.

    Attributes:
      means: Of features, one number per channel each.
      deviations: Of features, the same.
      weights: Factors of convolutions, the same.
      biases: Factors of what convolutions are given, the same.
    """

    means: tuple[Any, ...]
    deviations: tuple[Any, ...]
    weights: tuple[Any, ...]
    biases: tuple[Any, ...]


class InTorch:
    """The network in PyTorch, run as it stands, as its authors do."""

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the weights.

        Raises:
          OSError: If the file cannot be read.
        """
        import torch

        self._torch, self._functional = torch, torch.nn.functional
        self._tensors = {
            name: torch.tensor(array.transpose(3, 2, 0, 1) if array.ndim > 1 else array)
            for name, array in _arrays(path).items()
        }

    def __call__(self, content: np.ndarray, style: np.ndarray) -> np.ndarray:
        """Reads the style, and gives it to the photograph; both ``[1, H, W, 3]``."""
        with self._torch.inference_mode():
            content, style = (
                self._torch.from_numpy(picture).permute(0, 3, 1, 2)
                for picture in (content, style)
            )
            painted = self._paint(content, self._look(style))
            return painted.permute(0, 2, 3, 1).numpy()

    def _look(self, style: Any) -> Look:
        features = self._encoded(style, "style_encoder")
        means, deviations = zip(*map(self._moments, features), strict=True)

        def signals(kind: str) -> tuple[Any, ...]:
            names = (f"modulator/{kind}{i}.0" for i in (1, 2))
            convolved = map(self._convolution, features, names)
            return tuple(x.mean((2, 3), keepdim=True) for x in convolved)

        return Look(means, deviations, signals("weight"), signals("bias"))

    def _paint(self, content: Any, look: Look) -> Any:
        _, x = self._encoded(content, "content_encoder")
        for part, i in (("dec1", 1), ("dec2", 0)):
            mean, deviation = self._moments(x)
            x = (x - mean) / deviation * look.deviations[i] + look.means[i]
            x = self._modulated(x, f"decoder/{part}", look.weights[i], look.biases[i])
        for i in (1, 6):
            x = self._functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = self._convolution(x, f"decoder/dec3.{i}").relu_()
            x = self._convolution(x, f"decoder/dec3.{i + 2}").relu_()
        x = self._convolution(x, "decoder/dec3.10")
        return x[:, :, : content.shape[2], : content.shape[3]].clamp_(0, 1)

    def _encoded(self, x: Any, encoder: str) -> tuple[Any, Any]:
        """Features at a quarter of the size, shallow ones first."""
        for i, stride in ((0, 1), (2, 2), (4, 1), (6, 2), (8, 1)):
            x = self._convolution(x, f"{encoder}/enc1.{i}", stride).relu_()
        shallow = self._modulated(x, f"{encoder}/enc1.10")
        return shallow, self._modulated(shallow, f"{encoder}/enc2.0")

    def _modulated(self, x: Any, name: str, weight: Any = 1.0, bias: Any = 0.0) -> Any:
        """A residual block whose convolutions are ``weight * conv(x) + bias * x``."""
        inner = weight * self._convolution(x, f"{name}.conv1") + bias * x
        inner = inner.relu_()
        return x + weight * self._convolution(inner, f"{name}.conv2") + bias * inner

    def _convolution(self, x: Any, name: str, stride: int = 1) -> Any:
        kernel, bias = _weights(self._tensors, name)
        x = self._functional.pad(x, [kernel.shape[-1] // 2] * 4, "reflect")
        groups = x.shape[1] // kernel.shape[1]
        return self._functional.conv2d(x, kernel, bias, stride, groups=groups)

    def _moments(self, x: Any) -> tuple[Any, Any]:
        variance, mean = self._torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        return mean, (variance + _EPSILON).sqrt()


def ungrouped(kernel: np.ndarray, channels: int) -> np.ndarray:
    """The kernel of a convolution by groups of channels, with zeros between groups.

    On CPUs, TensorFlow computes it faster than it computes groups.

    Args:
      kernel: ``[h, w, channels per group, D]``.
      channels: All channels.

    Returns:
      Array ``[h, w, channels, D]``.
    """
    groups = channels // kernel.shape[2]
    parts = np.split(kernel, groups, 3)
    each = parts[0].shape[2:]
    whole = np.zeros((*kernel.shape[:2], groups, each[0], groups, each[1]), "float32")
    for i, part in enumerate(parts):
        whole[:, :, i, :, i] = part
    return whole.reshape(*kernel.shape[:2], channels, -1)


def _weights(arrays: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    return tuple(arrays[f"{name}.conv_layer/{part}"] for part in ("kernel", "bias"))


def _arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays}


def main(_: list[str]) -> None:
    """Writes the published weights as a network for any style."""
    save_network(published(), FLAGS.output)


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Where to write the network.", required=True)
    app.run(main)
