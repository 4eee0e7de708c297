"""Feed-forward networks in the runtimes that people have, for ``benchmark.py``."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import Any

import microast
import numpy as np

from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.apply import apply_network
from tfstyle.networks.export import export_network
from tfstyle.networks.formats import Call, call_litert, call_onnx, call_saved_model
from tfstyle.networks.layers import ConditionalInstanceNormalization
from tfstyle.networks.style_net import StyleNet

Run = Callable[[np.ndarray], np.ndarray]
"""Stylizes a picture ``[1, H, W, 3]``."""


def runtimes(network: StyleNet, folder: pathlib.Path) -> dict[str, Run]:
    """What is installed, each a function of one picture ``[1, H, W, 3]``.

    Args:
      network: The network, of whose first style all are.
      folder: For the files that they read.

    Returns:
      By name, functions that give the picture's style as an array.
    """
    found: dict[str, Run] = {
        "Keras call": lambda picture: network(picture, network.blend()).numpy(),
        "tfstyle apply": lambda picture: apply_network(
            network, picture, network.blend()
        ),
    }
    export_network(network, folder / "saved_model")
    saved = call_saved_model(folder / "saved_model" / "1")["serving_default"]
    found["SavedModel"] = _of_pictures(saved)
    if has("ai_edge_litert"):
        for precision in ("float32", "int8"):
            path = folder / f"{precision}.tflite"
            export_network(network, path, "litert", quantize=precision)
            litert = call_litert(path, os.cpu_count())
            found[f"LiteRT {precision}"] = _of_pictures(litert)
    if has("onnxruntime") and has("tf2onnx"):
        export_network(network, folder / "network.onnx", "onnx")
        found["ONNX Runtime"] = _of_pictures(call_onnx(folder / "network.onnx"))
    if has("torch"):
        found["PyTorch eager"] = TorchStyleNet(network)
    return found


def any_style_runtimes(
    network: AnyStyleNet, style: np.ndarray, folder: pathlib.Path
) -> dict[str, Run]:
    """The network for any style in what is installed, beside MicroAST.

    Args:
      network: The network.
      style: The painting, ``[1, H, W, 3]``; each call reads it anew.
      folder: For the files that they read.

    Returns:
      By name, functions of one picture ``[1, H, W, 3]``.
    """
    found: dict[str, Run] = {
        "Keras call": lambda picture: network(picture, network.code(style)).numpy(),
        "tfstyle apply": lambda picture: network.painter(style)(picture),
    }
    export_network(network, folder / "saved_model")
    saved = call_saved_model(folder / "saved_model" / "1")["serving_default"]
    found["SavedModel"] = _of_pictures(saved, "content", style=style)
    if has("onnxruntime") and has("tf2onnx"):
        export_network(network, folder / "network.onnx", "onnx")
        onnx = call_onnx(folder / "network.onnx")
        found["ONNX Runtime"] = _of_pictures(onnx, "content", style=style)
    if has("torch") and microast.WEIGHTS.is_file():
        torch = microast.InTorch(microast.WEIGHTS)
        found["MicroAST, PyTorch eager"] = lambda picture: torch(picture, style)
    return found


def _of_pictures(call: Call, name: str = "images", **others: np.ndarray) -> Run:
    return lambda picture: call(**{name: picture}, **others)["stylized"]


def has(module: str) -> bool:
    """Whether a library is installed."""
    return importlib.util.find_spec(module) is not None


class TorchStyleNet:
    """The same network written plainly in PyTorch, of the same weights."""

    def __init__(self, network: StyleNet):
        """Takes over the weights of the first style."""
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.blocks = network.blocks

        def tensor(value: Any, axes: tuple[int, ...] = (0,)) -> Any:
            array = np.array(value).transpose(axes)
            return torch.tensor(np.ascontiguousarray(array))

        self.kernels = [tensor(c.kernel, (3, 2, 0, 1)) for c in network.convolutions]
        self.strides = [c.strides[0] for c in network.convolutions]
        self.scales = [tensor(norm.scale[0]) for norm in network.norms]
        self.offsets = [tensor(norm.offset[0]) for norm in network.norms]
        self.last = tensor(network.last.kernel, (3, 2, 0, 1)), tensor(network.last.bias)

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """Stylizes ``[1, H, W, 3]``."""
        with self.torch.inference_mode():
            x = self.torch.from_numpy(picture).permute(0, 3, 1, 2)
            return self.forward(x).permute(0, 2, 3, 1).numpy()

    def forward(self, x: Any) -> Any:
        """The network on ``[N, 3, H, W]``."""
        sizes = []
        for i in range(3):
            sizes.append(x.shape[2:])
            x = self._stage(x, i).relu_()
        for block in range(self.blocks):
            i = 3 + 2 * block
            x = x + self._stage(self._stage(x, i).relu_(), i + 1)
        for i, size in zip((-2, -1), reversed(sizes[1:]), strict=True):
            x = self.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self._stage(x, i, "replicate", size).relu_()
        kernel, bias = self.last
        x = self.functional.pad(x, [4] * 4, "reflect")
        return self.functional.conv2d(x, kernel, bias).sigmoid_()

    def _stage(
        self, x: Any, i: int, mode: str = "reflect", size: Any = (None, None)
    ) -> Any:
        border = self.kernels[i].shape[-1] // 2
        x = self.functional.pad(x, [border] * 4, mode)
        x = self.functional.conv2d(x, self.kernels[i], stride=self.strides[i])
        x = x[:, :, : size[0], : size[1]]
        return self.functional.instance_norm(
            x,
            weight=self.scales[i],
            bias=self.offsets[i],
            eps=ConditionalInstanceNormalization.EPSILON,
        )
