"""Trains the feed-forward network with the losses that pictures are optimised with.

One loop serves one device, several (``MirroredStrategy``) and several machines
(``MultiWorkerMirroredStrategy``): a step is a ``tf.function`` run by the strategy.
Everything that a step depends on is in the checkpoint or is a function of the step's
number, so that a run that was killed goes on with the same losses.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import time
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.backbones.precision import dtype_policy
from tfstyle.errors import TfstyleError, UsageError, one_line
from tfstyle.images.folder import picture_files
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.style_net import StyleNet, save_network
from tfstyle.networks.training_data import (
    Photos,
    batches,
    none_readable,
    sample_photo,
)
from tfstyle.networks.training_folder import TrainingFolder, read_history
from tfstyle.networks.training_subjects import subject_of
from tfstyle.optimizers.loop import SECONDS_BETWEEN_REPORTS, check_finite
from tfstyle.optimizers.progress import Callback, Progress, checked_callbacks
from tfstyle.options import TrainingOptions, fields_of
from tfstyle.options.fields import check_names
from tfstyle.raw_tensorflow import deterministic_ops


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """A network and how it was trained.

    Attributes:
      network: The network, with the running means of its weights.
      history: Columns ``step``, ``scale`` (always 0), ``total`` and one per term of the
        loss; a row per step, those of earlier sessions included.
      seconds: How long this session took.
      stopped: Whether a callback ended it before the last step.
      unreadable: Photographs and paintings that were skipped, with the reason.
    """

    network: StyleNet | AnyStyleNet
    history: dict[str, list[float]]
    seconds: float
    stopped: bool
    unreadable: Mapping[pathlib.Path, str]


def train(
    photos: str | os.PathLike[str],
    styles: Mapping[str, Any] | str | os.PathLike[str] | Sequence[Any],
    output: str | os.PathLike[str],
    *,
    start: Any = None,
    test_photo: Any = None,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> TrainingResult:
    """Trains a network to give pictures one of several styles, or any style.

    With styles by name, a ``StyleNet`` (Johnson et al. 2016); with a folder of
    paintings, an ``AnyStyleNet``.

    A run that was interrupted goes on from its last checkpoint when it is started again
    with the same options, and ends with the same weights. With ``jit_compile``, these
    may differ by rounding.

    Args:
      photos: Folder of photographs, searched to any depth.
      styles: Style pictures (see ``load_image``) by name; or a folder of paintings,
        searched to any depth, or a list of their paths.
      start: The network to begin with, as ``load_network`` reads it. None for random
        weights; with a folder or a list, for the ``AnyStyleNet`` of the package.
      output: Folder of the run. It gets ``model.keras`` (see ``StyleNet.from_preset``),
        ``checkpoint/``, ``history.csv`` and ``training.json``.
      test_photo: The picture that callbacks are shown in each style; None for the first
        of ``photos``, which is then not trained on.
      strategy: Distributes the steps; None for the first device.
      callbacks: Called with a ``Progress`` about four times a second, and at each of
        ``sample_steps``. Its ``image()`` has one picture for each style. A callback
        that returns True ends the run.
      **options: The fields of ``tfstyle.TrainingOptions``.

    Returns:
      The network and the history of the loss.

    Raises:
      UsageError: If an option or a picture cannot be used, or the folder has a run of
        other options; the message says which.
      NonFiniteLossError: If the loss became NaN or infinite; the last checkpoint is
        good.
      TfstyleError: If a checkpoint cannot be written.
    """
    check_names(options, [field.name for field in fields_of(TrainingOptions)], "train")
    chosen, callbacks = TrainingOptions(**options), checked_callbacks(callbacks)
    strategy = strategy or tf.distribute.get_strategy()
    # XLA has no deterministic gradient of max pooling.
    exact = contextlib.nullcontext() if chosen.jit_compile else deterministic_ops()
    with exact:
        training = _Training(
            photos, styles, output, start, test_photo, strategy, chosen
        )
        return training.run(callbacks)


def is_chief(strategy: tf.distribute.Strategy | None) -> bool:
    """Whether this process writes the files of a run.

    Returns:
      False for all but one of several workers.
    """
    resolver = strategy.cluster_resolver if strategy else None
    if resolver is None or not resolver.task_type:
        return True
    if resolver.task_type == "worker":
        return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    return resolver.task_type == "chief"


class _Training:
    """One run; see ``train``."""

    def __init__(
        self,
        photos: str | os.PathLike[str],
        styles: Any,
        output: str | os.PathLike[str],
        start: Any,
        test_photo: Any,
        strategy: tf.distribute.Strategy,
        options: TrainingOptions,
    ):
        self.options, self.strategy = options, strategy
        warn = logging.getLogger("tfstyle").warning
        self.subject = subject_of(styles, start, options, warn)
        self.test_photo, files = sample_photo(picture_files(photos), test_photo)
        self.folder = TrainingFolder(output, is_chief(strategy))
        self.folder.check(self._settings(len(files)))
        self.photos = Photos(files, options.size, options.seed, warn)
        self.sources = (self.photos, *self.subject.sources)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        with strategy.scope():
            self._build()

    def _settings(self, photos: int) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        options = dataclasses.asdict(self.options)
        for later in ("steps", "sample_steps", "checkpoint_every", "jit_compile"):
            del options[later]
        names = {**self.subject.settings, "photos": photos}
        return json.loads(json.dumps({**names, **options}, default=str))

    def _build(self) -> None:
        policy = dtype_policy(self.options.precision)
        self.network = self.subject.network(policy)
        self.averaged = self.subject.network()
        self.optimizer = keras.optimizers.Adam(_learning_rate(self.options))
        self.optimizer.build(self.network.trainable_variables)
        self.training_loss = self.subject.loss

    def run(self, callbacks: Sequence[Callback]) -> TrainingResult:
        """Trains from the last checkpoint, if there is one, to the last step."""
        manager = self._checkpoints()
        self.folder.open_history(self._columns(), int(self.step))
        began, stopped = time.monotonic(), False
        try:
            for rows, row_steps in self._reported():
                check_finite(row_steps, rows, self.training_loss.loss.term_names)
                self.folder.add_history(row_steps, rows)
                progress = self._progress(rows, row_steps, began)
                answers = [callback(progress) for callback in callbacks]
                stopped = any(answers)
                if self._due(progress.step) or stopped:
                    self._save(manager)
                if stopped:
                    break
        except tf.errors.OpError as error:
            for source in self.sources:
                if len(source.unreadable) == len(source.files):
                    raise none_readable(source.files, source.kind) from error
            raise
        finally:
            self.folder.close()
        return TrainingResult(
            self.averaged,
            read_history(self.folder.path),
            time.monotonic() - began,
            stopped,
            ChainMap(*(source.unreadable for source in self.sources)),
        )

    def _columns(self) -> tuple[str, ...]:
        return ("step", "scale", "total", *self.training_loss.loss.term_names)

    def _checkpoints(self) -> tf.train.CheckpointManager:
        """The checkpoints of the run, after the last one is restored."""
        state = tf.train.Checkpoint(
            step=self.step,
            network=_variables(self.network),
            averaged=_variables(self.averaged),
            optimizer=_variables(self.optimizer),
        )
        manager = tf.train.CheckpointManager(state, self.folder.checkpoints, 2)
        last = tf.train.latest_checkpoint(str(self.folder.path / "checkpoint"))
        if last:
            try:
                state.restore(last).assert_consumed()
            except (ValueError, AssertionError, tf.errors.OpError) as error:
                raise UsageError(
                    f"{last}: not a checkpoint of such a network ({one_line(error)}); "
                    "give another --output"
                ) from error
        self.saved_step = int(self.step)
        return manager

    def _save(self, manager: tf.train.CheckpointManager) -> None:
        step = int(self.step)
        if step == self.saved_step:
            return
        try:
            self.folder.sync()
            manager.save(checkpoint_number=step)
            self.saved_step = step
        except (OSError, tf.errors.OpError) as error:
            raise TfstyleError(
                f"{self.folder.path}: the checkpoint of step {step} could not be "
                f"written ({one_line(error)}); an earlier one is kept"
            ) from error
        if is_chief(self.strategy):
            save_network(self.averaged, self.folder.path / "model.keras")

    def _due(self, step: int) -> bool:
        return step % self.options.checkpoint_every == 0 or step == self.options.steps

    def _progress(
        self, rows: np.ndarray, row_steps: np.ndarray, began: float
    ) -> Progress:
        return Progress(
            step=int(row_steps[-1]),
            steps=self.options.steps,
            scale=0,
            scales=1,
            columns=self._columns()[2:],
            rows=rows,
            row_steps=row_steps,
            seconds=time.monotonic() - began,
            size=(self.options.size, self.options.size),
            image=self._samples,
        )

    def _samples(self) -> np.ndarray:
        """The test photograph in several styles, ``[styles, H, W, 3]``."""
        return self.subject.samples(self.averaged, self.test_photo)

    def _reported(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Trains, and yields the losses since the last report with their steps."""
        step, reported = int(self.step), time.monotonic()
        data = iter(self._dataset() if step < self.options.steps else ())
        rows: list[tf.Tensor] = []
        while step < self.options.steps:
            rows.append(self._train_step(next(data)))
            step += 1
            late = time.monotonic() - reported > SECONDS_BETWEEN_REPORTS
            if late or self._due(step) or step in self.options.sample_steps:
                values = np.stack([row.numpy() for row in rows])
                yield values, np.arange(step - len(rows), step) + 1
                rows, reported = [], time.monotonic()

    def _dataset(self) -> tf.distribute.DistributedDataset:
        """Batches from the current step on."""
        subject, done = self.subject, int(self.step)
        return self.strategy.distribute_datasets_from_function(
            lambda context: batches(
                self.photos,
                subject.example,
                subject.style,
                self.options,
                done,
                context,
            )
        )

    @tf.function(autograph=False)
    def _train_step(self, batch: Any) -> tf.Tensor:
        """One step on all devices; the total and the terms, means over the batch."""
        rows = self.strategy.run(self._replica_step, args=batch)
        self.step.assign_add(1)
        self._update_averages()
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, rows, axis=None)

    def _replica_step(
        self, photos: tf.Tensor, contents: tf.Tensor, styles: tf.Tensor
    ) -> tf.Tensor:
        total, terms, gradients = self.training_loss.gradients(
            self.network, photos, contents, styles
        )
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return tf.stack([total, *terms.values()])

    def _update_averages(self) -> None:
        """Updates the running means of the weights.

        Keras's optimizers have a mean of one decay, in which the random first weights
        of a short run count for long. Here the decay rises with the number of steps.
        """
        decay = tf.constant(0.0)
        if self.options.ema:
            steps = tf.cast(self.step, tf.float32)
            decay = tf.minimum(self.options.ema, (1 + steps) / (10 + steps))
        for mean, variable in zip(
            _variables(self.averaged), _variables(self.network), strict=True
        ):
            self.strategy.extended.update(
                mean,
                lambda m, v: m.assign(v + decay * (m - v)),
                args=(variable,),
            )


def _learning_rate(options: TrainingOptions) -> keras.optimizers.schedules.CosineDecay:
    warmup = options.warmup_steps
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else options.learning_rate,
        max(options.steps - warmup, 1),
        options.final_learning_rate / options.learning_rate,
        warmup_target=options.learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _variables(owner: Any) -> list[tf.Variable]:
    """TensorFlow's variables behind those of a Keras model or optimizer."""
    return [variable.value for variable in owner.variables]
