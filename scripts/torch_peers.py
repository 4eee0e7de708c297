"""Style transfer as others publish it, in PyTorch, on tfstyle's network and pictures.

* ``Wasserstein``: github.com/crowsonkb/style-transfer-pytorch at e7e2c71.
* ``Neighbors``: github.com/nkolkin13/NeuralNeighborStyleTransfer at 290976a.

Both are written anew from what they compute. Instead of VGG they have the network that
they are given, so that a comparison with tfstyle is one of methods and of libraries.
The module needs PyTorch.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

import tfstyle
from tfstyle.backbones import slim19, vgg
from tfstyle.backbones.base import CAFFE_MEAN_BGR, TORCH_MEAN_RGB, TORCH_STD_RGB
from tfstyle.backbones.weights import read_weights
from tfstyle.images.color import match_colors

# Triton, which PyTorch's optimizers look for, has an LLVM that breaks TensorFlow's.
sys.modules.setdefault("triton", None)  # type: ignore[arg-type]

Tensor = torch.Tensor
Heard = Callable[[int, float, Callable[[], np.ndarray]], Any]
"""Receives the phase, the loss before a step, and a function that gives the picture
after it."""


class Network(torch.nn.Module):
    """VGG-19, or slim19 with its parts, from arrays as tfstyle's files have them."""

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        *,
        preprocessing: str = "torch",
        padding: str = "reflect",
        pooling: str = "max",
    ):
        """Takes over the weights.

        Args:
          arrays: Kernels (HWIO) and biases by ``layer/kernel`` and ``layer/bias``.
          preprocessing: ``torch`` or ``caffe``, see ``Backbone``.
          padding: ``reflect`` as in slim19, or ``zeros`` as in VGG.
          pooling: ``max`` or ``avg``.
        """
        super().__init__()
        names = [name.removesuffix("/kernel") for name in arrays if "/kernel" in name]
        self.convolutions = torch.nn.ModuleDict(
            {
                name: _convolution(
                    arrays[f"{name}/kernel"], arrays[f"{name}/bias"], padding
                )
                for name in names
            }
        )
        known = vgg.convolutions(vgg.VGG19_CONVOLUTIONS)
        self.parts = {name: self._parts(name) for name in known}
        self.layers = [name for name, parts in self.parts.items() if parts]
        self.caffe = preprocessing == "caffe"
        mean, std = np.float32(TORCH_MEAN_RGB), np.float32(TORCH_STD_RGB)
        if self.caffe:
            mean = np.float32(CAFFE_MEAN_BGR[::-1]) / 255
            std = np.full(3, 1 / 255, "float32")
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])
        self.pool = {"max": functional.max_pool2d, "avg": functional.avg_pool2d}[
            pooling
        ]
        self.requires_grad_(False)

    def _parts(self, layer: str) -> list[str]:
        """The convolutions between which there is no ReLU, of one layer."""
        names = [layer, *(f"{layer}_{part}" for part in ("in", "mid", "out"))]
        return [name for name in names if name in self.convolutions]

    @classmethod
    def slim19(cls, pooling: str = "max") -> Network:
        """The bundled network."""
        return cls(read_weights(slim19.WEIGHTS)[0], pooling=pooling)

    def forward(self, image: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Features after the ReLU, up to the deepest layer that is asked for.

        Args:
          image: ``[1, 3, H, W]``, RGB in [0, 1].
          layers: Such as ``block4_conv2``.

        Returns:
          ``[1, C, h, w]`` by layer; of a layer with a head, what the head gives.
        """
        x = (image - self.mean) / self.std
        x = x.flip(1) if self.caffe else x
        found: dict[str, Tensor] = {}
        for layer in self.layers:
            if layer.endswith("conv1") and layer != self.layers[0]:
                x = self.pool(x, 2)
            if layer == "block3_conv2" and slim19.WAIST in self.convolutions:
                x = functional.relu_(self.convolutions[slim19.WAIST](x))
            for part in self.parts[layer]:
                x = self.convolutions[part](x)
            x = functional.relu_(x)
            if layer in layers:
                found[layer] = x
                if (head := slim19.head_name(layer)) in self.convolutions:
                    found[layer] = functional.relu_(self.convolutions[head](x))
            if len(found) == len(layers):
                break
        return found


def _convolution(kernel: np.ndarray, bias: np.ndarray, padding: str) -> torch.nn.Conv2d:
    height, _, inputs, outputs = kernel.shape
    layer = torch.nn.Conv2d(
        inputs, outputs, height, padding=height // 2, padding_mode=padding
    )
    with torch.no_grad():
        layer.weight.copy_(_contiguous(kernel, (3, 2, 0, 1)))
        layer.bias.copy_(torch.tensor(np.array(bias)))
    return layer


def tensor(picture: np.ndarray) -> Tensor:
    """``[1, H, W, 3]`` as PyTorch has pictures, ``[1, 3, H, W]``."""
    return _contiguous(picture, (0, 3, 1, 2))


def array(image: Tensor) -> np.ndarray:
    """``[1, 3, H, W]`` as tfstyle has pictures, in [0, 1]."""
    return image.detach().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def _contiguous(values: Any, axes: Sequence[int]) -> Tensor:
    return torch.tensor(np.ascontiguousarray(np.asarray(values).transpose(axes)))


class Phase(NamedTuple):
    """A part of a schedule.

    Attributes:
      name: What it is.
      steps: How many steps it has.
      begin: Computes its targets; returns a function that does a step and returns the
        loss before it.
    """

    name: str
    steps: int
    begin: Callable[[], Callable[[], float]]


class Method:
    """A published method with its pictures; a subclass says what its phases are.

    Attributes:
      network: The network.
      content: The photograph, ``[1, H, W, 3]`` in [0, 1].
      style: The painting, likewise.
      size: Longest side of the result.
    """

    def __init__(
        self, network: Network, content: np.ndarray, style: np.ndarray, size: int
    ):
        """Keeps the pictures; computes nothing yet."""
        self.network, self.content, self.style = network, content, style
        self.size = size

    def phases(self) -> list[Phase]:
        """The schedule, to be gone through in order."""
        raise NotImplementedError

    def picture(self) -> np.ndarray:
        """The picture so far, ``[1, H, W, 3]`` in [0, 1]."""
        raise NotImplementedError

    def paint(self, heard: Heard = lambda phase, loss, picture: None) -> np.ndarray:
        """Goes through the whole schedule and returns the picture."""
        for i, phase in enumerate(self.phases()):
            step = phase.begin()
            for _ in range(phase.steps):
                heard(i, step(), self.picture)
        return self.picture()

    def resized(self, picture: np.ndarray, side: int) -> np.ndarray:
        """A picture whose longest side is ``side``."""
        factor = side / max(picture.shape[1:3])
        size = [max(round(length * factor), 1) for length in picture.shape[1:3]]
        return tfstyle.resize_image(picture, (size[0], size[1]))


# Wasserstein distances of Gaussians.

STYLE_LAYERS = {f"block{i}_conv1": 4 ** (5 - i) / 341 for i in range(1, 6)}
CONTENT_LAYER = "block4_conv2"


class Wasserstein(Method):
    """Crowson's method: Adam on Wasserstein distances of features, scale by scale."""

    content_weight, tv_weight = 0.015, 2.0
    step_size, betas, decay = 0.02, (0.9, 0.99), 0.99
    least_side, first_steps, further_steps = 128, 1000, 500

    def __init__(self, *arguments: Any):
        """Same as in ``Method``."""
        super().__init__(*arguments)
        self.optimizer: torch.optim.Adam | None = None
        self.average: Tensor | None = None  # of the iterates of a scale

    def sides(self) -> list[int]:
        """Longest sides of the scales, each √2 of the one before."""
        found = (round(self.size / 2 ** (i / 2)) for i in itertools.count())
        kept = itertools.takewhile(lambda side: side >= self.least_side, found)
        return sorted(kept) or [self.size]

    def phases(self) -> list[Phase]:
        """Same as in ``Method``."""
        steps = [self.first_steps, *itertools.repeat(self.further_steps, 99)]
        return [
            Phase(f"{side} pixels", count, functools.partial(self._begin, side))
            for side, count in zip(self.sides(), steps, strict=False)
        ]

    def picture(self) -> np.ndarray:
        """Same as in ``Method``: the average of the iterates."""
        assert self.average is not None
        return array(self.average)

    def loss(self, side: int) -> Callable[[Tensor], Tensor]:
        """The loss at a scale, as a function of images ``[1, 3, H, W]``."""
        with torch.no_grad():
            content = tensor(self.resized(self.content, side))
            wanted = self.network(content, [CONTENT_LAYER])[CONTENT_LAYER]
            # Paintings are never enlarged.
            style = self.resized(self.style, min(side, max(self.style.shape)))
            painted = self.network(tensor(style), list(STYLE_LAYERS))
            distances = {
                layer: WassersteinDistance(painted[layer]) for layer in STYLE_LAYERS
            }

        def evaluate(image: Tensor) -> Tensor:
            features = self.network(image, [*STYLE_LAYERS, CONTENT_LAYER])
            total = self.tv_weight * nine_point_variation(image)
            squares = functional.mse_loss(features[CONTENT_LAYER], wanted)
            total = total + self.content_weight * squares
            for layer, weight in STYLE_LAYERS.items():
                total = total + weight * distances[layer](features[layer])
            return total

        return evaluate

    def _begin(self, side: int) -> Callable[[], float]:
        loss = self.loss(side)
        start = tensor(self.resized(self.content, side))
        if self.average is not None:
            start = _enlarged(self.average, start.shape[2:], "bicubic").clamp(0, 1)
        image = start.requires_grad_()
        self.optimizer = self._optimizer(image)
        # Corrected for its beginning, as Adam's moments are.
        total, share = (1 - self.decay) * image.detach(), 1 - self.decay
        self.average = image.detach().clone()

        def step() -> float:
            nonlocal total, share
            assert self.optimizer is not None
            self.optimizer.zero_grad()
            value = loss(image)
            value.backward()
            self.optimizer.step()
            with torch.no_grad():
                image.clamp_(0, 1)
                total = self.decay * total + (1 - self.decay) * image
                share = self.decay * share + 1 - self.decay
                self.average = total / share
            return value.item()

        return step

    def _optimizer(self, image: Tensor) -> torch.optim.Adam:
        """Adam with the moments of the scale before, enlarged."""
        optimizer = torch.optim.Adam([image], lr=self.step_size, betas=self.betas)
        if self.optimizer is not None:
            state = self.optimizer.state_dict()
            for moments in state["state"].values():
                size = image.shape[2:]
                first, second = moments["exp_avg"], moments["exp_avg_sq"]
                moments["exp_avg"] = _enlarged(first, size, "bicubic")
                moments["exp_avg_sq"] = _enlarged(second, size, "bilinear").relu_()
            optimizer.load_state_dict(state)
        return optimizer


class WassersteinDistance:
    """Squared 2-Wasserstein distance of the Gaussians of features, per channel.

    Attributes:
      iterations: Of each square root.
      epsilon: What is added to each variance.
    """

    iterations, epsilon = 12, 1e-4

    def __init__(self, features: Tensor):
        """Takes the painting's features ``[1, C, h, w]``."""
        self.mean, self.covariance = self._gaussian(features)
        self.root = self._root(self.covariance)

    def __call__(self, features: Tensor) -> Tensor:
        """The distance of a picture's features ``[1, C, h, w]``."""
        mean, covariance = self._gaussian(features)
        root = self._root(self.root @ covariance @ self.root)
        variances = torch.diagonal(self.covariance + covariance - 2 * root)
        return (mean - self.mean).square().mean() + variances.mean()

    def _gaussian(self, features: Tensor) -> tuple[Tensor, Tensor]:
        matrix = features[0].flatten(1)
        mean = matrix.mean(1)
        seconds = matrix @ matrix.T / matrix.shape[1]
        spread = self.epsilon * torch.eye(len(mean), dtype=mean.dtype)
        return mean, seconds - torch.outer(mean, mean) + spread

    def _root(self, matrix: Tensor) -> Tensor:
        return SquareRoot.apply(matrix, self.iterations)


class SquareRoot(torch.autograd.Function):
    """The square root of a positive definite matrix, by Newton–Schulz iterations.

    The gradient solves the Lyapunov equation ``RX + XR = G`` by iterations of the same
    kind: Lin and Maji, "Improved Bilinear Pooling with CNNs" (2017), section 3.
    """

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, iterations: int) -> Tensor:
        """Same as ``matrix ** ½``."""
        norm = matrix.norm()
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        root, inverse = matrix / norm, identity
        for _ in range(iterations):
            factor = 1.5 * identity - 0.5 * inverse @ root
            root, inverse = root @ factor, factor @ inverse
        root = root * norm.sqrt()
        ctx.save_for_backward(root)
        ctx.iterations = iterations
        return root

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Same as X / 2 where X solves the equation for ``gradient``."""
        (root,) = ctx.saved_tensors
        norm = root.norm()
        root, solution = root / norm, gradient / norm
        identity = torch.eye(len(root), dtype=root.dtype)
        for _ in range(ctx.iterations):
            factor = 3 * identity - root @ root
            turned = root.T @ (root.T @ solution - solution @ root)
            solution = (solution @ factor - turned) / 2
            root = root @ factor / 2
        return solution / 2, None


def nine_point_variation(image: Tensor) -> Tensor:
    """Mean squared differences of pixels to their eight neighbours."""
    x = functional.pad(image, [1] * 4, "replicate")
    across = x[..., 1:-1, 2:] - x[..., 1:-1, 1:-1]
    down = x[..., 2:, 1:-1] - x[..., 1:-1, 1:-1]
    falling = x[..., 1:, 1:] - x[..., :-1, :-1]
    rising = x[..., 1:, :-1] - x[..., :-1, 1:]
    straight = across.square().mean() + down.square().mean()
    slanted = falling.square().mean() + rising.square().mean()
    return 2 / 3 * straight + slanted / 6


def _enlarged(image: Tensor, size: Sequence[int], mode: str) -> Tensor:
    return functional.interpolate(image, tuple(size), mode=mode, align_corners=False)


# Neural neighbours.

NEIGHBOR_LAYERS = (
    *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
    *("block3_conv1", "block3_conv2", "block3_conv3"),
    *("block4_conv1", "block4_conv2", "block4_conv3"),
)
"""VGG-16's ten convolutions before its fifth block."""


class Neighbors(Method):
    """Kolkin's method: features are those of the nearest places of the painting.

    Colours are matched at the end by mean and covariance; the authors' version of that
    also smooths chroma.
    """

    content_share, step_size, steps = 0.75, 2e-3, 200
    least_side, levels, most_positions = 64, 8, 64
    chunk = 1024

    def __init__(self, *arguments: Any, layers: Sequence[str] = NEIGHBOR_LAYERS):
        """Same as in ``Method``, by the features of ``layers``."""
        super().__init__(*arguments)
        self.layers = tuple(layers)
        photograph = self.resized(self.content, self.size)
        levels = min(self.levels, int(math.log2(min(photograph.shape[1:3]))))
        self.original = pyramid(tensor(photograph), levels)
        self.painting = pyramid(tensor(self.resized(self.style, self.size)), levels)
        self.current = [level.clone() for level in self.original]
        for level in self.current[: 3 if self.size < 1024 else 2]:
            level.zero_()
        self.moved = len(self.current) - 1  # the finest level that has been optimised
        self.random = np.random.default_rng(0)

    def phases(self) -> list[Phase]:
        """Same as in ``Method``: hypercolumns at each scale, then layer by layer."""
        scales = max(int(math.log2(self.size / self.least_side)) + 1, 1)
        found = [
            Phase(
                f"{self.size >> scale} pixels",
                self.steps,
                functools.partial(self._match_columns, scale, scale < scales - 1),
            )
            for scale in reversed(range(scales))
        ]
        return [*found, Phase("layer by layer", self.steps, self._match_layers)]

    def picture(self) -> np.ndarray:
        """Same as in ``Method``, in the painting's colours."""
        with torch.no_grad():
            return match_colors(array(collapsed(self.current)), self.style)

    def columns(self, image: Tensor) -> Tensor:
        """Hypercolumns ``[positions, D]`` of an image, at a quarter of its size."""
        cells = [side // 4 for side in image.shape[2:]]
        parts = [
            functional.interpolate(
                features / features.shape[1], cells, mode="bilinear", align_corners=True
            )
            for features in self.network(image, self.layers).values()
        ]
        return torch.cat(parts, 1)[0].flatten(1).T

    def _match_columns(self, scale: int, seen: bool) -> Callable[[], float]:
        """Begins a scale.

        Args:
          scale: The level of the pyramid whose size the scale has.
          seen: Whether the picture so far takes part in the search.
        """
        with torch.no_grad():
            photograph = collapsed(self.original[scale:])
            query = photograph
            if seen:
                # With the photograph's finest level, which the picture lacks as yet.
                own = [self.original[scale], *self.current[scale + 1 :]]
                share = self.content_share
                query = (1 - share) * collapsed(own) + share * photograph
            painted = torch.cat(
                [self.columns(image) for image in turned(self._painted(scale))]
            )
            nearest = nearest_rows(self.columns(query), painted, self.chunk)
            targets = unit(painted[nearest])

        def loss(image: Tensor) -> Tensor:
            return (1 - (targets * unit(self.columns(image))).sum(1)).mean()

        return self._optimized(scale, loss)

    def _match_layers(self) -> Callable[[], float]:
        """Begins the last part, whose neighbours are found anew in each step."""
        with torch.no_grad():
            painted = [
                self.network(image, self.layers) for image in turned(self._painted(0))
            ]

        def loss(image: Tensor) -> Tensor:
            total = image.new_zeros([])
            for layer, features in self.network(image, self.layers).items():
                step = max(max(features.shape[2:]) // self.most_positions, 1)
                first = self.random.integers(step, size=2)
                grid = np.s_[:, first[0] :: step, first[1] :: step]
                rows = [each[layer][0][grid].flatten(1) for each in painted]
                ours = centered(features[0][grid].flatten(1).T)
                theirs = centered(torch.cat(rows, 1).T)
                total = total + (1 - (ours @ theirs.T).max(1).values).mean()
            return total

        return self._optimized(0, loss)

    def _painted(self, scale: int) -> Tensor:
        return collapsed(self.painting[scale:])

    def _optimized(
        self, scale: int, loss: Callable[[Tensor], Tensor]
    ) -> Callable[[], float]:
        """A step of Adam on the levels of the picture's pyramid from ``scale`` on."""
        self._settle()
        levels = [level.requires_grad_() for level in self.current[scale:]]
        self.moved = scale
        optimizer = torch.optim.Adam(levels, lr=self.step_size)

        def step() -> float:
            optimizer.zero_grad()
            value = loss(collapsed(levels))
            value.backward()
            optimizer.step()
            return value.item()

        return step

    def _settle(self) -> None:
        """Takes the picture apart again, from the finest level on that has moved."""
        with torch.no_grad():
            image = collapsed(self.current[self.moved :])
            levels = len(self.current) - 1 - self.moved
            self.current[self.moved :] = pyramid(image, levels)


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """A Laplacian pyramid of so many differences, finest first, and what is left."""
    found = []
    for _ in range(levels):
        small = _enlarged(image, [side // 2 for side in image.shape[2:]], "bilinear")
        found.append(image - _enlarged(small, image.shape[2:], "bilinear"))
        image = small
    return [*found, image]


def collapsed(levels: Sequence[Tensor]) -> Tensor:
    """The image of a pyramid."""
    image = levels[-1]
    for level in reversed(levels[:-1]):
        image = level + _enlarged(image, level.shape[2:], "bilinear")
    return image


def turned(image: Tensor) -> Iterator[Tensor]:
    """An image in its four rotations."""
    return (torch.rot90(image, turns, (2, 3)) for turns in range(4))


def unit(rows: Tensor) -> Tensor:
    """Rows with the length 1."""
    return rows * rows.square().sum(1, keepdim=True).clamp(min=1e-8).rsqrt()


def centered(rows: Tensor) -> Tensor:
    """Rows less their mean, with the length 1."""
    return unit(rows - rows.mean(0))


def nearest_rows(rows: Tensor, among: Tensor, chunk: int) -> Tensor:
    """For each row, the index of the nearest one by centred cosine distance."""
    others = centered(among).T
    return torch.cat(
        [(part @ others).argmax(1) for part in centered(rows).split(chunk)]
    )
