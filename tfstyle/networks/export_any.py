"""A network for any style as other runtimes have it, whole and in two parts."""

from __future__ import annotations

import tensorflow as tf

from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.formats import Part, checked_pictures, graph_like, of_arrays


def any_style_parts(network: AnyStyleNet) -> dict[str, Part]:
    """The network and its two parts, by the names of their signatures."""

    def whole(content: tf.Tensor, style: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"stylized": network(content, network.code(style))}

    def encode(style: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.code(style)

    def stylize(content: tf.Tensor, **code: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"stylized": network(content, code)}

    examples = [(c, s, of_arrays(encode)(style=s)) for c, s in checked_pictures()]
    pairs = [{"content": content, "style": style} for content, style, _ in examples]
    styles = [{"style": style} for _, style, _ in examples]
    codes = [{"content": content, **code} for content, _, code in examples]
    return {
        "serving_default": Part(whole, pairs),
        "encode": Part(encode, styles),
        "stylize": Part(stylize, codes),
    }


class ServedAnyStyle(tf.Module):
    """A network's SavedModel, whose signatures other formats get one at a time.

    Attributes:
      endpoints: Its signatures by name.
    """

    def __init__(self, network: AnyStyleNet, batch: int | None):
        super().__init__()
        self.weights = [weight.value for weight in network.weights]
        self.endpoints = {
            name: graph_like(part.function, part.examples[0], batch)
            for name, part in any_style_parts(network).items()
        }
        whole = self._whole = self.endpoints["serving_default"]
        # `keras.layers.TFSMLayer` looks for this name, and gives one argument.
        pictures = [tf.TensorSpec([None, None, None, 3]) for _ in range(2)]
        self.serve = tf.function(
            lambda inputs: whole(*inputs)["stylized"],
            input_signature=[pictures],
            autograph=False,
        )

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 3])] * 2, autograph=False
    )
    def __call__(self, content: tf.Tensor, style: tf.Tensor) -> list[tf.Tensor]:
        """Same as TF-Hub's module for any style: the result is the only item."""
        return [self._whole(content, style)["stylized"]]
