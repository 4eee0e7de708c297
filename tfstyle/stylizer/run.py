"""A run: optimises pictures from coarse to fine."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfstyle.errors import NonFiniteLossError, UsageError
from tfstyle.images import resize_image
from tfstyle.images.color import keep_colors
from tfstyle.images.masks import protected
from tfstyle.optimizers.progress import Callback, Progress
from tfstyle.options import Options
from tfstyle.raw_tensorflow import deterministic_ops, read_only_view
from tfstyle.stylizer.checkpoint import Checkpoint, State
from tfstyle.stylizer.engine import LARGE, Engine, Program
from tfstyle.stylizer.pictures import Pictures, in_style_colors
from tfstyle.stylizer.problem import NO_NEIGHBORS, Problem
from tfstyle.stylizer.result import Result
from tfstyle.stylizer.scales import enlarged, first_picture, scale_sizes


class Run:
    """One run over all scales, for one call of ``finish``.

    Attributes:
      options: The options of the run.
      pictures: The pictures of the run.
      problem: What it minimises.
      sizes: Height and width of each scale, coarse to fine.
    """

    def __init__(
        self,
        engine: Engine,
        options: Options,
        pictures: Pictures,
        callbacks: Sequence[Callback] = (),
        checkpoint: Checkpoint | None = None,
        temporal_weight: float = 0.0,
    ):
        """Plans the scales.

        Args:
          engine: The network and the graphs.
          options: The options of the run.
          pictures: The pictures of the run.
          callbacks: Receive the progress; one that returns True ends the run.
          checkpoint: Where the run goes on from, and keeps its state.
          temporal_weight: Weight of the distance to ``pictures.warped``.

        Raises:
          UsageError: If the pictures are too small for the network, or the checkpoint
            is of another run.
          TfstyleError: If the checkpoint is damaged.
        """
        self._resumed = checkpoint.load() if checkpoint else None
        self._engine, self.options, self.pictures = engine, options, pictures
        self._callbacks, self._checkpoint = callbacks, checkpoint
        self.problem = Problem(engine, options, pictures, temporal_weight)
        self.sizes = self._scale_sizes()
        self._steps = options.steps_per_scale(len(self.sizes))
        columns = ("step", "scale", "total", *self.problem.loss.term_names)
        self._history: dict[str, list[float]] = {column: [] for column in columns}
        self._began = time.monotonic()
        self._stopped = False
        self._neighbors = NO_NEIGHBORS  # of the current scale
        if self._resumed:
            rows = self._resumed.rows.reshape(-1, len(columns)).T.tolist()
            self._history = dict(zip(columns, rows, strict=True))
            self._began -= self._resumed.seconds

    def finish(self) -> Result:
        """Optimises every scale that is left, each from the result of the one before.

        Returns:
          The pictures and the history of the loss.

        Raises:
          NonFiniteLossError: If the loss became NaN or infinite; ``error.result`` has
            the last good picture.
          UsageError: If a scale does not fit in memory.
        """
        with self._engine.lock, deterministic_ops():
            return self._result(self._all_scales())

    def _all_scales(self) -> np.ndarray:
        first, end = self._resumed.scale if self._resumed else 0, self.options.stop_at
        picture = first_picture(self.pictures, self.sizes[0], self.options)
        for scale in range(first, len(self.sizes)):
            if scale > first:
                picture = enlarged(picture, self.pictures.start, self.sizes[scale])
            picture = self._scale(picture, scale)
            if self._is_large(scale):
                gc.collect()  # graphs, and what they hold, are in cycles of references
            if self._stopped or (end and end <= sum(self._steps[: scale + 1])):
                break
        return picture

    def _scale(self, picture: np.ndarray, scale: int) -> np.ndarray:
        """Optimises a picture at one scale."""
        program = self._program(scale)
        finished = self._begin(program, picture, scale)
        del picture  # large pictures are not kept twice
        try:
            if not finished:
                self._optimize(program, scale)
        except NonFiniteLossError as error:
            step = sum(self._steps[:scale]) + error.step
            result = self._result(self._picture(program))
            raise NonFiniteLossError(step, error.term, result) from error
        picture = self._picture(program)
        if self._is_large(scale):
            program.free()
        return picture

    def _scale_sizes(self) -> list[tuple[int, int]]:
        """The scales, without those that would be too small for the network."""
        sizes = scale_sizes(self.pictures.size, self.options.scales)
        while len(sizes) > 1 and not self.options.scales:
            try:
                self.problem.check_size(sizes[0])
                break
            except UsageError:
                sizes.pop(0)
        self.problem.check_size(sizes[0])
        return sizes

    def _program(self, scale: int) -> Program:
        problem, size = self.problem, self.sizes[scale]
        return self._engine.program(
            self.pictures.batch,
            self.options,
            self._steps[scale],
            problem.pairs(size),
            len(problem.loss.term_names),
            problem.spare(size),
        )

    def _begin(self, program: Program, picture: np.ndarray, scale: int) -> bool:
        """Sets a program up for a scale; returns whether that has been finished."""
        state, self._resumed = self._resumed, None
        if state is None or state.scale != scale:
            program.begin(self.problem.canvas.values(self._with_protected(picture)))
            self._neighbors = self.problem.find_neighbors(
                self.sizes[scale], picture if scale else None
            )
            return False
        height, width = self.problem.canvas.size(self.sizes[scale])
        program.begin(tf.zeros([self.pictures.batch, height, width, 3]))
        variables = program.optimizer.state
        shapes = [tuple(variable.value().shape) for variable in variables]
        if shapes != [value.shape for value in state.variables]:
            raise UsageError(
                "the checkpoint was made with more or less memory, which decides how "
                "much the optimizer remembers; give the same max_memory, or choose "
                "another folder"
            )
        for variable, value in zip(variables, state.variables, strict=True):
            variable.assign(value)
        self._neighbors = state.neighbors
        return state.finished

    def _optimize(self, program: Program, scale: int) -> None:
        """Takes the steps of a scale that are left."""
        end = self.options.stop_at
        self.problem.minimize(
            program,
            self.sizes[scale],
            self._steps[scale],
            self._neighbors,
            lambda rows, steps: self._report(program, scale, rows, steps),
            stop_at=end - sum(self._steps[:scale]) if end else None,
        )
        self._save(program, scale, finished=not self._stopped)

    def _report(
        self, program: Program, scale: int, rows: np.ndarray, steps: np.ndarray
    ) -> bool:
        steps = steps + sum(self._steps[:scale])
        self._history["step"] += steps.tolist()
        self._history["scale"] += [scale] * len(rows)
        columns = list(self._history)[2:]
        for column, values in zip(columns, rows.T, strict=True):
            self._history[column] += values.tolist()
        progress = Progress(
            step=int(steps[-1]),
            steps=min(sum(self._steps), self.options.stop_at or sum(self._steps)),
            scale=scale,
            scales=len(self.sizes),
            columns=tuple(columns),
            rows=rows,
            row_steps=steps,
            seconds=time.monotonic() - self._began,
            size=self.sizes[scale],
            image=lambda: self._shown(self._picture(program)),
        )
        answers = [callback(progress) for callback in self._callbacks]
        self._stopped = any(answers)
        if self._checkpoint and self._checkpoint.due:
            self._save(program, scale, finished=False)
        return self._stopped

    def _save(self, program: Program, scale: int, finished: bool) -> None:
        if not self._checkpoint:
            return
        variables = program.optimizer.state
        self._checkpoint.save(
            State(
                scale=scale,
                finished=finished,
                seconds=time.monotonic() - self._began,
                rows=np.array(list(self._history.values()), "float64").T,
                variables=[read_only_view(v.value()) for v in variables],
                neighbors=self._neighbors,
            )
        )

    def _picture(self, program: Program) -> np.ndarray:
        return self.problem.canvas.picture(program.optimizer.variable.value())

    def _with_protected(self, picture: np.ndarray) -> np.ndarray:
        """A picture with the original in its protected part."""
        protect, original = self.pictures.protect, self.pictures.original
        if protect is None or original is None:
            return picture
        size = picture.shape[1:3]
        return protected(
            picture, resize_image(original, size), resize_image(protect, size)
        )

    def _shown(self, picture: np.ndarray) -> np.ndarray:
        """A picture with its final colours and what is protected."""
        original, options = self.pictures.original, self.options
        if options.color == "style" and self.problem.loss.finds_neighbors:
            # Angles between features say little about colours.
            picture = np.stack(
                [
                    in_style_colors(each, self.pictures, options.color_strength)
                    for each in picture
                ]
            )
        if options.color == "content" and original is not None:
            colored = resize_image(original, picture.shape[1:3])
            picture = keep_colors(picture, colored, options.color_strength)
        return self._with_protected(picture)

    def _result(self, picture: np.ndarray) -> Result:
        if picture.shape[1:3] != self.pictures.size:
            picture = resize_image(picture, self.pictures.size)
        seconds = time.monotonic() - self._began
        facts = (self._history, seconds, self._stopped, self.pictures.files)
        return Result(self._shown(picture), *facts)

    def _is_large(self, scale: int) -> bool:
        """Whether the optimizer of a scale is freed after it."""
        return math.prod(self.problem.canvas.size(self.sizes[scale])) >= LARGE
