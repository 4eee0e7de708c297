"""The contestants of ``benchmark.py``: TensorFlow's tutorial and plain PyTorch.

They are written as one writes them without tfstyle, but have its network and loss.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import itertools
import math
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfstyle
from tfstyle.backbones.feature_extractor import IMAGENET, resolve_layers
from tfstyle.backbones.weights import read_weights
from tfstyle.images.color import match_colors
from tfstyle.losses import PerceptualLoss, Targets
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.optimizers.progress import Callback
from tfstyle.stylizer.run import Run

# Keras's epsilon of 1e-7, made for losses that are sums, would brake beside the
# gradients of a relative loss, as would the tutorial's 1e-1; the tutorial's beta_1 of
# 0.99 ends at a loss a quarter above that of Keras's 0.9.
TUTORIAL_ADAM = {"learning_rate": 0.02, "epsilon": 1e-12}
# PyTorch's line search stops at absolute changes, far above those of a relative loss.
LBFGS_LOSS_SCALE = 1e6
LBFGS_HISTORY = 100


@dataclasses.dataclass(frozen=True)
class Task:
    """The same for every contestant: pictures ``[1, H, W, 3]``, network and layers."""

    content: np.ndarray
    style: np.ndarray
    options: Mapping[str, Any]

    @functools.cached_property
    def loss(self) -> PerceptualLoss:
        """The loss whose value all contestants lower, with the network in it.

        In float32, whatever the precision of our run.
        """
        options = {**self.options, "precision": "float32"}
        return perceptual_loss(tfstyle.Options(**options))

    @functools.cached_property
    def _targets(self) -> Targets:
        return self.loss.targets(tf.constant(self.content), tf.constant(self.style))

    def our_loss(self, picture: np.ndarray) -> float:
        """What tfstyle itself says of a picture."""
        return float(self.loss(tf.constant(picture), self._targets)[0])

    def run(self, callbacks: Sequence[Callback] = (), **options: Any) -> Run:
        """A run of tfstyle without margin: the others have no such pixels either.

        It begins, as by default, with the content picture in the style's colours, but
        that is not its content target.
        """
        same = {"size": max(self.content.shape), "margin": 0, "color": "free"}
        with tempfile.TemporaryDirectory() as folder:
            start = pathlib.Path(folder) / "start.png"
            tfstyle.save_image(match_colors(self.content, self.style), start)
            options = {**self.options, **same, "init": start, **options}
            stylizer = tfstyle.Stylizer(**options)
            pictures = stylizer.read(self.content, self.style)
        return Run(stylizer.engine, stylizer.options, pictures, callbacks)


class Baseline:
    """The relative losses of tfstyle; a subclass has the operations."""

    def __init__(self, task: Task, content: Any, style: Any):
        """Computes the targets of pictures as ``_features`` takes them."""
        extract = task.loss.features
        taps = resolve_layers(extract.backbone, extract.layers)
        self.content_layers, self.style_layers = (
            {taps[layer]: weight for layer, weight in layers.items()}
            for layers in (task.loss.content_layers, task.loss.style_layers)
        )
        self.tv_weight = task.loss.tv_weight
        contents, styles = self._features(content), self._features(style)
        self.content = {layer: contents[layer] for layer in self.content_layers}
        self.grams = {layer: self._gram(styles[layer]) for layer in self.style_layers}

    def loss(self, image: Any) -> Any:
        """The loss of a picture as ``_features`` takes it."""
        features = self._features(image)
        total = self.tv_weight * self._variation(image)
        for layer, weight in self.content_layers.items():
            target = self.content[layer]
            distance = self._squares(features[layer] - target)
            total = total + weight * distance / self._squares(target)
        for layer, weight in self.style_layers.items():
            target = self.grams[layer]
            distance = self._squares(self._gram(features[layer]) - target)
            total = total + weight * distance / self._squares(target)
        return total


class Tutorial(Baseline):
    """The loop of tensorflow.org's tutorial "Neural style transfer".

    Full size from the content picture on, Adam, clipping, one call of a ``tf.function``
    from Python per step.
    """

    def __init__(self, task: Task):
        self._features = task.loss.features.model
        super().__init__(task, tf.constant(task.content), tf.constant(task.style))
        self.image = tf.Variable(task.content)
        self.optimizer = keras.optimizers.Adam(**TUTORIAL_ADAM)
        self.optimizer.build([self.image])
        self.train_step = tf.function(self._train_step)

    @staticmethod
    def _gram(features: tf.Tensor) -> tf.Tensor:
        products = tf.einsum("bijc,bijd->bcd", features, features)
        return products / tf.cast(tf.size(features), tf.float32)

    @staticmethod
    def _squares(x: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(x**2)

    def _variation(self, image: tf.Tensor) -> tf.Tensor:
        down, across = image[:, 1:] - image[:, :-1], image[:, :, 1:] - image[:, :, :-1]
        total = self._squares(down) + self._squares(across)
        return total / tf.cast(tf.size(image), tf.float32)

    def _train_step(self) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self.loss(self.image)
        gradient = tape.gradient(loss, self.image)
        self.optimizer.apply_gradients([(gradient, self.image)])
        self.image.assign(tf.clip_by_value(self.image, 0.0, 1.0))
        return loss

    def step(self) -> float:
        """A step whose loss has arrived: a GPU works on when a call has returned."""
        return float(self.train_step())

    def loss_of(self, picture: np.ndarray) -> float:
        """The loss of a picture ``[1, H, W, 3]``."""
        return float(self.loss(tf.constant(picture)))

    def curve(self, steps: int) -> dict[str, Any]:
        """The loss after 0, 1, ... ``steps`` steps."""
        losses = [*map(float, [self.train_step() for _ in range(steps)])]
        losses.append(float(self.loss(self.image)))
        return {"losses": losses, "final_loss": losses[-1], "steps": steps}


class Torch(Baseline):
    """Plain PyTorch, channels first."""

    def __init__(self, task: Task, device: str = "cpu"):
        """Takes over slim19 or VGG-19, on ``cpu`` or ``gpu``."""
        import torch
        from torch_peers import Network

        self.torch, extract = torch, task.loss.features
        self.device = torch.device("cuda" if device == "gpu" else "cpu")
        weights = str(task.options["weights"])
        said = None if weights == IMAGENET else read_weights(weights)[1]
        slim = extract.backbone.name == "slim19"
        self.network = Network(
            {
                f"{layer.name}/{part}": values
                for layer in extract.model.layers
                if isinstance(layer, keras.layers.Conv2D)
                for part, values in zip(
                    ("kernel", "bias"), layer.get_weights(), strict=True
                )
            },
            preprocessing=said or extract.backbone.preprocessing,
            padding="reflect" if slim else "zeros",
        ).to(self.device)
        self.layers = list(resolve_layers(extract.backbone, extract.layers).values())
        self.start = self._tensor(task.content, (0, 3, 1, 2))
        with torch.no_grad():
            super().__init__(task, self.start, self._tensor(task.style, (0, 3, 1, 2)))

    def _tensor(self, array: np.ndarray, order: Sequence[int] = ()) -> Any:
        array = np.ascontiguousarray(array.transpose(order) if order else array)
        return self.torch.tensor(array, device=self.device)

    def _features(self, image: Any) -> dict[str, Any]:
        return self.network(image, self.layers)

    @staticmethod
    def _gram(features: Any) -> Any:
        matrix = features.flatten(2)[0]
        return matrix @ matrix.T / matrix.numel()

    @staticmethod
    def _squares(x: Any) -> Any:
        return x.square().sum()

    def _variation(self, image: Any) -> Any:
        down = image[:, :, 1:] - image[:, :, :-1]
        across = image[:, :, :, 1:] - image[:, :, :, :-1]
        return (self._squares(down) + self._squares(across)) / image.numel()

    def loss_of(self, picture: np.ndarray) -> float:
        """The loss of a picture ``[1, H, W, 3]``."""
        with self.torch.no_grad():
            return self.loss(self._tensor(picture, (0, 3, 1, 2))).item()

    def adam(self) -> Callable[[], float]:
        """A loop of Adam from the content picture on, as a function per step."""
        image = self.start.clone().requires_grad_()
        optimizer = self.torch.optim.Adam([image], lr=TUTORIAL_ADAM["learning_rate"])

        def step() -> float:
            optimizer.zero_grad()
            loss = self.loss(image)
            loss.backward()
            optimizer.step()
            with self.torch.no_grad():
                image.clamp_(0.0, 1.0)
            return loss.item()

        return step

    def _lbfgs(
        self, evaluations: int, heard: Callable[[float], Any]
    ) -> tuple[Any, Any, Callable[[], Any]]:
        """neural-style-pt's optimizer, its picture, and a function that runs it."""
        image = self.start.clone().requires_grad_()
        optimizer = self.torch.optim.LBFGS(
            [image],
            max_iter=evaluations,
            max_eval=evaluations,
            tolerance_grad=-1,
            tolerance_change=-1,
            history_size=LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Any:
            optimizer.zero_grad()
            loss = self.loss(image) * LBFGS_LOSS_SCALE
            loss.backward()
            heard(loss.item() / LBFGS_LOSS_SCALE)
            return loss

        return optimizer, image, functools.partial(optimizer.step, closure)

    def curve(self, evaluations: int) -> dict[str, Any]:
        """The loss at each evaluation of L-BFGS, at its end, and after clipping."""
        losses: list[float] = []
        _, image, optimize = self._lbfgs(evaluations, losses.append)
        optimize()
        with self.torch.no_grad():
            final, clipped = (self.loss(x).item() for x in (image, image.clamp(0, 1)))
        return {
            "losses": losses,
            "final_loss": final,
            "final_loss_as_saved": clipped,
            "steps": len(losses),
        }

    def lbfgs_seconds(self, evaluations: int) -> float:
        """Median seconds of an evaluation of L-BFGS with a full history."""
        times: list[float] = []
        optimizer, image, optimize = self._lbfgs(
            evaluations, lambda _: times.append(time.perf_counter())
        )
        optimize()
        state = optimizer.state[image]
        for name in ("old_dirs", "old_stps", "ro"):
            # A pair that is remembered twice changes nothing but the time.
            again = itertools.cycle(state.get(name, []))
            state[name] = [x.clone() for x in itertools.islice(again, LBFGS_HISTORY)]
        times.clear()
        optimize()
        return float(np.median(np.diff(times)))


def has_torch(device: str) -> bool:
    """Whether PyTorch can take part, on ``cpu`` or ``gpu``."""
    found = importlib.util.find_spec("torch") is not None
    if found and device == "gpu":
        import torch

        return torch.cuda.is_available()
    return found


def check_same_loss(task: Task, baselines: Mapping[str, Tutorial | Torch]) -> None:
    """Makes sure that all contestants mean the same by the loss.

    Raises:
      RuntimeError: They do not.
    """
    # The start has no content loss, so a darker picture is compared as well.
    for picture in (task.content, np.float32(0.7) * task.content):
        ours = task.our_loss(picture)
        for name, baseline in baselines.items():
            theirs = baseline.loss_of(picture)
            if not math.isclose(ours, theirs, rel_tol=1e-3):
                raise RuntimeError(f"{name} has a loss of {theirs}, tfstyle of {ours}")
