"""Trains slim19, the compact VGG-19 that is bundled with tfstyle, by distillation.

A student (``tfstyle.backbones.slim19``) learns to predict the features of a teacher:

* ``--teacher=parts``: a file with the first layers of VGG-19, to ``block3_conv1``, and
  a compressed VGG-19 for the deeper layers. The student starts from the compressed
  network; its additional channels start without effect.
* ``--teacher=vgg19``: the whole network of ``keras.applications``. The student starts
  from random weights.

The loss of a layer is the squared relative error of its features. At the style layers,
half of the squared relative error of the Gram matrices is added. The training data are
photographs, pictures that were stylized before, noise, and changes of colour, blur and
scale, because an optimiser sees more than photographs.

Example:
  python scripts/distil_backbone.py --photos=photos --pictures=paintings,stylized \
      --true_vgg=vgg19_to_block3.npz --compressed_vgg=vgg19_16x.npz --run=/tmp/slim19
"""

from __future__ import annotations

import json
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

from tfstyle.backbones import slim19, vgg
from tfstyle.backbones.base import (
    CAFFE_MEAN_BGR,
    TORCH_MEAN_RGB,
    TORCH_STD_RGB,
    preprocess,
)
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_assign import assign_weights
from tfstyle.files import replaced, sha256
from tfstyle.losses import gram_matrix

FLAGS = flags.FLAGS
flags.DEFINE_list("photos", None, "Folders of photographs, searched to any depth.")
flags.DEFINE_list("pictures", [], "Folders of paintings and stylized pictures.")
flags.DEFINE_enum("teacher", "parts", ["parts", "vgg19"], "The network to learn from.")
flags.DEFINE_string("true_vgg", None, "The truncated VGG-19 (.npz), for parts.")
flags.DEFINE_string("compressed_vgg", None, "The compressed VGG-19 (.npz), for parts.")
flags.DEFINE_string("resume_from", None, "A slim19.npz to start from.")
flags.DEFINE_string("run", None, "Folder of the run: backup, log, weights.")
flags.DEFINE_integer("steps", 6000, "Batches to train on.", lower_bound=1)
flags.DEFINE_integer("steps_per_epoch", 200, "Batches per epoch.", lower_bound=1)
flags.DEFINE_integer("batch", 8, "Crops per batch.", lower_bound=1)
flags.DEFINE_integer("crop", 128, "Side of a crop in pixels.", lower_bound=64)
flags.DEFINE_float("learning_rate", 1e-3, "Adam's first rate, decayed by a cosine.")
flags.DEFINE_integer("seed", 0, "Seed of weights, crops and augmentation.")

VALIDATION_SHARE = 20  # one photograph in 20 is held out
GRAM_WEIGHT = 0.5
SLIM_WEIGHT = 0.25  # of layers that are not style layers
SUFFIXES = {".jpg", ".jpeg", ".png"}


def files_below(folders: list[str]) -> list[str]:
    """The pictures in folders, sorted so that a seed repeats a run on any machine."""
    found = (p for folder in folders for p in pathlib.Path(folder).rglob("*"))
    return sorted(str(p) for p in found if p.suffix.lower() in SUFFIXES)


def decoded(files: list[str]) -> tf.data.Dataset:
    """The pictures of files, uint8 ``[H, W, 3]``, kept in memory."""

    def decode(path: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        image.set_shape([None, None, 3])
        return image

    return tf.data.Dataset.from_tensor_slices(files).map(decode).cache()


def random_crop(image: tf.Tensor, side: int) -> tf.Tensor:
    """A square crop at a random scale, flipped at random, float32 in [0, 1]."""
    shortest = tf.minimum(tf.shape(image)[0], tf.shape(image)[1])
    scale = tf.exp(tf.random.uniform([], np.log(0.7), np.log(2.5)))
    window = tf.minimum(tf.cast(side * scale, tf.int32), shortest)
    crop = tf.image.random_crop(image, [window, window, 3])
    crop = tf.image.resize(tf.cast(crop, tf.float32) / 255, [side, side], "area")
    return tf.image.random_flip_up_down(tf.image.random_flip_left_right(crop))


def sometimes(probability: float, change, image: tf.Tensor) -> tf.Tensor:
    """``change(image)`` with a probability, else the image."""
    chosen = tf.random.uniform([]) < probability
    return tf.cond(chosen, lambda: change(image), lambda: image)


def recolour(image: tf.Tensor) -> tf.Tensor:
    """Changes brightness, contrast, saturation and hue, and swaps channels."""
    image = tf.image.random_saturation(image, 0.3, 1.8)
    image = tf.image.random_hue(image, 0.3)
    image = tf.image.random_contrast(image, 0.5, 1.5)
    image = tf.image.random_brightness(image, 0.25)
    return tf.gather(image, tf.random.shuffle(tf.range(3)), axis=-1)


def blur(image: tf.Tensor) -> tf.Tensor:
    """Blurs a picture like one that was enlarged from a coarser scale."""
    side = tf.shape(image)[0]
    small = tf.image.resize(image, [side // 2, side // 2], "area")
    return tf.image.resize(small, [side, side], "bicubic")


def add_noise(image: tf.Tensor) -> tf.Tensor:
    """Adds grain of a random strength."""
    strength = tf.random.uniform([], 0.0, 0.2)
    return image + strength * tf.random.normal(tf.shape(image))


def augment(image: tf.Tensor) -> tf.Tensor:
    """Random colours, blur and grain, clipped to [0, 1]."""
    for probability, change in ((0.4, recolour), (0.15, blur), (0.25, add_noise)):
        image = sometimes(probability, change, image)
    return tf.clip_by_value(image, 0.0, 1.0)


def noise_picture(side: int) -> tf.Tensor:
    """Noise of a random smoothness, with which optimisations may start."""
    blocks = tf.constant([1, 1, 2, 4, 8, 16])
    block = tf.random.shuffle(blocks)[0]
    noise = tf.random.uniform([side // block, side // block, 3])
    return tf.clip_by_value(tf.image.resize(noise, [side, side], "bicubic"), 0.0, 1.0)


def training_data(photos: list[str], pictures: list[str]) -> tf.data.Dataset:
    """An endless stream of augmented crops, ``[batch, crop, crop, 3]`` in [0, 1]."""

    def crops(files: list[str]) -> tf.data.Dataset:
        images = decoded(files).shuffle(512).repeat()
        return images.map(lambda image: augment(random_crop(image, FLAGS.crop)), 2)

    noise = tf.data.Dataset.range(2).repeat().map(lambda _: noise_picture(FLAGS.crop))
    sources, shares = [crops(photos), noise], [0.9, 0.1]
    if pictures:
        sources, shares = [*sources, crops(pictures)], [0.55, 0.08, 0.37]
    mixed = tf.data.Dataset.sample_from_datasets(sources, shares)
    return mixed.batch(FLAGS.batch, drop_remainder=True).prefetch(2)


def validation_data(files: list[str]) -> tf.data.Dataset:
    """Central crops of the held-out photographs."""

    def centre(image: tf.Tensor) -> tf.Tensor:
        image = tf.image.resize_with_crop_or_pad(image, 256, 256)
        return tf.image.resize(tf.cast(image, tf.float32) / 255, [FLAGS.crop] * 2)

    return decoded(files).map(centre).batch(FLAGS.batch).cache()


def frozen_network(build, convention: str, weights, taps: list[str]) -> keras.Model:
    """A frozen network from pictures to its taps."""
    inputs = keras.Input([None, None, 3])
    outputs = build(preprocess(inputs, convention))
    model = keras.Model(inputs, {tap: outputs[tap] for tap in taps})
    assign_weights(model, weights, "the teacher")
    model.trainable = False
    return model


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Kernels and biases of a model's convolutions, by ``layer/kernel``."""
    return {
        f"{layer.name}/{part.name}": part.numpy()
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
        for part in layer.weights
    }


def to_torch_convention(kernel, bias, matrix, offset) -> tuple[np.ndarray, np.ndarray]:
    """Rewrites a first convolution of ``rgb @ matrix + offset`` for torch's input."""
    kernel_rgb = np.einsum("hwoc,io->hwic", kernel, matrix)
    bias = bias + np.einsum("hwoc,o->c", kernel, offset)
    bias = bias + np.einsum("hwic,i->c", kernel_rgb, TORCH_MEAN_RGB)
    return kernel_rgb * np.array(TORCH_STD_RGB)[None, None, :, None], bias


def compressed_teacher(path: str) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """The compressed VGG-19: its slim features, and its estimates of VGG-19's."""
    weights, _ = read_weights(path)
    weights["block1_conv1/kernel"], weights["block1_conv1/bias"] = to_torch_convention(
        weights["block1_conv1/kernel"],
        weights["block1_conv1/bias"],
        weights["preprocess/kernel"][0, 0],
        weights["preprocess/bias"],
    )
    channels = {
        layer: weights[f"{layer}/bias"].size
        for layer in vgg.convolutions((2, 2, 4, 4, 1))
    }

    def build(x):
        taps = vgg.build(x, channels, "max", padding="reflect")
        for layer in ("block4_conv1", "block5_conv1"):
            name = f"{layer}_embedding"
            filters = weights[f"{name}/bias"].size
            head = keras.layers.Conv2D(filters, 1, activation="relu", name=name)
            taps[f"{layer}_slim"], taps[layer] = taps[layer], head(taps[layer])
        return taps

    taps = [f"block3_conv{i}" for i in (2, 3, 4)]
    taps += ["block4_conv1_slim", *(f"block4_conv{i}" for i in (1, 2, 3, 4))]
    model = frozen_network(build, "torch", weights, [*taps, "block5_conv1"])
    return model, weights


def true_teacher(path: str) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """VGG-19 to ``block3_conv1``."""
    return vgg_teacher(read_weights(path)[0], vgg.convolutions((2, 2, 1)))


def full_teacher() -> tuple[keras.Model, dict[str, np.ndarray]]:
    """``keras.applications.VGG19`` to ``block5_conv1``."""
    weights = dict(vgg.VGG19.published_weights())
    return vgg_teacher(weights, vgg.convolutions((2, 2, 4, 4, 1)))


def vgg_teacher(
    weights: dict[str, np.ndarray], layers: list[str]
) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """A VGG, padded like the student, without the layer that the student shares."""
    channels = {layer: weights[f"{layer}/bias"].size for layer in layers}

    def build(x):
        return vgg.build(x, channels, "max", padding="reflect")

    return frozen_network(build, "caffe", weights, layers[1:]), weights


def widened(small: np.ndarray, shape: tuple[int, ...], rng) -> np.ndarray:
    """An array whose first channels are ``small``, undisturbed by the new ones.

    New output channels are random; new input channels of old outputs are zero, so that
    the wider network computes the same as the small one (Net2Net, Chen et al. 2016).
    """
    if len(shape) == 1:
        return np.pad(small, [0, shape[0] - small.size])
    fan_in = np.prod(shape[:3])
    array = rng.normal(0, np.sqrt(2 / fan_in), shape).astype("float32")
    inputs, outputs = small.shape[2:]
    array[:, :, inputs:, :outputs] = 0
    array[:, :, :inputs, :outputs] = small
    return array


def student_weights(student: keras.Model, compressed, true) -> dict[str, np.ndarray]:
    """Starting weights: the compressed network's, and VGG-19's first convolution."""
    rng = np.random.default_rng(FLAGS.seed)
    weights = weights_of(student)
    head = slim19.head_name("block1_conv1")
    for name, array in weights.items():
        source = name.replace("_head", "_embedding")
        if source in compressed and not name.startswith(head):
            weights[name] = widened(compressed[source], array.shape, rng)
        elif "_head" in name:
            # The large errors of a random head would damage the network below it.
            weights[name] = 0.1 * array if name.endswith("kernel") else array + 0.5
    bgr = np.eye(3)[::-1] * 255
    weights[f"{head}/kernel"], weights[f"{head}/bias"] = to_torch_convention(
        true["block1_conv1/kernel"],
        true["block1_conv1/bias"],
        bgr,
        -np.array(CAFFE_MEAN_BGR),
    )
    return weights


def build_student() -> tuple[keras.Model, keras.Model]:
    """The student with all its layers, and as the network that is compared."""
    inputs = keras.Input([None, None, 3])
    x = preprocess(inputs, "torch")
    taps = slim19.build(x)
    whole = keras.Model(inputs, {layer: taps[layer] for layer in slim19.CHANNELS})
    slim = whole.get_layer(slim19.head_name("block4_conv1")).input
    outputs = {layer: taps[layer] for layer in list(slim19.CHANNELS)[1:]}
    return whole, keras.Model(inputs, {**outputs, "block4_conv1_slim": slim})


def relative_error(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """``‖value − target‖² / ‖target‖²``."""
    norm = tf.reduce_sum(tf.square(target))
    return tf.reduce_sum(tf.square(value - target)) / (norm + 1e-6)


class Distiller(keras.Model):
    """Student and teachers as one Keras model, trained with ``fit``."""

    def __init__(self, student: keras.Model, teachers: list[keras.Model]):
        super().__init__()
        self.student, self.teachers = student, teachers
        self.targets = [tap for teacher in teachers for tap in teacher.output]
        self.adapters = self._build_adapters()
        self.errors = {
            name: keras.metrics.Mean(name)
            for tap in self.targets
            for name in ((tap, f"{tap}_gram") if tap in slim19.HEADS else (tap,))
        }

    def _build_adapters(self) -> dict[str, keras.layers.Layer]:
        # A whole teacher has more channels than the student. Layers without a head of
        # their own get one for the training only.
        adapters = {}
        for teacher in self.teachers:
            for tap, target in teacher.output.items():
                if target.shape[-1] != self.student.output[tap].shape[-1]:
                    adapters[tap] = keras.layers.Conv2D(
                        target.shape[-1], 1, activation="relu", name=f"{tap}_adapter"
                    )
        return adapters

    def call(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The student's estimates of the teachers' features."""
        features = self.student(images)
        for tap, adapter in self.adapters.items():
            features[tap] = adapter(features[tap])
        return features

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """The sum over layers of relative feature and Gram errors."""
        total = tf.constant(0.0)
        for teacher in self.teachers:
            for tap, target in teacher(x).items():
                error = relative_error(y_pred[tap], target)
                self.errors[tap].update_state(error)
                total += error if tap in slim19.HEADS else SLIM_WEIGHT * error
                if tap in slim19.HEADS:
                    made, wanted = gram_matrix(y_pred[tap]), gram_matrix(target)
                    error = relative_error(made, wanted)
                    self.errors[f"{tap}_gram"].update_state(error)
                    total += GRAM_WEIGHT * error
        return total


def schedule() -> keras.optimizers.schedules.LearningRateSchedule:
    """A short warm-up, for a student that is trained already, then a cosine to zero."""
    warmup = FLAGS.steps // 20
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        FLAGS.steps - warmup,
        warmup_target=FLAGS.learning_rate,
        warmup_steps=warmup,
    )


def save(student: keras.Model, path: pathlib.Path) -> None:
    """Writes the student's weights as float16, half the size at no visible loss."""
    arrays = {k: v.astype("float16") for k, v in weights_of(student).items()}
    with replaced(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def record(history, photos, pictures, seconds: float) -> dict[str, object]:
    """What is needed to repeat the run."""
    files = [path for path in (FLAGS.true_vgg, FLAGS.compressed_vgg) if path]
    before = pathlib.Path(FLAGS.resume_from or FLAGS.run).with_suffix(".json")
    return {
        "teacher": FLAGS.teacher,
        "teachers_sha256": {pathlib.Path(path).name: sha256(path) for path in files},
        "steps": FLAGS.steps,
        "batch": FLAGS.batch,
        "crop": FLAGS.crop,
        "optimizer": f"Adam, {FLAGS.learning_rate} with cosine decay",
        "loss": "squared relative feature error + 0.5 × the same of the Gram matrices",
        "seed": FLAGS.seed,
        "photographs": len(photos),
        "pictures": len(pictures),
        "hours": round(seconds / 3600, 2),
        "validation": {k: round(v[-1], 4) for k, v in history.items() if "val_" in k},
        "resumed_from": json.loads(before.read_text()) if before.is_file() else None,
    }


def main(_: list[str]) -> None:
    """Trains; writes weights, log and backup to ``--run``."""
    run = pathlib.Path(FLAGS.run)
    run.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    whole, student = build_student()
    if FLAGS.teacher == "parts":
        deep, compressed = compressed_teacher(FLAGS.compressed_vgg)
        shallow, true = true_teacher(FLAGS.true_vgg)
        teachers = [shallow, deep]
    else:
        teacher, true = full_teacher()
        teachers, compressed = [teacher], {}
    if FLAGS.resume_from:
        start, _ = read_weights(FLAGS.resume_from)
    else:
        start = student_weights(whole, compressed, true)
    assign_weights(whole, start, FLAGS.resume_from or "the teachers")
    whole.get_layer(slim19.head_name("block1_conv1")).trainable = False

    files, pictures = files_below(FLAGS.photos), files_below(FLAGS.pictures)
    held_out = files[::VALIDATION_SHARE]
    photos = sorted(set(files) - set(held_out))
    distiller = Distiller(student, teachers)
    distiller(tf.zeros([1, FLAGS.crop, FLAGS.crop, 3]))
    distiller.compile(keras.optimizers.Adam(schedule(), beta_2=0.99))
    began = time.monotonic()
    history = distiller.fit(
        training_data(photos, pictures),
        epochs=-(-FLAGS.steps // FLAGS.steps_per_epoch),
        steps_per_epoch=FLAGS.steps_per_epoch,
        validation_data=validation_data(held_out),
        verbose=2,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(run / "backup")),
            keras.callbacks.CSVLogger(str(run / "log.csv"), append=True),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda *_: save(whole, run / "slim19.npz")
            ),
        ],
    )
    seconds = time.monotonic() - began
    notes = record(history.history, photos, pictures, seconds)
    (run / "slim19.json").write_text(json.dumps(notes, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    flags.mark_flags_as_required(["photos", "run"])
    app.run(main)
