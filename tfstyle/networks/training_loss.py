"""What a network is trained to minimise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from tfstyle.losses.perceptual import PerceptualLoss, Targets

if TYPE_CHECKING:
    from tfstyle.networks.any_style import AnyStyleNet
    from tfstyle.networks.style_net import StyleNet

Gradients: TypeAlias = tuple[tf.Tensor, Mapping[str, tf.Tensor], list[tf.Tensor]]


class TrainingLoss:
    """The perceptual loss of a network's pictures, each in one of several styles.

    Attributes:
      loss: The perceptual loss.
    """

    def __init__(self, loss: PerceptualLoss, styles: Sequence[np.ndarray]):
        """Computes the statistics of every style.

        Args:
          loss: The perceptual loss.
          styles: Pictures ``[1, H, W, 3]`` in [0, 1], in the order of the network's
            style names.
        """
        self.loss = loss
        found = [loss.style_statistics(style) for style in styles]
        self._statistics = {
            layer: tf.concat([of_one[layer] for of_one in found], 0)
            for layer in found[0]
        }
        self._roots = loss.roots(self._statistics)

    def targets(self, contents: tf.Tensor, styles: tf.Tensor) -> Targets:
        """What the pictures of one batch are compared with.

        Args:
          contents: The pictures whose content is wanted, ``[N, H, W, 3]`` in [0, 1].
          styles: Numbers of the styles, ``[N]`` integers.

        Returns:
          The targets.
        """
        statistics, roots = (
            {layer: tf.gather(of_all, styles) for layer, of_all in parts.items()}
            for parts in (self._statistics, self._roots)
        )
        size = contents.shape[1:3]
        if not size.is_fully_defined():
            size = tf.unstack(tf.shape(contents)[1:3])
        parts = self.loss.content_targets(contents)
        return self.loss.assemble(tuple(size), *parts, statistics, roots=roots)

    def evaluate(
        self, network: StyleNet, photos: tf.Tensor, styles: tf.Tensor, targets: Targets
    ) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        """The loss of the network's pictures of ``photos``: the total and its terms.

        They are means over the batch; ``photos`` are ``[N, H, W, 3]`` in [0, 1].
        """
        blend = tf.one_hot(styles, len(network.style_names))
        return self.loss(network(photos, blend), targets)

    def gradients(
        self,
        network: StyleNet,
        photos: tf.Tensor,
        contents: tf.Tensor,
        styles: tf.Tensor,
    ) -> Gradients:
        """See ``loss_gradients``; other arguments are those of the methods."""
        targets = self.targets(contents, styles)
        return loss_gradients(
            network, lambda: self.evaluate(network, photos, styles, targets)
        )


class AnyTrainingLoss:
    """The perceptual loss of pictures, each in the style of another picture.

    Attributes:
      loss: The perceptual loss.
    """

    def __init__(self, loss: PerceptualLoss):
        """Takes the perceptual loss."""
        self.loss = loss

    def gradients(
        self,
        network: AnyStyleNet,
        photos: tf.Tensor,
        contents: tf.Tensor,
        styles: tf.Tensor,
    ) -> Gradients:
        """See ``loss_gradients``; all pictures are ``[N, H, W, 3]`` in [0, 1]."""
        targets = self.loss.targets(contents, styles)
        return loss_gradients(
            network, lambda: self.loss(network(photos, network.code(styles)), targets)
        )


def loss_gradients(
    network: keras.Model,
    evaluate: Callable[[], tuple[tf.Tensor, Mapping[str, tf.Tensor]]],
) -> Gradients:
    """The total of a loss, its terms, and the gradients by the trainable variables.

    The gradients are divided by the number of replicas of the distribution strategy:
    Keras's optimizers add up those of all replicas.
    """
    with tf.GradientTape() as tape:
        total, terms = evaluate()
        share = total / tf.distribute.get_strategy().num_replicas_in_sync
    variables = [variable.value for variable in network.trainable_variables]
    return total, terms, tape.gradient(share, variables)
