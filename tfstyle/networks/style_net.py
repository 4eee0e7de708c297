"""The feed-forward network of style transfer, one network for many styles.

The image transformation network of Johnson, Alahi and Fei-Fei (2016): convolutions down
to a quarter of the size, residual blocks, and up again, with later improvements:
reflected borders; instance normalisation (Ulyanov et al. 2016), with a scale and an
offset for each style (Dumoulin et al. 2017), so that one network holds many styles and
blends them; nearest-neighbour enlargement before a convolution instead of transposed
convolutions, which leave a checkerboard (Odena et al. 2016); and a sigmoid at the end,
so that pictures are in [0, 1].
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.images import load_image
from tfstyle.images.tiles import Field
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.losses.perceptual import PerceptualLoss
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.apply import (
    MomentsOf,
    Painter,
    Passes,
    apply_network,
    stylized,
)
from tfstyle.networks.blends import ANY, BUNDLED, blend_weights, network_path
from tfstyle.networks.layers import ConditionalInstanceNormalization
from tfstyle.networks.network_files import checked_shape, read_network, write_preset
from tfstyle.networks.operations import (
    convolution_to_rgb,
    mirrored,
    repeated_convolution,
)
from tfstyle.networks.training_loss import TrainingLoss
from tfstyle.options import TrainingOptions

Normalize = Callable[[int, tf.Tensor], tf.Tensor]


@keras.saving.register_keras_serializable("tfstyle")
class StyleNet(keras.Model):
    """A network that gives pictures the styles that it was trained on, in one pass.

    Example:
      >>> network = tfstyle.StyleNet.from_preset("bundled")
      >>> image = network.stylize("photo.jpg", "starry_night:0.7,the_scream:0.3")

    Attributes:
      presets: What ``from_preset`` knows by name, with a description.
      style_names: Names of the styles, in the order of a blend's shares.
      width: Channels of the first convolution.
      blocks: Number of residual blocks.
    """

    presets: ClassVar[Mapping[str, str]] = {
        BUNDLED: "Five styles: starry_night, the_scream, composition_vii, waves and "
        "stained_glass. Width 16, 5 blocks.",
        ANY: "Any style: the picture is given when it is applied.",
    }

    def __init__(
        self,
        style_names: Sequence[str],
        width: int = 32,
        blocks: int = 5,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ):
        """Builds the network with random weights.

        Args:
          style_names: A name for each style.
          width: Channels of the first convolution, doubled at each halving of the
            size; 32 in the paper.
          blocks: Residual blocks; 5 in the paper.
          seed: Seed of the weights; None for Keras's own.
          **kwargs: Arguments of ``keras.Model``; ``dtype`` is its policy.
        """
        super().__init__(**kwargs)
        self.style_names = list(style_names)
        self.width, self.blocks = width, blocks
        # Size of the kernel, stride, channels.
        down = [(9, 1, width), (3, 2, 2 * width), (3, 2, 4 * width)]
        residual = [(3, 1, 4 * width)] * (2 * blocks)
        up = [(3, 1, 2 * width), (3, 1, width)]
        self.convolutions, self.norms, channels = [], [], 3
        seeds = _seeds(seed)
        for i, (size, stride, filters) in enumerate([*down, *residual, *up]):
            convolution = keras.layers.Conv2D(
                filters,
                size,
                stride,
                use_bias=False,  # the normalisation would subtract it with the mean
                kernel_initializer=keras.initializers.GlorotUniform(next(seeds)),
                dtype=self.dtype_policy,
                name=f"convolution_{i}",
            )
            norm = ConditionalInstanceNormalization(
                len(self.style_names), dtype=self.dtype_policy, name=f"norm_{i}"
            )
            convolution.build([None, None, None, channels])
            norm.build([None, None, None, filters])
            self.convolutions.append(convolution)
            self.norms.append(norm)
            channels = filters
        # Pictures are mid-grey at first: a sigmoid that is saturated learns nothing.
        self.last = keras.layers.Conv2D(
            3,
            9,
            kernel_initializer=keras.initializers.RandomNormal(
                stddev=1e-3, seed=next(seeds)
            ),
            dtype=self.dtype_policy,
            name="last",
        )
        self.last.build([None, None, None, channels])
        self._training_loss: TrainingLoss | None = None
        self.built = True

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike[str] = BUNDLED
    ) -> StyleNet | AnyStyleNet:
        """Reads a trained network.

        Only names, two sizes and numbers are taken from a file, so that a file from a
        stranger can be tried.

        Args:
          preset: A name in ``presets``, a ``.keras`` file, a folder that
            ``save_to_preset`` wrote, or the folder of a training.

        Returns:
          The network, in float32; an ``AnyStyleNet`` where the file has one.

        Raises:
          UsageError: If the file does not exist, or is not such a network.
        """
        return load_network(preset)

    def save_to_preset(self, folder: str | os.PathLike[str]) -> None:
        """Writes the network, in float32, as a folder that ``from_preset`` reads.

        The folder gets ``config.json``, ``model.weights.h5`` and ``metadata.json``, as
        KerasHub's presets have them.

        Args:
          folder: The folder, which is made if there is none. An earlier preset is
            replaced.

        Raises:
          TfstyleError: If it cannot be written; an earlier preset stays as it was.
        """
        write_preset(self.plain(), folder)

    def for_styles(self, style_names: Sequence[str], dtype: Any = None) -> StyleNet:
        """A network of the same weights for other styles, to train on from.

        All of them are at first the mean of this network's styles. The convolutions
        know already how to draw, so that a new style is learned in a few hundred steps
        (Dumoulin et al. 2017 train nothing but its scales and offsets).

        Args:
          style_names: Same as in ``__init__``.
          dtype: Keras's policy of the new network; None for the current one.

        Returns:
          The network. This one stays as it is.
        """
        other = StyleNet(style_names, self.width, self.blocks, seed=0, dtype=dtype)
        mine, its = self.plain(), (len(style_names), 1)
        for layer, known in zip(other.convolutions, mine.convolutions, strict=True):
            layer.set_weights(known.get_weights())
        for layer, known in zip(other.norms, mine.norms, strict=True):
            tables = known.get_weights()
            layer.set_weights([np.tile(table.mean(0), its) for table in tables])
        other.last.set_weights(mine.last.get_weights())
        return other

    def stylize(
        self,
        content: Any,
        style: str | Mapping[str, float] | None = None,
        *,
        size: int | None = None,
        color: str = "style",
        protect: Any = None,
        max_memory: float = 0.0,
    ) -> np.ndarray:
        """Gives a picture one of the network's styles, or a blend of them.

        Args:
          content: Path, ``PIL.Image``, array or tensor, see ``load_image``.
          style: A name, or a blend ``name:weight,...``, also as a mapping; None for
            the first style.
          size: Longest side of the result in pixels; None keeps the content's own.
          color: ``style``, or ``content`` to keep the content's colours and stylize
            its luminance only, see ``keep_colors``.
          protect: A grey picture; where it is white, the picture stays as it is.
          max_memory: Gigabytes that may be taken. A picture that needs more is
            computed tile by tile, with the same result. 0: a safe share of what there
            is.

        Returns:
          The picture, ``[H, W, 3]`` float32, RGB in [0, 1].

        Raises:
          UsageError: If the style does not exist, the picture is too small, or an
            argument has a value that it cannot have.
          ImageError: If the file is not a picture, or is damaged.
        """
        paint = self.painter(style, max_memory=max_memory)
        return stylized(paint, content, size=size, color=color, protect=protect)

    def painter(
        self,
        style: str | Mapping[str, float] | None = None,
        *,
        max_memory: float = 0.0,
    ) -> Painter:
        """A function that gives pictures a style.

        Args:
          style: Same as in ``stylize``.
          max_memory: Same as in ``stylize``.

        Returns:
          A function of pictures ``[N, H, W, 3]``, float32 in [0, 1], that returns
          pictures of the same shape.

        Raises:
          UsageError: If a style does not exist, or a weight is not above 0.
        """
        blend = self.blend(style)
        return lambda pictures: apply_network(self, pictures, blend, max_memory)

    def blend(self, style: str | Mapping[str, float] | None = None) -> tf.Tensor:
        """The share of each style, as ``call`` takes them.

        Args:
          style: Same as in ``stylize``.

        Returns:
          Shares ``[1, styles]``, float32, that add up to 1.

        Raises:
          UsageError: If a style does not exist, or a weight is not above 0.
        """
        return tf.constant(blend_weights(self.style_names, style))

    def build(self, shape: Any = None) -> None:
        """Does nothing: the weights exist from the beginning, for every size."""

    def call(self, images: tf.Tensor, blend: tf.Tensor | None = None) -> tf.Tensor:
        """Stylizes pictures.

        Args:
          images: Float tensor ``[N, H, W, 3]``, RGB in [0, 1], of any height and width
            from 6 pixels.
          blend: Shares of the styles, ``[N, styles]`` or ``[1, styles]``, which should
            add up to 1; None for the first style.

        Returns:
          Float32 tensor of the same shape, RGB in [0, 1].
        """
        if blend is None:
            blend = tf.one_hot([0], len(self.style_names))
        return self._run(images, lambda i, x: self.norms[i](x, blend))

    def with_moments(
        self, images: tf.Tensor, blend: Any, moments_of: MomentsOf
    ) -> tf.Tensor:
        """``call`` with other moments than each picture's own, or in plain operations.

        Args:
          images: Same as in ``call``.
          blend: Same as in ``call``.
          moments_of: ``moments_of(i, x)`` gives mean and variance, ``[N, 1, 1, C]``,
            of what the i-th normalisation takes.

        Returns:
          Same as in ``call``.
        """
        return self._run(
            images,
            lambda i, x: self.norms[i].normalized(x, blend, *moments_of(i, x)),
        )

    def _run(self, images: tf.Tensor, normalize: Normalize) -> tf.Tensor:
        """``normalize(i, x)`` takes the place of the i-th normalisation."""
        stages = iter(range(len(self.convolutions)))

        def stage(x: tf.Tensor, activation: Callable = tf.nn.relu) -> tf.Tensor:
            i = next(stages)
            border = self.convolutions[i].kernel_size[0] // 2
            return activation(normalize(i, self.convolutions[i](mirrored(x, border))))

        x, sizes = tf.cast(images, self.compute_dtype), []
        for stride in (1, 2, 2):
            if stride > 1:
                sizes.append(tf.shape(x)[1:3])
            x = stage(x)
        for _ in range(self.blocks):
            x += stage(stage(x), activation=tf.identity)
        for i in stages:
            height, width = tf.unstack(sizes.pop())
            x = repeated_convolution(x, self.convolutions[i].kernel)
            x = x[:, :height, :width]
            x = tf.nn.relu(normalize(i, x))
        x = convolution_to_rgb(x, self.last.kernel, self.last.bias)
        return tf.sigmoid(tf.cast(x, tf.float32))

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        *,
        styles: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures the network for ``fit`` and ``evaluate``.

        With ``styles``, batches are ``(photos, numbers)``: photographs ``[N, H, W, 3]``
        in [0, 1], and for each the number of its style, ``[N]`` integers. A network
        with one style also takes batches of photographs alone. Without ``styles``, this
        is Keras's own ``compile``. ``tfstyle.train`` does more: it reads photographs,
        keeps checkpoints, and saves the running mean of the weights.

        Example:
          >>> network = tfstyle.StyleNet(["waves"])
          >>> network.compile("adam", styles={"waves": "waves.jpg"})
          >>> network.fit(photos.batch(4), epochs=2)

        Args:
          optimizer: Same as in ``keras.Model.compile``.
          loss: With ``styles``, a ``PerceptualLoss``; None for that of the default
            ``TrainingOptions``.
          styles: A picture for each of ``style_names``, see ``load_image``.
          **kwargs: Same as in ``keras.Model.compile``.

        Raises:
          UsageError: If ``styles`` has other names than the network, or a picture
            cannot be used.
        """
        self._training_loss = None
        if styles is not None:
            if sorted(styles) != sorted(self.style_names):
                raise UsageError(
                    f"styles: has pictures for {', '.join(styles) or 'no style'}; give "
                    f"one for each of {', '.join(self.style_names)}"
                )
            pictures = [load_image(styles[name]) for name in self.style_names]
            if loss is None:
                loss = perceptual_loss(TrainingOptions())
            if not isinstance(loss, PerceptualLoss):
                raise UsageError(f"loss={loss!r}: with styles, give a PerceptualLoss")
            # Slashes stand between layers in the names of Keras.
            self._means = {
                name: keras.metrics.Mean(name.replace("/", "_"))
                for name in ("loss", *loss.term_names)
            }
            self._training_loss, loss = TrainingLoss(loss, pictures), None
            kwargs = {"jit_compile": False, "auto_scale_loss": False, **kwargs}
        super().compile(optimizer, loss, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One step of ``fit``, see ``compile``."""
        if self._training_loss is None:
            return super().train_step(data)
        photos, styles = self._batch(data)
        total, terms, gradients = self._training_loss.gradients(
            self, photos, photos, styles
        )
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._averages(total, terms, photos)

    def test_step(self, data: Any) -> dict[str, Any]:
        """One step of ``evaluate``, see ``compile``."""
        if self._training_loss is None:
            return super().test_step(data)
        photos, styles = self._batch(data)
        targets = self._training_loss.targets(photos, styles)
        losses = self._training_loss.evaluate(self, photos, styles, targets)
        return self._averages(*losses, photos)

    def _batch(self, data: Any) -> tuple[tf.Tensor, tf.Tensor]:
        photos, styles, _ = keras.utils.unpack_x_y_sample_weight(data)
        photos = tf.convert_to_tensor(photos)
        if styles is None:
            if len(self.style_names) > 1:
                raise UsageError(
                    "the network has several styles: give batches (photos, numbers of "
                    "their styles)"
                )
            styles = tf.zeros(tf.shape(photos)[:1], tf.int32)
        return photos, tf.convert_to_tensor(styles)

    def _averages(
        self, total: tf.Tensor, terms: Mapping[str, tf.Tensor], photos: tf.Tensor
    ) -> dict[str, Any]:
        """Means of the losses over the epoch so far."""
        for name, value in {"loss": total, **terms}.items():
            self._means[name].update_state(value, sample_weight=tf.shape(photos)[0])
        return {name: mean.result() for name, mean in self._means.items()}

    @functools.cached_property
    def passes(self) -> Passes:
        """What applies the network to pictures of any size."""
        # Two borders of 4; 1, 2, 2 and 1 of the convolutions beside the blocks; up to 7
        # where an enlargement rounds.
        reach, blocks = 17 + 8 * self.blocks, [4] * (2 * self.blocks)
        return Passes(
            self,
            tf.TensorSpec([1, len(self.style_names)]),
            Field(stride=4, before=reach, after=reach),
            strides=(1, 2, 4, *blocks, 2, 1),
            # Two or three tensors of the first convolution's shape at a time.
            bytes_per_pixel=2.75 * self.width * tf.as_dtype(self.compute_dtype).size,
            least_side=6,  # less cannot be reflected at each convolution
        )

    def get_config(self) -> dict[str, Any]:
        """The arguments of ``__init__`` that ``.keras`` files and presets keep."""
        return {
            **super().get_config(),
            "style_names": self.style_names,
            "width": self.width,
            "blocks": self.blocks,
        }

    def plain(self) -> StyleNet:
        """The same network in float32, as files hold it."""
        plain = StyleNet(self.style_names, self.width, self.blocks, seed=0)
        plain.set_weights(self.get_weights())
        return plain


def _seeds(seed: int | None) -> Iterator[int | None]:
    """A seed for each initializer."""
    numbers = random.Random(seed)
    while True:
        yield None if seed is None else numbers.randint(1, 10**9)


def apply_style(
    content: Any,
    style: Any = None,
    *,
    model: str | os.PathLike[str] | StyleNet | AnyStyleNet = BUNDLED,
    **options: Any,
) -> np.ndarray:
    """Gives a picture a style in one pass.

    The networks of the package are read once.

    Example:
      >>> image = tfstyle.apply_style("photo.jpg", "starry_night", size=1024)
      >>> image = tfstyle.apply_style("photo.jpg", "painting.jpg", model="any")

    Args:
      content: Same as in ``StyleNet.stylize``.
      style: Same as in ``StyleNet.stylize``, or with ``any`` as in
        ``AnyStyleNet.stylize``.
      model: A network, or what ``StyleNet.from_preset`` reads.
      **options: Those of the network's ``stylize``.

    Returns:
      The picture, ``[H, W, 3]`` float32, RGB in [0, 1].

    Raises:
      UsageError: If the style or the model does not exist, the picture is too small,
        or an argument has a value that it cannot have.
      ImageError: If a file is not a picture, or is damaged.
    """
    if not isinstance(model, StyleNet | AnyStyleNet):
        published = str(model) in StyleNet.presets
        model = _published(str(model)) if published else load_network(model)
    return model.stylize(content, style, **options)


def load_network(
    model: str | os.PathLike[str] = BUNDLED,
) -> StyleNet | AnyStyleNet:
    """Reads a trained network: ``StyleNet.from_preset``.

    Args:
      model: Same as ``preset`` there.

    Returns:
      The network, in float32.

    Raises:
      UsageError: If the file does not exist, or is not such a network.
    """
    builders = {
        "tfstyle>StyleNet": lambda *file: StyleNet(*checked_shape(*file), seed=0),
        "tfstyle>AnyStyleNet": lambda *file: AnyStyleNet(seed=0),
    }
    return read_network(network_path(model), builders)


def save_network(network: StyleNet | AnyStyleNet, path: str | os.PathLike[str]) -> None:
    """Writes a network, in float32, as a ``.keras`` file, over one that exists.

    Raises:
      TfstyleError: If the file cannot be written.
    """
    with replaced(path) as temporary:
        network.plain().save(temporary)


@functools.lru_cache(2)
def _published(name: str) -> StyleNet | AnyStyleNet:
    return load_network(name)
