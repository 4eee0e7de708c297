"""What a training is about: some styles by name, or any style."""

from __future__ import annotations

import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.images.color import match_colors
from tfstyle.images.folder import is_readable, picture_files
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.networks.any_style import AnyStyleNet
from tfstyle.networks.apply import apply_network
from tfstyle.networks.blends import ANY
from tfstyle.networks.style_net import StyleNet, load_network
from tfstyle.networks.training_data import Photos
from tfstyle.networks.training_loss import AnyTrainingLoss, TrainingLoss
from tfstyle.options import TrainingOptions
from tfstyle.options.identity import digest

_SHOWN = 4
"""Paintings in which the test photograph of a network for any style is shown."""

_ITSELF = 16
"""One in so many photographs is to be left as it is."""


class Subject(Protocol):
    """What a training is about."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What must be the same for a run to go on."""
        ...

    @property
    def sources(self) -> Sequence[Photos]:
        """Pictures beside the photographs that are read along the way."""
        ...

    @property
    def style(self) -> tf.TensorSpec:
        """Describes what an example has of its style."""
        ...

    @property
    def loss(self) -> TrainingLoss | AnyTrainingLoss:
        """What is minimised."""
        ...

    def network(self, dtype: Any = None) -> StyleNet | AnyStyleNet:
        """A network at the beginning of the training."""
        ...

    def example(self, number: int, photo: np.ndarray) -> tuple[np.ndarray, Any]:
        """Of the photograph of a number: its content, and the style that it gets."""
        ...

    def samples(self, network: Any, photo: np.ndarray) -> np.ndarray:
        """A photograph in several styles, ``[styles, H, W, 3]``."""
        ...


def subject_of(
    styles: Any, start: Any, options: TrainingOptions, warn: Callable[[str], None]
) -> Subject:
    """What the arguments of ``train`` ask for.

    Raises:
      UsageError: If there is no style, or an option has no effect.
      ImageError: If a style picture is damaged.
    """
    if isinstance(styles, Mapping):
        if not styles:
            raise UsageError("styles: give at least one picture")
        return NamedStyles(styles, options, start)
    return AnyStyle(styles, start, options, warn)


class NamedStyles:
    """Some styles, whose names a ``StyleNet`` knows; see ``Subject``."""

    style = tf.TensorSpec([], tf.int64)
    sources: Sequence[Photos] = ()

    def __init__(
        self, styles: Mapping[str, Any], options: TrainingOptions, start: Any = None
    ):
        """Reads the style pictures.

        Args:
          styles: Pictures by name, see ``load_image``.
          options: The options of the training.
          start: What ``load_network`` reads; None for random weights.
        """
        self._options, self._start = options, None
        if start is not None:
            _refuse_shape(options, "the network to begin with has its own")
            self._start = load_network(start)
            if not isinstance(self._start, StyleNet):
                raise UsageError(
                    f"start={start}: takes any style; give 'bundled', or a network "
                    "that tfstyle train made with named styles"
                )
        self._pictures = {
            name: load_image(picture, options.style_size)
            for name, picture in styles.items()
        }
        self.names = list(self._pictures)
        self.settings = {
            "styles": self.names,
            "pictures": [digest(picture) for picture in self._pictures.values()],
            "start": str(start or ""),
        }

    @functools.cached_property
    def loss(self) -> TrainingLoss:
        """See ``Subject``."""
        pictures = list(self._pictures.values())
        return TrainingLoss(perceptual_loss(self._options), pictures)

    def network(self, dtype: Any = None) -> StyleNet:
        """See ``Subject``."""
        options = self._options
        if self._start is None:
            shape = (options.width, options.blocks)
            return StyleNet(self.names, *shape, seed=options.seed, dtype=dtype)
        return self._start.for_styles(self.names, dtype)

    def example(self, number: int, photo: np.ndarray) -> tuple[np.ndarray, Any]:
        """See ``Subject``."""
        style = number % len(self.names)
        if not self._options.recolor:
            return photo, np.int64(style)
        picture = self._pictures[self.names[style]]
        return match_colors(photo, picture), np.int64(style)

    def samples(self, network: StyleNet, photo: np.ndarray) -> np.ndarray:
        """See ``Subject``."""
        return np.concatenate(
            [
                apply_network(network, photo, network.blend({name: 1.0}))
                for name in self.names
            ]
        )


class AnyStyle:
    """The style of any picture, learned from many paintings; see ``Subject``."""

    def __init__(
        self,
        styles: Any,
        start: Any,
        options: TrainingOptions,
        warn: Callable[[str], None],
    ):
        """Looks the paintings up; reads none yet.

        Args:
          styles: A folder of paintings, searched to any depth, or a list of pictures.
          start: What ``load_network`` reads; None for what comes with tfstyle.
          options: The options of the training.
          warn: Called once for each painting that cannot be read.
        """
        _refuse_shape(options, "a network for any style has one size")
        self._options = options
        self._start = load_network(ANY if start is None else start)
        if not isinstance(self._start, AnyStyleNet):
            raise UsageError(
                f"start={start}: is no network for any style; give 'any', or one that "
                "tfstyle train made with style_folder"
            )
        files = _files(styles)
        seed = options.seed + 1
        self._paintings = Photos(files, options.size, seed, warn, "paintings")
        self.sources = [self._paintings]
        self.style = tf.TensorSpec([options.size, options.size, 3])
        self._shown = _spread(files)
        self.settings = {"any_style": len(files), "start": str(start or "")}

    @functools.cached_property
    def loss(self) -> AnyTrainingLoss:
        """See ``Subject``."""
        return AnyTrainingLoss(perceptual_loss(self._options))

    def network(self, dtype: Any = None) -> AnyStyleNet:
        """See ``Subject``."""
        network = AnyStyleNet(seed=self._options.seed, dtype=dtype)
        network.set_weights(self._start.get_weights())
        return network

    def example(self, number: int, photo: np.ndarray) -> tuple[np.ndarray, Any]:
        """See ``Subject``: now and then the photograph itself is the style.

        So the network learns to leave a picture as it is, which ``strength`` needs.
        """
        itself = number % _ITSELF == _ITSELF - 1
        return photo, photo if itself else self._paintings.crop(number)

    def samples(self, network: AnyStyleNet, photo: np.ndarray) -> np.ndarray:
        """See ``Subject``."""
        return np.concatenate(
            [network.painter(painting)(photo) for painting in self._shown]
        )


def _refuse_shape(options: TrainingOptions, why: str) -> None:
    """Refuses options that would choose the shape of a network that has one."""
    for name in ("width", "blocks"):
        if getattr(options, name) != getattr(TrainingOptions, name):
            raise UsageError(f"{name}: {why}; leave it out")


def shown_paintings(styles: Any) -> list[pathlib.Path]:
    """Those in which the test photograph is shown, of a folder or a list."""
    return _spread(_files(styles))


def _spread(files: list[pathlib.Path]) -> list[pathlib.Path]:
    """Some that can be read, from all parts of the list."""
    share = max(1, len(files) // _SHOWN)
    parts = (files[i : i + share] for i in range(0, len(files), share))
    found = (next(filter(is_readable, part), None) for part in parts)
    return list(itertools.islice(filter(None, found), _SHOWN))


def _files(styles: Any) -> list[pathlib.Path]:
    one = isinstance(styles, str | pathlib.Path)
    return picture_files(styles) if one else [pathlib.Path(style) for style in styles]
