"""Makes slim19, the compact VGG-19 that is bundled with tfstyle.

The student (``tfstyle.backbones.slim19``) has two parts:

* Its first five convolutions are VGG-19's. All but the first are factored into three: a
  1×1 convolution to the directions of its input that matter most, the 3×3 convolution
  between few channels, and a 1×1 convolution by reduced-rank regression on what VGG-19
  computes. That is linear algebra on some crops, and nothing is trained.
* The deeper ones are trained to predict the features of a teacher, from one of

  * ``--teacher=parts``: a file with the first layers of VGG-19, to ``block3_conv1``,
    and a compressed VGG-19 for the deeper layers, from whose weights those begin;
  * ``--teacher=vgg19``: the whole network of ``keras.applications``. The deeper layers
    begin at random.

The loss of a layer is the squared relative error of its features. At the style layers,
half of the squared relative error of the Gram matrices is added. The training data are
photographs, paintings, pictures that an optimiser visits, noise, and changes of colour,
blur and scale, because an optimiser sees more than photographs.

The student pools half of each batch by averages and half by maxima, so that either
works later. Half of the crops carry fine grain or a fine lattice, which the student
sees and the teacher does not. Without that, deep layers answer to a lattice that the
eye hardly sees, and an optimiser draws it.

Example:
  python scripts/distil_backbone.py --photos=photos --pictures=paintings \
      --visited=runs --true_vgg=vgg19_to_block3.npz --compressed_vgg=vgg19_16x.npz \
      --run=/tmp/slim19
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
flags.DEFINE_list("pictures", [], "Folders of paintings.")
flags.DEFINE_list("visited", [], "Folders of pictures from the middle of runs.")
flags.DEFINE_enum("teacher", "parts", ["parts", "vgg19"], "The network to learn from.")
flags.DEFINE_string("true_vgg", None, "The truncated VGG-19 (.npz), for parts.")
flags.DEFINE_string("compressed_vgg", None, "The compressed VGG-19 (.npz), for parts.")
flags.DEFINE_string("resume_from", None, "A slim19.npz to start from.")
flags.DEFINE_string("run", None, "Folder of the run: backup, log, weights.")
flags.DEFINE_integer("fitted", 160, "Crops to fit the factors on.", lower_bound=1)
flags.DEFINE_integer("steps", 6000, "Batches to train on.", lower_bound=1)
flags.DEFINE_integer("steps_per_epoch", 200, "Batches per epoch.", lower_bound=1)
flags.DEFINE_integer("batch", 8, "Crops per batch, half per pooling.", lower_bound=2)
flags.DEFINE_integer("crop", 128, "Side of a crop in pixels.", lower_bound=64)
flags.DEFINE_float("learning_rate", 1e-3, "Adam's first rate, decayed by a cosine.")
flags.DEFINE_bool("bfloat16", False, "Compute in bfloat16; weights stay float32.")
flags.DEFINE_integer("seed", 0, "Seed of weights, crops and augmentation.")

SHARES = {"photographs": 0.45, "paintings": 0.32, "visited": 0.15}
NOISE_SHARE = 0.08
VALIDATION_SHARE = 20  # one photograph in 20 is held out
GRAM_WEIGHT = 0.5
DEEP = vgg.convolutions((2, 2, 4, 4, 1))[5:]
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


def lattice(side: int) -> tf.Tensor:
    """A fine regular pattern, in patches: what an optimiser draws for a poor network.

    A wave of a period of 2 to 4 pixels and a random colour, along rows, columns or
    both, where a smooth random mask lets it through.
    """
    axis = tf.range(side, dtype=tf.float32)
    frequency = tf.random.uniform([2], 0.25, 0.5)
    phase = tf.random.uniform([2], 0.0, 2 * np.pi)
    rows, columns = tf.meshgrid(
        *(tf.cos(2 * np.pi * frequency[i] * axis + phase[i]) for i in range(2)),
        indexing="ij",
    )
    kinds = tf.stack([rows, columns, rows * columns, rows + columns])
    wave = tf.gather(kinds, tf.random.uniform([], 0, 4, tf.int32))
    mask = tf.image.resize(tf.random.uniform([4, 4, 1]), [side, side], "bicubic")
    colour = tf.random.normal([3])
    return mask * wave[..., None] * colour


def disturbed(image: tf.Tensor) -> tf.Tensor:
    """The picture with fine grain or a fine lattice of a random strength."""
    side = tf.shape(image)[0]
    strength = tf.random.uniform([], 0.0, 0.12)
    grain = tf.random.normal(tf.shape(image))
    drawn = tf.cond(tf.random.uniform([]) < 0.5, lambda: lattice(side), lambda: grain)
    return tf.clip_by_value(image + strength * drawn, 0.0, 1.0)


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


def training_data(sources: dict[str, list[str]]) -> tf.data.Dataset:
    """An endless stream of pairs of augmented crops, ``[batch, crop, crop, 3]``.

    The first of a pair, in [0, 1], is what the student sees, the second the same
    without fine grain or lattice.
    """

    def crops(files: list[str]) -> tf.data.Dataset:
        images = decoded(files).shuffle(512).repeat()
        return images.map(lambda image: augment(random_crop(image, FLAGS.crop)), 2)

    noise = tf.data.Dataset.range(2).repeat().map(lambda _: noise_picture(FLAGS.crop))
    streams, shares = [noise], [NOISE_SHARE]
    for kind, files in sources.items():
        if files:
            streams.append(crops(files))
            shares.append(SHARES[kind])
    mixed = tf.data.Dataset.sample_from_datasets(streams, shares)
    mixed = mixed.map(lambda image: (sometimes(0.5, disturbed, image), image), 2)
    return mixed.batch(FLAGS.batch, drop_remainder=True).prefetch(2)


def validation_data(files: list[str]) -> tf.data.Dataset:
    """Central crops of the held-out photographs."""

    def centre(image: tf.Tensor) -> tf.Tensor:
        image = tf.image.resize_with_crop_or_pad(image, 256, 256)
        image = tf.image.resize(tf.cast(image, tf.float32) / 255, [FLAGS.crop] * 2)
        return image, image

    return decoded(files).map(centre).batch(FLAGS.batch, drop_remainder=True).cache()


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


def compressed_weights(path: str) -> dict[str, np.ndarray]:
    """The weights of the compressed VGG-19, for pictures preprocessed as ``torch``."""
    weights, _ = read_weights(path)
    weights["block1_conv1/kernel"], weights["block1_conv1/bias"] = to_torch_convention(
        weights["block1_conv1/kernel"],
        weights["block1_conv1/bias"],
        weights["preprocess/kernel"][0, 0],
        weights["preprocess/bias"],
    )
    return weights


def compressed_network(weights: dict[str, np.ndarray], taps: list[str]) -> keras.Model:
    """The compressed VGG-19: its slim features, and its estimates of VGG-19's."""
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

    return frozen_network(build, "torch", weights, taps)


def compressed_teacher(path: str) -> tuple[keras.Model, dict[str, np.ndarray]]:
    """The compressed VGG-19 as teacher of the deep layers, and its weights."""
    weights = compressed_weights(path)
    return compressed_network(weights, ["block4_conv1_slim", *DEEP]), weights


def full_teacher() -> tuple[keras.Model, dict[str, np.ndarray]]:
    """``keras.applications.VGG19``, padded like the student, and its weights."""
    weights = dict(vgg.VGG19.published_weights())
    layers = vgg.convolutions((2, 2, 4, 4, 1))
    channels = {layer: weights[f"{layer}/bias"].size for layer in layers}

    def build(x):
        return vgg.build(x, channels, "max", padding="reflect")

    return frozen_network(build, "caffe", weights, DEEP), weights


def factored(
    kernel: np.ndarray, seen: tf.Tensor, wanted: tf.Tensor, ranks: tuple[int, int]
) -> dict[str, np.ndarray]:
    """A 3×3 convolution as three of fewer channels.

    Args:
      kernel: ``[3, 3, I, O]``.
      seen: What the convolution sees, ``[N, h, w, I]``.
      wanted: What it should compute, before the ReLU, ``[N, h, w, O]``.
      ranks: Channels in and out of the convolution in the middle.

    Returns:
      Kernels and biases of the parts ``in``, ``mid`` and ``out``.
    """
    inner, outer = ranks
    # The directions of the input that matter most: those with most energy, as the
    # kernel weighs them.
    energy = second_moment(seen)
    root = symmetric_power(energy, 0.5)
    kernel_energy = np.einsum("hwio,hwjo->ij", kernel, kernel)
    chosen = largest_directions(root @ kernel_energy @ root, inner)
    into, back = symmetric_power(energy, -0.5) @ chosen, root @ chosen
    middle = np.einsum("hwio,ip->hwpo", kernel, back)
    # Reduced-rank regression of what is wanted on what the others compute.
    made = mirrored_convolution(tf.einsum("nhwi,ip->nhwp", seen, floats(into)), middle)
    mean_made, mean_wanted = (np.mean(x, (0, 1, 2)) for x in (made, wanted))
    made, wanted = made - mean_made, wanted - mean_wanted
    spread = second_moment(made)
    slope = second_moment(wanted, made) @ np.linalg.pinv(spread, rcond=1e-5)
    out = largest_directions(slope @ spread @ slope.T, outer)
    middle = np.einsum("hwpo,or->hwpr", middle, slope.T @ out)
    bias = mean_wanted - out @ (out.T @ slope @ mean_made)
    return {
        "in/kernel": into[None, None],
        "in/bias": np.zeros(inner),
        "mid/kernel": middle,
        "mid/bias": np.zeros(outer),
        "out/kernel": out.T[None, None],
        "out/bias": bias,
    }


def floats(array: np.ndarray) -> tf.Tensor:
    """The array as a float32 tensor."""
    return tf.constant(array, tf.float32)


def second_moment(a: tf.Tensor, b: tf.Tensor | None = None) -> np.ndarray:
    """The mean over positions of ``a bᵀ``, or ``a aᵀ``; float64."""
    a = tf.reshape(a, [-1, a.shape[-1]])
    b = a if b is None else tf.reshape(b, [-1, b.shape[-1]])
    return np.float64(tf.matmul(a, b, transpose_a=True)) / int(a.shape[0])


def symmetric_power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a positive matrix, raised a little where it is singular."""
    values, vectors = np.linalg.eigh(matrix)
    values = values + 1e-6 * values.mean()
    return vectors * np.maximum(values, 1e-12) ** exponent @ vectors.T


def largest_directions(matrix: np.ndarray, count: int) -> np.ndarray:
    """The eigenvectors of the largest eigenvalues, as columns."""
    return np.linalg.eigh(matrix)[1][:, ::-1][:, :count]


def mirrored_convolution(x: tf.Tensor, kernel: np.ndarray) -> tf.Tensor:
    """A 3×3 convolution with a mirrored border."""
    x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    return tf.nn.conv2d(x, floats(kernel), 1, "VALID")


def starting_weights(
    student: keras.Model,
    true: dict[str, np.ndarray],
    compressed: dict[str, np.ndarray],
    pictures: tf.Tensor,
) -> dict[str, np.ndarray]:
    """What the student begins with.

    Args:
      student: The student; weights that nobody knows are its own.
      true: VGG-19's weights, to ``block3_conv1`` at least.
      compressed: The compressed VGG-19's; empty with the whole VGG-19 as teacher.
      pictures: ``[N, H, W, 3]`` in [0, 1], to fit the factors on.

    Returns:
      Weights by name.
    """
    weights = weights_of(student)
    for name in weights:
        source = name.replace("_head", "_embedding")
        if source in compressed and name >= DEEP[0]:
            weights[name] = compressed[source]
    first = to_torch_convention(
        true["block1_conv1/kernel"],
        true["block1_conv1/bias"],
        np.eye(3)[::-1] * 255,
        -np.array(CAFFE_MEAN_BGR),
    )
    weights["block1_conv1/kernel"], weights["block1_conv1/bias"] = first
    x = mirrored_convolution(preprocess(pictures, "torch"), first[0]) + floats(first[1])
    seen = wanted = tf.nn.relu(x)
    for layer, ranks in slim19.FACTORS.items():
        if layer.endswith("conv1"):
            seen, wanted = (tf.nn.max_pool2d(x, 2, 2, "VALID") for x in (seen, wanted))
        kernel = true[f"{layer}/kernel"]
        wanted = mirrored_convolution(wanted, kernel) + true[f"{layer}/bias"]
        parts = factored(kernel, seen, wanted, ranks)
        weights |= {f"{layer}_{part}": array for part, array in parts.items()}
        seen = tf.einsum("nhwi,ip->nhwp", seen, floats(parts["in/kernel"][0, 0]))
        seen = mirrored_convolution(seen, parts["mid/kernel"])
        seen = tf.einsum("nhwr,ro->nhwo", seen, floats(parts["out/kernel"][0, 0]))
        seen = tf.nn.relu(seen + floats(parts["out/bias"]))
        wanted = tf.nn.relu(wanted)
    if compressed:
        slim = compressed_network(compressed, ["conv3_1"])(pictures)["conv3_1"]
        weights |= fitted_waist(seen, tf.cast(slim, tf.float32))
    return {name: np.float32(array) for name, array in weights.items()}


def fitted_waist(seen: tf.Tensor, wanted: tf.Tensor) -> dict[str, np.ndarray]:
    """The waist by linear regression: the compressed network's ``conv3_1``."""
    ones = tf.ones_like(seen[..., :1])
    seen = tf.concat([seen, ones], -1)
    solved = np.linalg.pinv(second_moment(seen), rcond=1e-6) @ second_moment(
        seen, wanted
    )
    name = slim19.WAIST
    return {f"{name}/kernel": solved[None, None, :-1], f"{name}/bias": solved[-1]}


def build_student() -> tuple[keras.Model, keras.Model]:
    """The student with all its layers, and its deep layers, which are trained."""
    inputs = keras.Input([None, None, 3])
    taps = slim19.build(preprocess(inputs, "torch"))
    whole = keras.Model(inputs, {layer: taps[layer] for layer in slim19.CHANNELS})
    for layer in whole.layers:
        layer.trainable = layer.name >= DEEP[0]
    slim = whole.get_layer(slim19.head_name("block4_conv1")).input
    deep = {layer: taps[layer] for layer in DEEP}
    return whole, keras.Model(inputs, {**deep, "block4_conv1_slim": slim})


def with_average_pooling(model: keras.Model) -> keras.Model:
    """The same network, with the same weights, that averages where it took maxima."""

    def other(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.MaxPooling2D):
            return keras.layers.AveragePooling2D(2, 2)
        return layer

    return keras.models.clone_model(model, clone_function=other)


def relative_error(value: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """``‖value − target‖² / ‖target‖²``, float32."""
    value, target = tf.cast(value, tf.float32), tf.cast(target, tf.float32)
    norm = tf.reduce_sum(tf.square(target))
    return tf.reduce_sum(tf.square(value - target)) / (norm + 1e-6)


class Distiller(keras.Model):
    """Student and teacher as one Keras model, trained with ``fit``."""

    def __init__(self, student: keras.Model, teacher: keras.Model):
        super().__init__(autocast=False)
        self.student, self.teacher = student, teacher
        self.average = with_average_pooling(student)
        self.adapters = self._build_adapters()
        self.errors = {
            name: keras.metrics.Mean(name)
            for tap in teacher.output
            for name in ((tap, f"{tap}_gram") if tap in slim19.HEADS else (tap,))
        }

    def _build_adapters(self) -> dict[str, keras.layers.Layer]:
        # A whole teacher has more channels than the student. Layers without a head of
        # their own get one for the training only.
        adapters = {}
        for tap, target in self.teacher.output.items():
            if target.shape[-1] != self.student.output[tap].shape[-1]:
                adapters[tap] = keras.layers.Conv2D(
                    target.shape[-1], 1, activation="relu", name=f"{tap}_adapter"
                )
        return adapters

    def call(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """The student's estimates of the teacher's features, half by each pooling."""
        first, second = tf.split(images, 2)
        maxima, averages = self.student(first), self.average(second)
        features = {tap: tf.concat([maxima[tap], averages[tap]], 0) for tap in maxima}
        for tap, adapter in self.adapters.items():
            features[tap] = adapter(features[tap])
        return features

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        """The sum over layers of relative feature and Gram errors."""
        total = tf.constant(0.0)
        for tap, target in self.teacher(y).items():
            error = relative_error(y_pred[tap], target)
            self.errors[tap].update_state(error)
            total += error if tap in slim19.HEADS else SLIM_WEIGHT * error
            if tap in slim19.HEADS:
                made, wanted = (
                    gram_matrix(tf.cast(features, tf.float32))
                    for features in (y_pred[tap], target)
                )
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


def record(history, sources, seconds: float) -> dict[str, object]:
    """What is needed to repeat the run."""
    files = [path for path in (FLAGS.true_vgg, FLAGS.compressed_vgg) if path]
    before = pathlib.Path(FLAGS.resume_from or FLAGS.run).with_suffix(".json")
    return {
        "teacher": FLAGS.teacher,
        "teachers_sha256": {pathlib.Path(path).name: sha256(path) for path in files},
        "fitted_on": FLAGS.fitted,
        "steps": FLAGS.steps,
        "batch": FLAGS.batch,
        "crop": FLAGS.crop,
        "precision": "mixed bfloat16" if FLAGS.bfloat16 else "float32",
        "optimizer": f"Adam, {FLAGS.learning_rate} with cosine decay",
        "loss": "squared relative feature error + 0.5 × the same of the Gram matrices",
        "seed": FLAGS.seed,
        "pictures": {kind: len(files) for kind, files in sources.items()},
        "hours": round(seconds / 3600, 2),
        "validation": {k: round(v[-1], 4) for k, v in history.items() if "val_" in k},
        "resumed_from": json.loads(before.read_text()) if before.is_file() else None,
    }


def main(_: list[str]) -> None:
    """Trains; writes weights, log and backup to ``--run``."""
    run = pathlib.Path(FLAGS.run)
    run.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(FLAGS.seed)
    if FLAGS.bfloat16:
        keras.mixed_precision.set_global_policy("mixed_bfloat16")
    whole, student = build_student()
    if FLAGS.teacher == "parts":
        teacher, compressed = compressed_teacher(FLAGS.compressed_vgg)
        true, _ = read_weights(FLAGS.true_vgg)
    else:
        teacher, true = full_teacher()
        compressed = {}
    files = files_below(FLAGS.photos)
    held_out = files[::VALIDATION_SHARE]
    sources = {
        "photographs": sorted(set(files) - set(held_out)),
        "paintings": files_below(FLAGS.pictures),
        "visited": files_below(FLAGS.visited),
    }
    data = training_data(sources)
    if FLAGS.resume_from:
        start, _ = read_weights(FLAGS.resume_from)
    else:
        _, fitted = next(iter(data.unbatch().batch(FLAGS.fitted)))
        start = starting_weights(whole, true, compressed, fitted)
    assign_weights(whole, start, FLAGS.resume_from or "the teachers")
    distiller = Distiller(student, teacher)
    distiller(tf.zeros([2, FLAGS.crop, FLAGS.crop, 3]))
    distiller.compile(keras.optimizers.Adam(schedule(), beta_2=0.99))
    began = time.monotonic()
    history = distiller.fit(
        data,
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
    notes = record(history.history, sources, seconds)
    (run / "slim19.json").write_text(json.dumps(notes, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    flags.mark_flags_as_required(["photos", "run"])
    app.run(main)
