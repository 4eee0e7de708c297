"""The engine: a network with the graphs that have been traced on it."""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfstyle.losses import PerceptualLoss, Targets
from tfstyle.losses.from_options import (
    feature_extractor,
    perceptual_loss,
    used_layers,
)
from tfstyle.losses.tiled import TiledLoss
from tfstyle.optimizers.adam import Adam, learning_rate_schedule
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.optimizers.loop import Loop, Objective, differentiated
from tfstyle.options import NOISE_STARTS, NetworkOptions, Options
from tfstyle.options.text import to_text
from tfstyle.stylizer.canvas import Canvas, favor_chroma, favor_strokes
from tfstyle.stylizer.memory import Cut

_MOST_KEPT = 256e6  # bytes of what is known of pictures
# Of a loss whose network is in bfloat16. Up to 2⁻⁴, more lowers the loss at the end.
_NOISE = 2.0**-6
LARGE = 1024**2
"""Pixels of a picture whose optimizer is freed after each scale: it has several times
the picture's size, and the next scale needs the room."""


class Program:
    """What optimises pictures of any size: a variable, an optimizer and its loops.

    Attributes:
      optimizer: The optimizer, which holds the variable.
      loops: Loops by how the loss is evaluated.
    """

    def __init__(self, optimizer: Adam | LBFGS):
        """Begins without loops."""
        self.optimizer = optimizer
        self.loops: dict[Hashable, Loop] = {}

    def begin(self, values: tf.Tensor | np.ndarray) -> None:
        """Gives the variable its first value, and the optimizer a state of its size."""
        self.optimizer.variable.assign(values)
        self.optimizer.reset()

    def free(self) -> None:
        """Frees the memory of the variables, until the next ``begin``."""
        self.begin(tf.zeros([self.optimizer.variable.shape[0], 0, 0, 3]))

    @property
    def bytes(self) -> int:
        """What its variables take."""
        return sum(
            int(tf.size(variable, tf.int64)) * variable.dtype.size
            for variable in self.optimizer.state
        )


class Engine:
    """A frozen network, the programs that optimise pictures on it, and known targets.

    Programs hold no target: they serve every picture. An engine may serve several
    loops with different weights.

    Attributes:
      features: The network.
      all_layers: A loss with the layers of all runs, for their targets.
      lock: Held by the run that uses the programs.
    """

    def __init__(self, options: Sequence[Options]):
        """Builds the network and reads its weights.

        Args:
          options: The options of the runs that it is to serve; they may differ in
            layers, weights and optimizer.

        Raises:
          UsageError: If a layer does not exist, or the weights do not fit.
        """
        self._options = tuple(options)
        self.lock = threading.RLock()
        self.features = feature_extractor(options)
        losses = [perceptual_loss(each, self.features) for each in options]
        self.all_layers = PerceptualLoss(
            self.features,
            content_layers={name: 1 for loss in losses for name in loss.content_layers},
            style_layers={name: 1 for loss in losses for name in loss.style_layers},
            style_loss=options[0].style_loss,
        )
        self._programs: OrderedDict[Hashable, Program] = OrderedDict()
        self._known: OrderedDict[Hashable, dict[str, tf.Tensor]] = OrderedDict()

    def serves(self, options: Options) -> bool:
        """Whether runs with these options can use this network and its targets."""
        if engine_key(options) != engine_key(self._options[0]):
            return False
        content, style = used_layers(options)
        loss = self.all_layers
        return set(content) <= set(loss.content_layers) and (
            set(style) <= set(loss.style_layers)
        )

    @property
    def traces(self) -> int:
        """How many graphs have been traced so far, over all programs that are kept."""
        return sum(
            loop.traces
            for program in self._programs.values()
            for loop in program.loops.values()
        )

    def program(
        self,
        batch: int,
        options: Options,
        steps: int,
        pairs: int,
        terms: int,
        room: float,
    ) -> Program:
        """The program for so many pictures, which is built if there is none yet.

        Args:
          batch: How many pictures are optimised at once.
          options: The options of the run.
          steps: Evaluations of the loss, which decide Adam's learning rates.
          pairs: Pairs of vectors that L-BFGS remembers; 0 for Adam.
          terms: The number of terms of the loss.
          room: Bytes that other programs may go on holding.

        Returns:
          The program; its variable and its optimizer are as the last run left them.
        """
        settings = _optimizer_settings(options)
        schedule = 0 if pairs else steps  # L-BFGS serves any number of steps
        key = (batch, schedule, pairs, terms, options.space, *settings)
        program = self._programs.pop(key, None)
        self._make_room(room)
        if program is None:
            nothing = tf.zeros([batch, 0, 0, 3])
            variable = tf.Variable(nothing, shape=[batch, None, None, 3])
            noise = _NOISE if self.features.dtype == "bfloat16" else 0.0
            program = Program(_optimizer(variable, steps, options, pairs, terms, noise))
        self._programs[key] = program
        return program

    @property
    def shares_content(self) -> bool:
        """Whether several runs have one content picture, whose features are kept."""
        return len(self._options) > 1

    def targets(
        self, key: Hashable, compute: Callable[[], dict[str, tf.Tensor]]
    ) -> dict[str, tf.Tensor]:
        """What is computed of what ``key`` stands for, kept for further runs."""
        if key not in self._known:
            self._known[key] = compute()
        self._known.move_to_end(key)
        while len(self._known) > 1 and self._known_bytes > _MOST_KEPT:
            self._known.popitem(last=False)
        return self._known[key]

    @property
    def _known_bytes(self) -> int:
        return sum(
            tensor.shape.num_elements() * tensor.dtype.size
            for found in self._known.values()
            for tensor in found.values()
        )

    def _make_room(self, room: float) -> None:
        """Forgets the programs that were used longest ago until the others fit."""
        held = sum(program.bytes for program in self._programs.values())
        while self._programs and held > room:
            _, program = self._programs.popitem(last=False)
            held -= program.bytes


def engine_key(options: Options) -> str:
    """What decides the network and its targets: runs that agree share an engine."""
    names = [field.name for field in dataclasses.fields(NetworkOptions)]
    return " ".join(to_text(getattr(options, name)) for name in (*names, "style_loss"))


def cut_objective(
    loss: PerceptualLoss, cut: Cut, canvas: Canvas, held: bool
) -> Objective:
    """A loss with its gradient by the values of a canvas, whole or tile by tile.

    Args:
      loss: The loss.
      cut: How pictures are cut.
      canvas: What is optimised.
      held: Whether the second part of the targets says which values do not move.

    Returns:
      An objective whose targets are a pair: ``Targets`` and, with ``held``, a bool
      tensor of the shape of the values; else nothing.
    """
    if cut.tiles == 1:
        objective = differentiated(
            lambda values, targets: loss(canvas.rgb(values), targets, tv_images=values)
        )
    else:
        tiled = TiledLoss(loss, keep_content=cut.keep_content)

        def objective(values, targets):  # type: ignore[no-untyped-def]
            return tiled.value_and_gradient(values, targets, cut.content, canvas.rgb)

    def with_held(
        values: tf.Tensor, targets: tuple[Targets, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, Mapping[str, tf.Tensor]]:
        total, gradient, terms = objective(values, targets[0])
        if held:
            gradient = tf.where(targets[1], tf.zeros_like(gradient), gradient)
        return total, gradient, terms

    return with_held


def _optimizer_settings(options: Options) -> tuple[Hashable, ...]:
    """The options that an optimizer has in its graph."""
    return (
        options.learning_rate,
        options.schedule,
        options.final_learning_rate,
        options.decay_step,
        options.beta_2,
        tuple(options.clamp),
        options.clamp_until,
        _from_noise(options),
    )


def _from_noise(options: Options) -> bool:
    return options.init in NOISE_STARTS


def _optimizer(
    variable: tf.Variable,
    steps: int,
    options: Options,
    pairs: int,
    terms: int,
    noise: float,
) -> Adam | LBFGS:
    clamp = (options.clamp[0], options.clamp[1]) if options.clamp else None
    if pairs:
        return LBFGS(
            variable,
            terms=terms,
            history=pairs,
            bounds=clamp,
            first_step=options.learning_rate,
            preconditioner=favor_chroma if _from_noise(options) else favor_strokes,
            noise=noise,
        )
    return Adam(
        variable,
        learning_rate=learning_rate_schedule(
            options.schedule,
            options.learning_rate,
            options.final_learning_rate,
            steps,
            options.decay_step,
        ),
        beta_2=options.beta_2,
        clamp=clamp,
        clamp_until=options.clamp_until,
    )
