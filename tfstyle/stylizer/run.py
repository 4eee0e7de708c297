"""Optimises a picture from coarse to fine."""

from __future__ import annotations

import dataclasses
import gc
import logging
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError, is_full_memory
from tfstyle.images import resize_image
from tfstyle.images.color import keep_colors
from tfstyle.images.masks import protected
from tfstyle.losses import PerceptualLoss
from tfstyle.optimizers.lbfgs import LBFGS
from tfstyle.optimizers.loop import (
    Adam,
    Callback,
    NonFiniteLossError,
    Progress,
    learning_rate_schedule,
    optimize,
)
from tfstyle.options import Options
from tfstyle.stylizer.checkpoint import Checkpoint, State, rows_of
from tfstyle.stylizer.objective import (
    Encoder,
    PlanObjective,
    favor_chroma,
    from_space,
    to_space,
    with_margin,
    without_margin,
)
from tfstyle.stylizer.pictures import Plan

SCALE_FACTOR = 2
_LARGE = 3 * 1024**2
"""Numbers in a picture: optimizers of larger ones are worth a fifth of a second."""


@dataclasses.dataclass
class Result:
    """What a run came to.

    Attributes:
      image: The picture or pictures, float32 ``[N, H, W, 3]``, RGB in [0, 1];
        read-only, as a tensor is.
      history: Columns ``step``, ``scale``, ``total`` and one per term; a row per
        recorded step.
      seconds: How long the run took.
      stopped: Whether a callback ended it early.
    """

    image: np.ndarray
    history: dict[str, list[float]]
    seconds: float
    stopped: bool = False


class BrokenRunError(NonFiniteLossError):
    """A run that ended in a loss that is not finite.

    Attributes:
      result: The run to its last good picture.
    """

    def __init__(self, cause: NonFiniteLossError, steps_before: int, result: Result):
        super().__init__(steps_before + cause.step, cause.term)
        self.result = result


def scale_sizes(
    size: tuple[int, int], scales: int, min_scale_size: int
) -> list[tuple[int, int]]:
    """Heights and widths of the scales, coarse to fine; each doubles the one before.

    Args:
      size: Height and width of the result.
      scales: How many scales; 0 for as many as ``min_scale_size`` allows.
      min_scale_size: The least longest side of a scale, where ``scales`` is 0.

    Returns:
      At least one size, ``size`` itself being the last.
    """
    sizes = [size]
    while len(sizes) < scales or not scales:
        factor = SCALE_FACTOR ** len(sizes)
        height, width = round(size[0] / factor), round(size[1] / factor)
        if not scales and max(height, width) < min_scale_size:
            break
        sizes.insert(0, (max(height, 1), max(width, 1)))
    return sizes


def start_noise(shape: tuple[int, ...], init: str, options: Options) -> np.ndarray:
    """A picture of noise around mid-grey, uniform or normal, in [0, 1]."""
    rng = np.random.default_rng(options.seed)
    if init == "noise":
        noise = rng.uniform(-0.5, 0.5, shape)
    else:
        noise = rng.normal(0.0, 0.25, shape)
    return np.clip(0.5 + options.noise * noise, 0.0, 1.0).astype("float32")


class PyramidRun:
    """One run over all scales: what it needs, and what it has reported so far."""

    def __init__(
        self,
        plan: Plan,
        callbacks: Sequence[Callback],
        checkpoint: Checkpoint | None = None,
        encoder: Encoder | None = None,
    ):
        """Builds the loss.

        Args:
          plan: Pictures and options.
          callbacks: Are told of progress.
          checkpoint: Where the run goes on from, and keeps its state.
          encoder: Of runs with the same pictures; a new one if None.
        """
        self.checkpoint = checkpoint
        self.resumed = checkpoint.load() if checkpoint else None
        self.plan, self.options, self.callbacks = plan, plan.options, callbacks
        self.objective = PlanObjective(plan, encoder or Encoder([plan.options]))
        self.sizes = self._scale_sizes()
        self.steps = plan.options.steps_per_scale(len(self.sizes))
        columns = ("step", "scale", "total", *self.objective.loss.term_names)
        self.history: dict[str, list[float]] = {column: [] for column in columns}
        self.began = time.monotonic()
        if self.resumed:
            rows = self.resumed.rows.reshape(-1, len(columns)).T.tolist()
            self.history = dict(zip(columns, rows, strict=True))
            self.began -= self.resumed.seconds
        self.stopped = False
        self.current = self.objective  # or, where a scale goes on in it, the exact one

    def run(self) -> Result:
        """Optimises every scale, each starting from what the one before has made."""
        first = self.resumed.scale if self.resumed else 0
        picture = self._first_picture(self.sizes[0])
        for scale in range(first, len(self.sizes)):
            if scale > first:
                picture = self._enlarged(picture, scale)
            variable = self._variable(picture, scale)
            del picture  # large pictures are not kept twice
            try:
                self._optimize_scale(variable, scale)
            except NonFiniteLossError as error:
                steps_before = sum(self.steps[:scale])
                result = self._result(self._picture(variable))
                raise BrokenRunError(error, steps_before, result) from error
            _free_graphs(variable)
            picture = self._picture(variable)
            if self.stopped:
                break
        return self._result(picture)

    def _variable(self, picture: np.ndarray, scale: int) -> tf.Variable:
        """What is optimised at a scale, from a picture or where the run was."""
        if self.resumed and self.resumed.scale == scale:
            return tf.Variable(self.resumed.variables[0])
        canvas = with_margin(self._protected(picture), self.options.margin)
        return tf.Variable(to_space(canvas, self.options.space))

    def _scale_sizes(self) -> list[tuple[int, int]]:
        """The scales, without those that would be too small for the network."""
        options = self.options
        sizes = scale_sizes(self.plan.size, options.scales, options.min_scale_size)
        while len(sizes) > 1 and not options.scales:
            try:
                self.objective.check_size(sizes[0])
                break
            except UsageError:
                sizes.pop(0)
        self.objective.check_size(sizes[0])
        return sizes

    def _first_picture(self, size: tuple[int, int]) -> np.ndarray:
        start, content = self.plan.start, self.plan.content
        if isinstance(start, str):
            batch = 1 if content is None else len(content)
            return start_noise((batch, *size, 3), start, self.options)
        return resize_image(start, size)

    def _enlarged(self, picture: np.ndarray, scale: int) -> np.ndarray:
        """The coarser scale's result, enlarged, with the start's own fine detail."""
        size, coarser = self.sizes[scale], self.sizes[scale - 1]
        if isinstance(self.plan.start, str):
            return resize_image(picture, size)
        # Enlarging makes no fine detail; the first picture has some at no cost.
        # In place, one after another: a large picture is as large as anything here.
        enlarged = resize_image(picture, size)
        enlarged += resize_image(self.plan.start, size)
        enlarged -= resize_image(resize_image(self.plan.start, coarser), size)
        return np.clip(enlarged, 0.0, 1.0, out=enlarged)

    def _protected(self, picture: np.ndarray) -> np.ndarray:
        """A picture with the original in its protected part."""
        protect, original = self.plan.protect, self.plan.original
        if protect is None or original is None:
            return picture
        kept = resize_image(protect, picture.shape[1:3])
        original = resize_image(original, picture.shape[1:3])
        return protected(picture, original, kept)

    def _finished(self, picture: np.ndarray) -> np.ndarray:
        """A picture as it is shown: with its final colours and what is protected."""
        original, options = self.plan.original, self.options
        if options.color == "content" and original is not None:
            colored = resize_image(original, picture.shape[1:3])
            picture = keep_colors(picture, colored, options.color_strength)
        return self._protected(picture)

    def _optimize_scale(self, variable: tf.Variable, scale: int) -> None:
        shapes = self._shapes(variable, scale)
        pairs = self.objective.planner.pairs(*shapes)
        loss, steps = self.objective.loss, self.steps[scale]
        optimizer = make_optimizer(variable, steps, loss, self.options, pairs)
        self.current = self.objective
        if self._restored(optimizer, scale):
            return
        converged = self._minimize(optimizer, scale, pairs)
        rounded = self.current.encoder.rounded
        if converged and rounded and isinstance(optimizer, LBFGS):
            self._go_on_exactly(optimizer, scale, pairs)
        self._save(optimizer, scale, finished=not self.stopped)

    def _shapes(
        self, variable: tf.Variable, scale: int
    ) -> tuple[tuple[int, int], list[tuple[int, int]], int]:
        """What a planner wants to know of a scale."""
        batch, height, width, _ = variable.shape
        return (height, width), self.objective.style_sizes(self.sizes[scale]), batch

    def _minimize(self, optimizer: Adam | LBFGS, scale: int, pairs: int) -> bool:
        """Takes the steps of a scale that are left; returns whether it converged."""
        objective, shapes = self.current, self._shapes(optimizer.variable, scale)
        if isinstance(optimizer, LBFGS):
            optimizer.restarts = not objective.encoder.rounded
        while True:
            cut = objective.planner.cut(*shapes, pairs)
            try:
                return optimize(
                    objective.at(self.sizes[scale], cut),
                    optimizer,
                    steps=self.steps[scale],
                    term_names=objective.loss.term_names,
                    report=lambda rows, at: self._report(rows, at, scale, optimizer),
                )
            except tf.errors.OpError as error:
                if not is_full_memory(error):
                    raise
                objective.planner.shrink(cut, shapes[-1])

    def _go_on_exactly(self, optimizer: LBFGS, scale: int, pairs: int) -> None:
        """Takes the steps that are left in float32, where that fits."""
        self.current = self.objective.exact
        optimizer.renew()
        self._save(optimizer, scale, finished=False)
        _free_graphs(optimizer.variable)
        try:
            if not self.stopped:
                self._minimize(optimizer, scale, pairs)
        except UsageError as error:
            logging.getLogger("tfstyle").warning(
                "a scale ends early, in bfloat16: %s", error
            )

    def _restored(self, optimizer: Adam | LBFGS, scale: int) -> bool:
        """Puts a resumed optimizer where it was; returns whether it has finished."""
        state, self.resumed = self.resumed, None
        if state is None or state.scale != scale:
            return False
        shapes = [tuple(variable.shape) for variable in optimizer.state]
        if shapes != [value.shape for value in state.variables]:
            raise UsageError(
                "the checkpoint was made with more or less memory, which decides how "
                "much the optimizer remembers; give the same max_memory, or choose "
                "another folder"
            )
        for variable, value in zip(optimizer.state, state.variables, strict=True):
            variable.assign(value)
        if state.exact and not state.finished:
            self.current = self.objective.exact
        return state.finished

    def _save(self, optimizer: Adam | LBFGS, scale: int, finished: bool) -> None:
        if self.checkpoint:
            state = State(
                scale=scale,
                finished=finished,
                exact=self.current is not self.objective,
                seconds=time.monotonic() - self.began,
                rows=rows_of(self.history),
                variables=[_view(variable.value()) for variable in optimizer.state],
            )
            self.checkpoint.save(state)

    def _report(
        self,
        rows: np.ndarray,
        steps: np.ndarray,
        scale: int,
        optimizer: Adam | LBFGS,
    ) -> bool:
        steps = steps + sum(self.steps[:scale])
        self.history["step"] += steps.tolist()
        self.history["scale"] += [scale] * len(rows)
        columns = list(self.history)[2:]
        for column, values in zip(columns, rows.T, strict=True):
            self.history[column] += values.tolist()
        progress = Progress(
            step=int(steps[-1]),
            steps=sum(self.steps),
            scale=scale,
            scales=len(self.sizes),
            columns=tuple(columns),
            rows=rows,
            row_steps=steps,
            seconds=time.monotonic() - self.began,
            size=self.sizes[scale],
            image=lambda: self._finished(self._picture(optimizer.variable)),
        )
        answers = [callback(progress) for callback in self.callbacks]
        self.stopped = any(answers)
        if self.checkpoint and self.checkpoint.due:
            self._save(optimizer, scale, finished=False)
        return self.stopped

    def _picture(self, variable: tf.Variable) -> np.ndarray:
        canvas = from_space(variable.value(), self.options.space)
        view = _view(tf.clip_by_value(canvas, 0.0, 1.0))
        return without_margin(view, self.options.margin)

    def _result(self, picture: np.ndarray) -> Result:
        if picture.shape[1:3] != self.plan.size:
            picture = resize_image(picture, self.plan.size)
        seconds = time.monotonic() - self.began
        return Result(self._finished(picture), self.history, seconds, self.stopped)


def _free_graphs(variable: tf.Variable) -> None:
    """Frees what held the state of optimizers of a large picture.

    Graphs are in cycles of references, and the state has several times its size.
    """
    if variable.shape.num_elements() >= _LARGE:
        gc.collect()


def _view(tensor: tf.Tensor) -> np.ndarray:
    """A tensor's own memory, read-only, where ``numpy()`` takes as much again."""
    return np.asarray(memoryview(tensor))


def make_optimizer(
    variable: tf.Variable,
    steps: int,
    loss: PerceptualLoss,
    options: Options,
    pairs: int,
) -> Adam | LBFGS:
    """The optimizer of one scale: L-BFGS that remembers ``pairs``, or Adam if 0."""
    clamp = (options.clamp[0], options.clamp[1]) if options.clamp else None
    if pairs:
        return LBFGS(
            variable,
            terms=len(loss.term_names),
            history=pairs,
            bounds=clamp,
            first_step=options.learning_rate,
            preconditioner=favor_chroma,
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
