"""The engine as users see it: ``Stylizer``, and the functions that use it once."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfstyle.backend import check_backend
from tfstyle.errors import UsageError
from tfstyle.files import PathLike
from tfstyle.optimizers.progress import checked_callbacks
from tfstyle.options import INVERT, STYLIZE, TEXTURE, Options, Recipe, fields_of
from tfstyle.options.presets import preset_names, preset_options
from tfstyle.stylizer.film import FRAME_STEPS, TEMPORAL_WEIGHT
from tfstyle.stylizer.pictures import (
    LoadedStyles,
    Pictures,
    read_pictures,
    read_styles,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tfstyle.optimizers.progress import Callback
    from tfstyle.options.keywords import StylizeKeywords
    from tfstyle.stylizer.engine import Engine
    from tfstyle.stylizer.film import FrameStylizer
    from tfstyle.stylizer.result import Result
    from tfstyle.stylizer.sweep import Cell

SECONDS_BETWEEN_CHECKPOINTS = 30.0


class Stylizer:
    """Stylizes pictures with one set of options, as often as it is called.

    The network is built and its weights are read at the first call. Later calls, with
    pictures of any size, trace no graph, unless the picture is computed by tiles.

    Example:
      >>> stylizer = tfstyle.Stylizer(size=768, style_weight=2.0)
      >>> result = stylizer("photo.jpg", "painting.jpg")
      >>> result.save("out.png")

    Attributes:
      options: All options, with their defaults.
      presets: Names of the published experiments that ``from_preset`` takes.
    """

    presets: tuple[str, ...] = tuple(preset_names())

    def __init__(self, **options: Unpack[StylizeKeywords]):
        """Checks the options; builds nothing yet.

        Args:
          **options: The fields of ``tfstyle.Options``.

        Raises:
          UsageError: If an option does not exist, or has a value that it cannot have.
        """
        self._given: dict[str, Any] = dict(options)
        self.options: Options = STYLIZE.options(self._given)
        self._engine: Engine | None = None
        self._variants: dict[str, Stylizer] = {}

    def __repr__(self) -> str:
        chosen = [
            f"{field.name}={getattr(self.options, field.name)!r}"
            for field in fields_of(Options)
            if getattr(self.options, field.name) != field.default_of(self.options)
        ]
        return f"Stylizer({', '.join(chosen)})"

    @classmethod
    def from_preset(cls, name: str, **options: Unpack[StylizeKeywords]) -> Stylizer:
        """A published experiment.

        Args:
          name: One of ``presets``.
          **options: Options that differ from the experiment's.

        Raises:
          UsageError: If there is no such preset, or an option cannot be used.
        """
        return cls(**{**preset_options(name), **options})  # type: ignore[typeddict-item]

    @classmethod
    def for_recipe(cls, recipe: Recipe, given: Mapping[str, Any]) -> Stylizer:
        """A stylizer for another kind of run, with that kind's defaults.

        Args:
          recipe: Such as ``options.TEXTURE``.
          given: Options by name.

        Raises:
          UsageError: If an option does not exist there, or cannot be used.
        """
        return cls(**vars(recipe.options(given)))

    def __call__(
        self,
        content: Any,
        style: Any,
        *,
        content_mask: Any = None,
        style_mask: Any = None,
        protect: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: PathLike | None = None,
        checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    ) -> Result:
        """Gives one picture the style of another (Gatys, Ecker and Bethge 2016).

        Args:
          content: Path, ``PIL.Image``, array or tensor (see ``load_image``), or a list
            of them that have one size when loaded: they are optimised as one batch,
            which keeps a GPU busy. None where ``content_weight`` is 0.
          style: One picture, a folder, a list of pictures or of ``(picture, weight)``,
            or a mapping from paths to weights: a blend of their statistics. None
            where ``style_weight`` is 0. From ``load_styles``, to read them once.
          content_mask: A picture of the content picture's regions, grey or in the
            colours of ``images.masks.LABELS`` (Gatys et al. 2017). Each region takes
            the style of its place in the list, or what has its colour in
            ``style_mask``. With one style alone, black stays as it is.
          style_mask: The same for the style picture, or a list of one for each; without
            ``content_mask``, what is white counts.
          protect: A grey picture; what is white stays as it is.
          callbacks: Called with a ``Progress`` about four times a second; one that
            returns True ends the run with the picture so far.
          checkpoint: A folder that keeps the state of the run, so that the same call
            goes on after an interruption, with the same bits on a CPU.
          checkpoint_every: Seconds between checkpoints.

        Returns:
          The picture, the history of the loss, and the seconds that it took.

        Raises:
          UsageError: If a picture or an option cannot be used; the message says why.
          ImageError: If a file is not a picture, or is damaged.
          NonFiniteLossError: If the loss became NaN or infinite; ``error.result`` has
            the last good picture.
        """
        pictures = self.read(
            content,
            style,
            content_mask=content_mask,
            style_mask=style_mask,
            protect=protect,
        )
        return self.run(pictures, callbacks, checkpoint, checkpoint_every)

    def read(
        self,
        content: Any,
        style: Any,
        *,
        content_mask: Any = None,
        style_mask: Any = None,
        protect: Any = None,
    ) -> Pictures:
        """Reads and checks pictures for ``run``, without importing TensorFlow.

        The arguments are those of ``__call__``.

        Raises:
          UsageError: If a picture is missing, or cannot be used.
          ImageError: If a file is not a picture, or is damaged.
        """
        return read_pictures(
            self.options,
            content,
            style,
            content_mask=content_mask,
            style_mask=style_mask,
            protect=protect,
        )

    def load_styles(self, style: Any) -> LoadedStyles:
        """Reads style pictures once, for several calls.

        Args:
          style: Same as in ``__call__``.

        Returns:
          What ``__call__`` and ``read`` take as ``style``.

        Raises:
          UsageError: If there is no style, or its weights cannot be used.
          ImageError: If a file is not a picture, or is damaged.
        """
        return read_styles(self.options, style)

    def run(
        self,
        pictures: Pictures,
        callbacks: Sequence[Callback] = (),
        checkpoint: PathLike | None = None,
        checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
        *,
        temporal_weight: float = 0.0,
    ) -> Result:
        """Optimises pictures that ``read`` has read: the second half of ``__call__``.

        Further arguments and the result are those of ``__call__``. In films,
        ``temporal_weight`` is the weight of the distance to ``pictures.warped``.

        Raises:
          UsageError: If the pictures are too small, do not fit in memory, or the
            checkpoint is of another run.
          NonFiniteLossError: If the loss became NaN or infinite.
        """
        callbacks, kept = checked_callbacks(callbacks), None
        if not isinstance(checkpoint_every, int | float) or checkpoint_every < 0:
            raise UsageError(
                f"checkpoint_every={checkpoint_every!r}: give a number of at least 0"
            )
        from tfstyle.stylizer.checkpoint import Checkpoint
        from tfstyle.stylizer.run import Run

        if checkpoint:
            kept = Checkpoint(checkpoint, self.options, pictures, checkpoint_every)
        return Run(
            self.engine, self.options, pictures, callbacks, kept, temporal_weight
        ).finish()

    def invert(
        self,
        content: Any,
        layer: str | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoint: PathLike | None = None,
        checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    ) -> Result:
        """Inverts a layer: a picture whose features equal a picture's.

        Mahendran and Vedaldi (2015), "Understanding Deep Image Representations by
        Inverting Them". Options that this stylizer was not given have the defaults of
        ``invert``.

        ``layer`` names the layer; None stands for ``content_layers``, or the network's
        own content layers. Other arguments, result and errors are those of
        ``__call__``.
        """
        layers = {} if layer is None else {"content_layers": {layer: 1.0}}
        variant = self._variant(INVERT, layers)
        pictures = variant.read(content, None)
        return variant.run(pictures, callbacks, checkpoint, checkpoint_every)

    def texture(
        self,
        style: Any,
        width: int | None = None,
        height: int | None = None,
        *,
        style_mask: Any = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: PathLike | None = None,
        checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    ) -> Result:
        """Makes a new picture with the texture of another (Gatys et al. 2015).

        Options that this stylizer was not given have the defaults of ``texture``.

        ``width`` and ``height`` are the result's in pixels, at least 1; None stands for
        the style picture's. Other arguments, result and errors are those of
        ``__call__``.
        """
        variant = self._variant(TEXTURE, {})
        pictures = variant.read_texture(style, width, height, style_mask=style_mask)
        return variant.run(pictures, callbacks, checkpoint, checkpoint_every)

    def read_texture(
        self,
        style: Any,
        width: int | None = None,
        height: int | None = None,
        *,
        style_mask: Any = None,
    ) -> Pictures:
        """Reads and checks the pictures of a texture for ``run``.

        The arguments are those of ``texture``.

        Raises:
          UsageError: If a side is not at least 1, or the picture cannot be used.
          ImageError: If a file is not a picture, or is damaged.
        """
        for name, side in (("width", width), ("height", height)):
            if side is not None and (not isinstance(side, int) or side < 1):
                raise UsageError(f"{name}={side!r}: give a whole number of at least 1")
        if self.options.style_loss == "neighbors":
            raise UsageError(
                "style_loss='neighbors' needs a content picture, which a texture does "
                "not have; give 'wasserstein' or 'gram'"
            )
        pictures = self.read(None, style, style_mask=style_mask)
        size = (height or pictures.size[0], width or pictures.size[1])
        return dataclasses.replace(pictures, size=size)

    def sweep(
        self,
        content: Any,
        style: Any,
        grid: Mapping[str, Sequence[Any]],
        *,
        content_mask: Any = None,
        style_mask: Any = None,
        protect: Any = None,
        callbacks: Callable[[dict[str, Any]], Sequence[Callback]] | None = None,
    ) -> Iterator[Cell]:
        """Stylizes a picture with every combination of some options.

        Same as ``tfstyle.sweep`` with the options of this stylizer.
        """
        from tfstyle.stylizer.sweep import sweep

        return sweep(
            content,
            style,
            grid,
            content_mask=content_mask,
            style_mask=style_mask,
            protect=protect,
            callbacks=callbacks,
            **self._given,
        )

    def film(
        self,
        style: Any,
        *,
        frame_steps: int = FRAME_STEPS,
        temporal_weight: float = TEMPORAL_WEIGHT,
    ) -> FrameStylizer:
        """What stylizes the frames of a film, each from the one before.

        Args:
          style: Same as in ``__call__``.
          frame_steps: Evaluations of the loss at each size of each frame but the
            first.
          temporal_weight: Weight of the difference to the frame before.

        Returns:
          A function of a frame, the frame before as the film moves it, and how far that
          is to be trusted; see ``video.stylize_video``.

        Raises:
          UsageError: If the style cannot be used, or a number is out of range.
          ImageError: If a style picture is damaged.
        """
        from tfstyle.stylizer.film import FrameStylizer

        return FrameStylizer(self, style, frame_steps, temporal_weight)

    def with_options(self, **options: Unpack[StylizeKeywords]) -> Stylizer:
        """A stylizer with other options, on the same engine if that has their layers.

        Args:
          **options: The options that change.

        Raises:
          UsageError: If an option does not exist, or has a value that it cannot have.
        """
        other = Stylizer(**{**self._given, **options})  # type: ignore[typeddict-item]
        if self.engine.serves(other.options):
            other._engine = self.engine
        return other

    @property
    def engine(self) -> Engine:
        """The network and the graphs; built when first asked for."""
        if self._engine is None:
            check_backend()
            from tfstyle.stylizer.engine import Engine

            self._engine = Engine([self.options])
        return self._engine

    def _variant(self, recipe: Recipe, more: Mapping[str, Any]) -> Stylizer:
        """A stylizer for another kind of run, with what this one was given."""
        known = {field.name for field in recipe.fields}
        given = {name: self._given[name] for name in self._given if name in known}
        variant = self.for_recipe(recipe, {**given, **more})
        kept = self._variants.get(recipe.name)
        if kept is None or kept.options != variant.options:
            kept = self._variants[recipe.name] = variant
        return kept


def stylize(
    content: Any,
    style: Any,
    *,
    content_mask: Any = None,
    style_mask: Any = None,
    protect: Any = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: PathLike | None = None,
    checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    **options: Unpack[StylizeKeywords],
) -> Result:
    """Gives one picture the style of another (Gatys, Ecker and Bethge 2016).

    For several pictures, a ``Stylizer`` builds the network and its graphs only once.
    Arguments, result and errors are those of ``Stylizer.__call__``; ``options`` are the
    fields of ``tfstyle.Options``.

    Example:
      >>> result = tfstyle.stylize("photo.jpg", "painting.jpg", size=768)
      >>> result.save("out.png")
    """
    stylizer = Stylizer(**options)
    pictures = stylizer.read(
        content,
        style,
        content_mask=content_mask,
        style_mask=style_mask,
        protect=protect,
    )
    return _run_once(stylizer, pictures, callbacks, checkpoint, checkpoint_every)


def invert_features(
    content: Any,
    layer: str | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: PathLike | None = None,
    checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    **options: Unpack[StylizeKeywords],
) -> Result:
    """Finds a picture whose features equal a picture's (Mahendran and Vedaldi 2015).

    Arguments, result and errors are those of ``Stylizer.invert``; ``options`` are the
    fields of ``tfstyle.Options`` that are not about style.
    """
    layers = {} if layer is None else {"content_layers": {layer: 1.0}}
    stylizer = Stylizer.for_recipe(INVERT, {**options, **layers})
    pictures = stylizer.read(content, None)
    return _run_once(stylizer, pictures, callbacks, checkpoint, checkpoint_every)


def synthesize_texture(
    style: Any,
    width: int | None = None,
    height: int | None = None,
    *,
    style_mask: Any = None,
    callbacks: Sequence[Callback] = (),
    checkpoint: PathLike | None = None,
    checkpoint_every: float = SECONDS_BETWEEN_CHECKPOINTS,
    **options: Unpack[StylizeKeywords],
) -> Result:
    """Makes a new picture with the texture of another (Gatys et al. 2015).

    Arguments, result and errors are those of ``Stylizer.texture``; ``options`` are the
    fields of ``tfstyle.Options`` that are not about content.
    """
    stylizer = Stylizer.for_recipe(TEXTURE, options)
    pictures = stylizer.read_texture(style, width, height, style_mask=style_mask)
    return _run_once(stylizer, pictures, callbacks, checkpoint, checkpoint_every)


def _run_once(
    stylizer: Stylizer,
    pictures: Pictures,
    callbacks: Sequence[Callback],
    checkpoint: PathLike | None,
    checkpoint_every: float,
) -> Result:
    """Runs a stylizer that is not needed again, and frees its graphs.

    They take tens of megabytes, and are in cycles of references, for which Python
    rarely looks where a process has as many objects as TensorFlow makes.
    """
    try:
        return stylizer.run(pictures, callbacks, checkpoint, checkpoint_every)
    finally:
        stylizer._engine = None
        gc.collect()
