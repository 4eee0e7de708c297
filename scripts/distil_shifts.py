"""Takes a network's grid out of its pictures.

A feed-forward network computes at a quarter of the size. Which pixels share a place
there depends on where the picture begins, and a fine weave of that period is left in
calm areas. The mean of the network's pictures over shifts of the photograph ("cycle
spinning", Coifman and Donoho 1995, "Translation-Invariant De-Noising") has no weave,
and its strokes are clean, but it takes as many passes as there are shifts. Here the
network learns to draw that mean in one pass: its own pictures, so averaged, are what it
is trained on, and neither a loss of style nor one of content is needed.

A mean is softer than what it is the mean of. In the end, the last convolution is made
to sharpen the picture, which gives strokes their contrast back, but not the weave.

Of a network for any style, the encoder of paintings stays as it is. A run that was
interrupted goes on when it is started again.

Example:
  python scripts/distil_shifts.py --network=any --photos=photos \
      --paintings=paintings --run=/tmp/any
"""

from __future__ import annotations

import itertools
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from held_out import is_held_out

from tfstyle.images.folder import picture_files
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.blends import takes_any_style
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.networks.training_data import Photos

FLAGS = flags.FLAGS
flags.DEFINE_string("network", "any", "The network to begin with, and to learn from.")
flags.DEFINE_string("photos", None, "Folder of photographs.")
flags.DEFINE_string("paintings", None, "Folder of paintings, for any style.")
flags.DEFINE_string("run", None, "Folder of the run.")
flags.DEFINE_integer("steps", 1000, "Batches to train on.", lower_bound=50)
flags.DEFINE_integer("batch", 4, "Crops in a batch.", lower_bound=1)
flags.DEFINE_integer("size", 256, "Side of a crop in pixels.", lower_bound=64)
flags.DEFINE_float("learning_rate", 1e-4, "Adam's first rate, decayed by a cosine.")
flags.DEFINE_float("ema", 0.98, "Decay of the running mean of the weights.")
flags.DEFINE_float("sharpness", 1.0, "How much of its detail the picture gets back.")
flags.DEFINE_integer("save_every", 50, "Steps between checkpoints.", lower_bound=1)

PERIOD = 4  # pixels between places of the network's grid
WARMUP = 30  # steps
EDGE = 16  # pixels that are not compared: what is beyond them differs
ITSELF = 16  # one in so many crops is its own style, as in the training


def shifts_of(step: int) -> list[tuple[int, int]]:
    """Four shifts, half a period apart; over four steps, all of a period come up."""
    first, second = divmod(step % PERIOD, 2)
    return list(itertools.product((first, first + 2), (second, second + 2)))


def files_of(folder: str) -> list[pathlib.Path]:
    """The pictures of a folder that may be trained on."""
    return [path for path in picture_files(folder) if not is_held_out(path)]


def sharper(kernel: np.ndarray, amount: float) -> np.ndarray:
    """A kernel that gives ``x + amount * (x - blurred(x))`` in place of ``x``.

    The blur is that of 1 2 1 along both axes. The kernel would become wider by a pixel
    on each side; what lies there is added to the pixel beside it, so that even areas
    stay as they are.
    """
    blur = np.outer((1, 2, 1), (1, 2, 1)) / 16
    height, width = kernel.shape[:2]
    found = (1 + amount) * kernel
    rows, columns = np.arange(height), np.arange(width)
    for i, j in itertools.product(range(3), repeat=2):
        moved = np.ix_(
            np.clip(rows + i - 1, 0, height - 1),
            np.clip(columns + j - 1, 0, width - 1),
        )
        np.subtract.at(found, moved, amount * blur[i, j] * kernel)
    return found.astype("float32")


class Distillation:
    """A network, what it learns from, and what the two are given."""

    def __init__(self) -> None:
        self.teacher = load_network(FLAGS.network)
        self.student = load_network(FLAGS.network)
        self.averaged = load_network(FLAGS.network)
        self.any_style = isinstance(self.teacher, AnyStyleNet)
        side = FLAGS.size + PERIOD
        self.photos = Photos(files_of(FLAGS.photos), side, 0)
        if self.any_style:
            self.paintings = Photos(files_of(FLAGS.paintings), FLAGS.size, 1)
            for network in (self.student, self.averaged):
                for name, layer in network.convolutions.items():
                    layer.trainable = not name.startswith("style_")
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            FLAGS.steps - WARMUP,
            warmup_target=FLAGS.learning_rate,
            warmup_steps=WARMUP,
        )
        self.optimizer = keras.optimizers.Adam(rate)
        self.optimizer.build(self.student.trainable_variables)

    def batch(self, step: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Crops and what their styles are made of, both by the step's number."""
        numbers = range(step * FLAGS.batch, (step + 1) * FLAGS.batch)
        crops = [self.photos.crop(number) for number in numbers]
        if not self.any_style:
            styles = np.array(numbers) % len(self.teacher.style_names)
            return tf.constant(crops), tf.one_hot(styles, len(self.teacher.style_names))
        side = FLAGS.size
        styles = [
            crop[:side, :side]
            if number % ITSELF == ITSELF - 1
            else self.paintings.crop(number)
            for number, crop in zip(numbers, crops, strict=True)
        ]
        return tf.constant(crops), tf.constant(styles)

    def mean_picture(self, crops: tf.Tensor, style: object, shifts: tf.Tensor):
        """The mean of the teacher's pictures of crops that begin at each shift."""
        size, places = FLAGS.size, [tf.unstack(shift) for shift in tf.unstack(shifts)]
        shifted = [crops[:, y : y + size, x : x + size] for y, x in places]
        count = len(places)
        repeated = tf.nest.map_structure(lambda part: tf.tile(part, [count, 1]), style)
        drawn = tf.split(self.teacher(tf.concat(shifted, 0), repeated), count)
        placed = [
            tf.pad(part, [[0, 0], [y, PERIOD - y], [x, PERIOD - x], [0, 0]])
            for part, (y, x) in zip(drawn, places, strict=True)
        ]
        return tf.add_n(placed) / count

    @tf.function(autograph=False)
    def train(self, crops: tf.Tensor, given: tf.Tensor, shifts: tf.Tensor):
        """One step; the student draws the unshifted crop. Returns its squared error."""
        style = self.teacher.code(given) if self.any_style else given
        wanted = tf.stop_gradient(self.mean_picture(crops, style, shifts))
        size, inner = FLAGS.size, slice(EDGE, FLAGS.size - EDGE)
        with tf.GradientTape() as tape:
            drawn = self.student(crops[:, :size, :size], style)
            difference = (drawn - wanted[:, :size, :size])[:, inner, inner]
            loss = tf.reduce_mean(tf.square(difference))
        steps = keras.ops.cast(self.optimizer.iterations, "float32")
        decay = tf.minimum(FLAGS.ema, (1 + steps) / (10 + steps))
        variables = self.student.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        self.optimizer.apply(gradients, variables)
        for mean, variable in zip(
            self.averaged.trainable_variables, variables, strict=True
        ):
            mean.assign(decay * mean + (1 - decay) * variable)
        return loss

    def run(self) -> None:
        """Trains from the last checkpoint to the last step."""
        folder = pathlib.Path(FLAGS.run)
        state = tf.train.Checkpoint(
            **{
                name: [variable.value for variable in owner.variables]
                for name, owner in (
                    ("student", self.student),
                    ("averaged", self.averaged),
                    ("optimizer", self.optimizer),
                )
            },
        )
        manager = tf.train.CheckpointManager(state, str(folder / "checkpoint"), 2)
        manager.restore_or_initialize()
        began, losses = time.monotonic(), []
        for step in range(int(self.optimizer.iterations), FLAGS.steps):
            crops, given = self.batch(step)
            losses.append(float(self.train(crops, given, tf.constant(shifts_of(step)))))
            if (step + 1) % FLAGS.save_every == 0 or step + 1 == FLAGS.steps:
                manager.save(step + 1)
                seconds = time.monotonic() - began
                print(
                    f"{step + 1}: {np.mean(losses):.6f} in {seconds:.0f} s", flush=True
                )
                losses = []
        save_network(self.finished(), folder / "model.keras")

    def finished(self) -> StyleNet | AnyStyleNet:
        """The network that was learned, with a sharper last convolution."""
        network = load_network(FLAGS.network)
        network.set_weights(self.averaged.get_weights())
        last = network.convolutions["decoder_rgb"] if self.any_style else network.last
        last.kernel.assign(sharper(last.kernel.numpy(), FLAGS.sharpness))
        return network


def main(_: list[str]) -> None:
    """Trains the network that the flags name."""
    if not FLAGS.photos or not FLAGS.run:
        raise app.UsageError("--photos, --run: give both")
    if takes_any_style(FLAGS.network) != bool(FLAGS.paintings):
        raise app.UsageError("--paintings: give it for any style, and only then")
    Distillation().run()


if __name__ == "__main__":
    app.run(main)
