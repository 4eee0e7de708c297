"""Trains the feed-forward network with the losses that pictures are optimised with.

One loop serves one device, several (``MirroredStrategy``) and several machines
(``MultiWorkerMirroredStrategy``): a step is a ``tf.function`` run by the strategy.
Everything that a step depends on is in the checkpoint or is a function of the step's
number, so that a run that was killed goes on with the same losses.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfstyle.backbones.precision import dtype_policy
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.files import replaced
from tfstyle.images import load_image, save_image
from tfstyle.images.color import match_colors
from tfstyle.images.folder import picture_files
from tfstyle.images.sheet import contact_sheet
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.networks.apply import apply_network
from tfstyle.networks.photos import Photos
from tfstyle.networks.style_net import StyleNet, save_network
from tfstyle.optimizers.loop import SECONDS_BETWEEN_REPORTS, check_finite
from tfstyle.optimizers.progress import Callback, Progress
from tfstyle.options import TrainingOptions
from tfstyle.options.identity import check_same

SAMPLE_SIZE = 384


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    """What a training has come to.

    Attributes:
      network: With the running means of the weights.
      history: ``step``, ``scale`` (always 0), ``total`` and every term.
      seconds: Of this session.
      stopped: Whether a callback ended it before the last step.
      unreadable: Photographs that were skipped, with the reason.
    """

    network: StyleNet
    history: dict[str, list[float]]
    seconds: float
    stopped: bool
    unreadable: Mapping[pathlib.Path, str]


def train(
    photos: str | os.PathLike[str],
    styles: Mapping[str, Any],
    output: str | os.PathLike[str],
    *,
    test_photo: Any = None,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Any,
) -> TrainingResult:
    """Trains one network to give pictures one of several styles (Johnson et al. 2016).

    A run that was interrupted goes on from its last checkpoint when it is started again
    with the same options.

    Args:
      photos: Folder of photographs.
      styles: Style pictures (see ``load_image``) by name.
      output: Folder of the run. It gets ``model.keras`` (see ``load_network``),
        ``checkpoint/``, ``history.csv``, ``progress.png`` and ``training.json``.
      test_photo: A picture to show the progress with; None for the first of
        ``photos``, which is then not trained on.
      strategy: Distributes the steps; None for the first device.
      callbacks: Called with a ``Progress`` about four times a second; one that returns
        True ends the run.
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
    chosen = TrainingOptions(**options)
    strategy = strategy or tf.distribute.get_strategy()
    return _Training(photos, styles, output, test_photo, strategy, chosen).run(
        callbacks
    )


class _Training:
    """One run; see ``train``."""

    def __init__(
        self,
        photos: str | os.PathLike[str],
        styles: Mapping[str, Any],
        output: str | os.PathLike[str],
        test_photo: Any,
        strategy: tf.distribute.Strategy,
        options: TrainingOptions,
    ):
        if not styles:
            raise UsageError("no style picture: give at least one")
        self.options, self.strategy = options, strategy
        files = picture_files(photos)
        if test_photo is not None:
            self.test_photo = load_image(test_photo, SAMPLE_SIZE)
        else:
            self.test_photo, files = _held_out(files)
        self.styles = {
            name: load_image(picture, options.style_size)
            for name, picture in styles.items()
        }
        self.folder = _Folder(output, self._is_chief())
        self.folder.check(self._description(len(files)))
        warn = logging.getLogger("tfstyle").warning
        self.photos = Photos(files, options.size, options.seed, warn)
        self.step = tf.Variable(0, dtype=tf.int64, trainable=False)
        with strategy.scope():
            self._build()

    def _is_chief(self) -> bool:
        resolver = self.strategy.cluster_resolver
        if resolver is None or not resolver.task_type:
            return True
        return (resolver.task_type, resolver.task_id) in (("worker", 0), ("chief", 0))

    def _description(self, photos: int) -> dict[str, Any]:
        """What must be the same for a run to go on."""
        options = dataclasses.asdict(self.options)
        for later in ("steps", "sample_steps", "checkpoint_every", "jit_compile"):
            del options[later]
        names = {"styles": list(self.styles), "photos": photos}
        return json.loads(json.dumps({**names, **options}, default=str))

    def _build(self) -> None:
        options = self.options
        keras.utils.set_random_seed(options.seed)
        shape = list(self.styles), options.width, options.blocks
        policy = dtype_policy(options.precision)
        self.network = StyleNet(*shape, dtype=policy)
        self.averaged = StyleNet(*shape)
        self.averaged.set_weights(self.network.get_weights())
        self.optimizer = keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                0.0 if options.warmup_steps else options.learning_rate,
                max(options.steps - options.warmup_steps, 1),
                options.final_learning_rate / options.learning_rate,
                warmup_target=options.learning_rate if options.warmup_steps else None,
                warmup_steps=options.warmup_steps,
            )
        )
        self.optimizer.build(self.network.trainable_variables)
        self.loss = perceptual_loss(options)
        styles = [self.loss.style_grams(s) for s in self.styles.values()]
        self.grams = {
            layer: tf.concat([style[layer] for style in styles], 0)
            for layer in styles[0]
        }

    def run(self, callbacks: Sequence[Callback]) -> TrainingResult:
        """Trains from the last checkpoint, if there is one, to the last step."""
        manager = self._checkpoints()
        self.folder.open_history(self._columns(), int(self.step))
        began, stopped = time.monotonic(), False
        try:
            for rows, row_steps in self._reported():
                check_finite(row_steps, rows, self.loss.term_names)
                self.folder.add_history(row_steps, rows)
                progress = self._progress(rows, row_steps, began)
                answers = [callback(progress) for callback in callbacks]
                stopped = any(answers)
                if self._due(progress.step) or stopped:
                    self._save(manager)
                if self._sample_due(progress.step):
                    self._sample(progress.step)
                if stopped:
                    break
        except tf.errors.OpError as error:
            if len(self.photos.unreadable) < len(self.photos.files):
                raise
            raise UsageError(
                f"none of the {len(self.photos.files)} photographs can be read"
            ) from error
        finally:
            self.folder.close()
        return TrainingResult(
            self.averaged,
            self.folder.history(self._columns()),
            time.monotonic() - began,
            stopped,
            self.photos.unreadable,
        )

    def _columns(self) -> tuple[str, ...]:
        return ("step", "scale", "total", *self.loss.term_names)

    def _checkpoints(self) -> tf.train.CheckpointManager:
        """The checkpoints of the run, the last of which has been restored."""
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
                reason = " ".join(str(error).split())[:150]
                raise UsageError(
                    f"{last}: not a checkpoint of such a network ({reason}); give "
                    "another --output"
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
                f"written ({' '.join(str(error).split())[:150]}); an earlier one is "
                "kept"
            ) from error
        if self._is_chief():
            save_network(self.averaged, self.folder.path / "model.keras")

    def _due(self, step: int) -> bool:
        return step % self.options.checkpoint_every == 0 or step == self.options.steps

    def _sample_due(self, step: int) -> bool:
        return step in self.options.sample_steps or step == self.options.steps

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
            image=lambda: np.concatenate(self._samples()),
        )

    def _samples(self) -> list[np.ndarray]:
        """The first test photograph in each style."""
        return [
            apply_network(self.averaged, self.test_photo, self.averaged.blend(name))
            for name in self.styles
        ]

    def _sample(self, step: int) -> None:
        """Adds a row to the progress figure."""
        if not self._is_chief():
            return
        folder = self.folder.path / "samples"
        folder.mkdir(exist_ok=True)
        for name, picture in zip(self.styles, self._samples(), strict=True):
            save_image(picture, folder / f"step_{step:06d}_{name}.png")
        figure = self.folder.path / "progress.png"
        save_progress_figure(folder, self.test_photo, list(self.styles), figure)

    def _reported(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Trains, and yields the losses since the last report with their steps."""
        batches = iter(
            self.strategy.distribute_datasets_from_function(self._dataset)
            if int(self.step) < self.options.steps
            else ()
        )
        rows: list[tf.Tensor] = []
        step, reported = int(self.step), time.monotonic()
        while step < self.options.steps:
            rows.append(self._train_step(next(batches)))
            step += 1
            late = time.monotonic() - reported > SECONDS_BETWEEN_REPORTS
            if late or self._due(step) or self._sample_due(step):
                values = np.stack([row.numpy() for row in rows])
                yield values, np.arange(step - len(rows), step) + 1
                rows, reported = [], time.monotonic()

    def _dataset(self, context: tf.distribute.InputContext) -> tf.data.Dataset:
        """Batches of one worker from the current step on."""
        options = self.options
        workers, worker = context.num_input_pipelines, context.input_pipeline_id
        share = options.batch_size // workers
        batch = options.batch_size // self.strategy.num_replicas_in_sync
        if batch * self.strategy.num_replicas_in_sync != options.batch_size:
            raise UsageError(
                f"batch_size={options.batch_size}: give a multiple of the "
                f"{self.strategy.num_replicas_in_sync} devices"
            )
        steps = tf.data.Dataset.range(int(self.step), options.steps)
        first = tf.constant(worker * share, tf.int64)
        numbers = steps.flat_map(
            lambda step: tf.data.Dataset.range(share).map(
                lambda i: step * options.batch_size + first + i
            )
        )
        return (
            numbers.map(self._example, tf.data.AUTOTUNE, deterministic=True)
            .batch(batch, drop_remainder=True)
            .prefetch(2)
        )

    def _example(self, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """A photograph, the content that is wanted of it, and its style's number."""
        size, pictures = self.options.size, list(self.styles.values())

        def load(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            photo = self.photos.crop(int(number))
            if not self.options.recolor:
                return photo, photo
            return photo, match_colors(photo, pictures[int(number) % len(pictures)])

        # What has no state may run in parallel even where every bit must repeat.
        photo, content = tf.numpy_function(
            load, [number], (tf.float32, tf.float32), stateful=False
        )
        photo, content = (tf.ensure_shape(x, [size, size, 3]) for x in (photo, content))
        return photo, content, number % len(pictures)

    @tf.function(autograph=False)
    def _train_step(self, batch: Any) -> tf.Tensor:
        """One step on all devices; the total and the terms, means over the batch."""
        rows = self.strategy.run(self._replica_step, args=batch)
        self.step.assign_add(1)
        if self.options.ema:
            # At first the mean is of the few steps that there are.
            steps = tf.cast(self.step, tf.float32)
            decay = tf.minimum(self.options.ema, (1 + steps) / (10 + steps))
        else:
            decay = tf.constant(0.0)
        for mean, variable in zip(
            _variables(self.averaged), _variables(self.network), strict=True
        ):
            self.strategy.extended.update(
                mean,
                lambda m, v: m.assign(v + decay * (m - v)),
                args=(variable,),
            )
        return self.strategy.reduce(tf.distribute.ReduceOp.MEAN, rows, axis=None)

    def _replica_step(
        self, photos: tf.Tensor, contents: tf.Tensor, styles: tf.Tensor
    ) -> tf.Tensor:
        blend = tf.one_hot(styles, len(self.styles))
        total, terms, gradients = self._gradients(photos, contents, styles, blend)
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return tf.stack([total, *terms.values()])

    def _gradients(
        self,
        photos: tf.Tensor,
        contents: tf.Tensor,
        styles: tf.Tensor,
        blend: tf.Tensor,
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor], list[tf.Tensor]]:
        grams = {layer: tf.gather(gram, styles) for layer, gram in self.grams.items()}
        size = (self.options.size, self.options.size)
        targets = self.loss.assemble(size, *self.loss.content_targets(contents), grams)
        variables = self.network.trainable_variables
        with tf.GradientTape() as tape:
            total, terms = self.loss(self.network(photos, blend), targets)
            # Gradients of devices are added up.
            share = total / self.strategy.num_replicas_in_sync
        gradients = tape.gradient(share, [v.value for v in variables])
        return total, terms, gradients


class _Folder:
    """The files of a run."""

    def __init__(self, path: str | os.PathLike[str], chief: bool):
        self.path, self._chief = pathlib.Path(path), chief
        self.checkpoints = self.path / "checkpoint"
        self._file: Any = None
        if chief:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UsageError(
                    f"{path}: the folder cannot be made ({error.strerror}); choose "
                    "another --output"
                ) from error
        else:
            # All workers must save at once, and only the chief's files are wanted.
            self._temporary = tempfile.TemporaryDirectory(prefix="tfstyle-")
            self.checkpoints = pathlib.Path(self._temporary.name)

    def check(self, description: Mapping[str, Any]) -> None:
        """Refuses a folder with a run of other options, and notes those of this one."""
        file = self.path / "training.json"
        if file.is_file():
            earlier = json.loads(file.read_text())
            way_out = "give the same ones, or another output"
            check_same(self.path, earlier, description, way_out)
        elif self._chief:
            with replaced(file) as temporary:
                temporary.write_text(json.dumps(description, indent=2) + "\n")

    def open_history(self, columns: Sequence[str], step: int) -> None:
        """Goes on with the history after a step; later rows were not kept."""
        if not self._chief:
            return
        file, rows = self.path / "history.csv", []
        if file.is_file():
            with file.open(newline="") as lines:
                # The last line may be cut off.
                rows = [row for row in csv.reader(lines) if len(row) == len(columns)]
                rows = [row for row in rows[1:] if int(row[0]) <= step]
        with replaced(file) as temporary, temporary.open("w", newline="") as lines:
            csv.writer(lines).writerows([columns, *rows])
        self._file = file.open("a", newline="")

    def add_history(self, steps: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows to the history."""
        if self._file:
            csv.writer(self._file).writerows(
                [step, 0, *row] for step, row in zip(steps, rows.tolist(), strict=True)
            )

    def sync(self) -> None:
        """The history must not be behind a checkpoint."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the history."""
        if self._file:
            self._file.close()

    def history(self, columns: Sequence[str]) -> dict[str, list[float]]:
        """All rows by column."""
        file = self.path / "history.csv"
        if not file.is_file():
            return {column: [] for column in columns}
        values = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
        if not values.size:
            return {column: [] for column in columns}
        return dict(zip(columns, values.T.tolist(), strict=True))


def save_progress_figure(
    folder: pathlib.Path, photo: np.ndarray, styles: Sequence[str], path: pathlib.Path
) -> None:
    """Puts samples together: a column for each style, a row for each step.

    Args:
      folder: Folder with files such as ``step_000100_NAME.png``.
      photo: The test photograph that they were made of, ``[1, H, W, 3]``.
      styles: Names of the styles.
      path: The picture to write.

    Raises:
      TfstyleError: If it cannot be written.
    """
    steps = sorted({int(file.stem.split("_")[1]) for file in folder.glob("step_*.png")})
    pictures, captions = [photo] * len(styles), list(styles)
    for step in steps:
        for name in styles:
            file = folder / f"step_{step:06d}_{name}.png"
            known = file.is_file()
            pictures.append(load_image(file) if known else np.ones_like(photo))
            captions.append(f"step {step}" if known else "")
    sheet = contact_sheet(pictures, captions, len(styles))
    save_image(sheet, path, metadata={"Software": "tfstyle"})


def _held_out(
    files: list[pathlib.Path],
) -> tuple[np.ndarray, list[pathlib.Path]]:
    """The first picture that can be read, and the files that are left to train on."""
    for i, file in enumerate(files):
        try:
            photo = load_image(file, SAMPLE_SIZE)
        except ImageError:
            continue  # the training counts it
        left = files[:i] + files[i + 1 :]
        return photo, left or files
    raise UsageError(f"none of the {len(files)} photographs can be read")


def _variables(owner: Any) -> list[tf.Variable]:
    """TensorFlow's variables behind those of a Keras model or optimizer."""
    return [variable.value for variable in owner.variables]
