"""What a worker does to pictures: ``Stylize``, for ``Dataset.map_batches``."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.files import sha256
from tfstyle.images import load_image
from tfstyle.images.color import keep_colors
from tfstyle.networks import blends
from tfstyle.options import APPLY_COLORS, check_choice
from tfstyle.options.text import to_text
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer.pictures import weighted_sources

_PUBLISHED = (*blends.PRESET_FILES, "imagenet")


class Stylize:
    """Stylizes batches of pictures, all with one engine.

    It travels with the content of its files, so that workers need none of them.

    Example:
      >>> photos = ray.data.read_images("photos", mode="RGB")
      >>> how = {"fn_constructor_kwargs": {"style_name": "waves"}, "concurrency": 4}
      >>> photos.map_batches(tfstyle.batch.Stylize, batch_size=16, **how)

    Attributes:
      settings: What decides the results: values that JSON can hold.
      size: Longest side of the results in pixels; None for the pictures' own.
      optimizes: Whether each picture is optimised, and not stylized in one pass.
    """

    def __init__(
        self,
        style: Any = None,
        *,
        style_name: str | Mapping[str, float] | None = None,
        model: str | os.PathLike[str] = blends.BUNDLED,
        color: str | None = None,
        size: int | None = None,
        max_memory: float = 0.0,
        workers: int = 1,
        **options: Any,
    ):
        """Reads and checks files; builds nothing yet.

        Args:
          style: Paths of style pictures, see ``tfstyle.stylize``. None for a trained
            style.
          style_name: A trained style, see ``tfstyle.apply_style``.
          model: The network; ``any``, or another ``AnyStyleNet``, gives the style of
            ``style`` in one pass. Otherwise each picture is optimised to ``style``.
          color: Whose colours, see ``tfstyle.stylize`` or ``tfstyle.apply_style``.
          size: Longest side of the results in pixels; None for the pictures' own, or
            with ``style`` for that of ``tfstyle.Options``.
          max_memory: Gigabytes that a worker may take; 0 for its share.
          workers: Workers that share a machine, or a GPU where there is one; 0 for one
            for each core.
          **options: With ``style``, other fields of ``tfstyle.Options``; for a network,
            ``strength`` and ``style_scale`` only.

        Raises:
          UsageError: If an option or a file cannot be used.
          ImageError: If a style picture is damaged.
        """
        any_style, sources = blends.takes_any_style(model), weighted_sources(style)
        self.size, self.optimizes = size, bool(sources) and not any_style
        self._max_memory, self._workers, self._name = max_memory, workers, style_name
        self._weights = [weight for _, weight in sources]
        self._files: dict[str, dict[str, bytes]] = {}
        if style_name is not None and sources:
            raise UsageError("style and style_name: give one of them")
        if any_style and not sources:
            raise UsageError("style: give the picture whose style is wanted")
        self.settings: dict[str, Any] = {"style": style_name}
        if self.optimizes:
            if str(model) != blends.BUNDLED:
                raise UsageError("style and model: give one of them, or an AnyStyleNet")
            given = {"color": color, "size": size}
            options |= {
                name: value for name, value in given.items() if value is not None
            }
            stylizer = Stylizer(**options)
            stylizer.load_styles(sources)
            self._options, self.size = vars(stylizer.options), stylizer.options.size
            self.settings |= {n: to_text(value) for n, value in self._options.items()}
            self.settings["weights"] = self._kept("weights", self._options["weights"])
            del self.settings["max_memory"]
        else:
            known = {"strength", "style_scale"} if any_style else set()
            if wrong := sorted(set(options) - known):
                raise UsageError(f"{wrong[0]}: this network has no such option")
            self._options, self._color = options, color or "style"
            check_choice("color", self._color, APPLY_COLORS)
            self.settings |= {"color": self._color, "size": size, **options}
            self.settings["model"] = self._kept("model", model)
            if names := blends.read_style_names(model):
                blends.blend_weights(names, style_name)
        if sources:
            digests = [self._kept(f"style{i}", f) for i, (f, _) in enumerate(sources)]
            self.settings["style"] = [*zip(digests, self._weights, strict=True)]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Stylizes a batch of a Ray dataset.

        Args:
          batch: With pictures ``[H, W, 3]`` in the column ``image``, uint8 or float in
            [0, 1], of one size or several.

        Returns:
          The batch, with results in the column, uint8.

        Raises:
          TfstyleError: If a picture is too small, or memory too short.
        """
        images = []
        for result in self.stylize(load_image(i, self.size)[0] for i in batch["image"]):
            if isinstance(result, TfstyleError):
                raise result
            images.append(np.rint(result * 255).astype("uint8"))
        return {**batch, "image": images}

    def stylize(
        self, pictures: Iterable[np.ndarray | TfstyleError]
    ) -> Iterator[np.ndarray | TfstyleError]:
        """Stylizes pictures of any sizes.

        Args:
          pictures: Float32 ``[H, W, 3]`` in [0, 1] each, or why there is none.

        Yields:
          The result of each in the same form, or what is wrong with it, in order.

        Raises:
          UsageError: If the style or a file cannot be used.
        """
        engine = self._engine
        for picture in pictures:
            try:
                if isinstance(picture, TfstyleError):
                    raise picture
                yield engine(picture)
            except Exception as error:
                told = user_error(error)
                if told is None:
                    raise
                yield told

    @functools.cached_property
    def _engine(self) -> Any:
        """A function of a picture ``[H, W, 3]``; takes this worker's share."""
        import tensorflow as tf

        from tfstyle.stylizer.memory import GIGABYTE, memory_limit

        cores = os.cpu_count() or 1
        sharing = self._workers or cores
        # It has begun already in a process of others.
        with contextlib.suppress(RuntimeError):
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
            if sharing > 1:
                threads = max(1, cores // sharing)
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
        memory = self._max_memory or memory_limit(0.0) / GIGABYTE / sharing
        build = self._optimizer if self.optimizes else self._network
        with tempfile.TemporaryDirectory(prefix="tfstyle-") as folder:
            styles = [
                (self._unpacked(folder, f"style{i}"), weight)
                for i, weight in enumerate(self._weights)
            ]
            return build(folder, styles, memory)

    def _optimizer(self, folder: str, styles: Any, memory: float) -> Any:
        weights = self._unpacked(folder, "weights", self._options["weights"])
        own = {"weights": weights, "max_memory": memory}
        stylizer = Stylizer(**{**self._options, **own})
        _ = stylizer.engine
        loaded = stylizer.load_styles(styles)
        return lambda picture: stylizer(picture, loaded).image

    def _network(self, folder: str, styles: Any, memory: float) -> Any:
        from tfstyle.networks.style_net import load_network

        model = self._unpacked(folder, "model", self.settings["model"])
        network: Any = load_network(model)
        style = styles or self._name
        paint = network.painter(style, max_memory=memory, **self._options)

        def stylize(picture: np.ndarray) -> np.ndarray:
            result = paint(picture[None])[0]
            return keep_colors(result, picture) if self._color == "content" else result

        return stylize

    def _kept(self, name: str, path: Any) -> str:
        """Keeps the content of files; gives its SHA-256, or the name of our own."""
        if str(path) in _PUBLISHED:
            return str(path)
        found = blends.files_of_network(path)
        digests = [sha256(file) for file in found]
        self._files[name] = {file.name: file.read_bytes() for file in found}
        return "".join(digests)

    def _unpacked(self, folder: str, name: str, published: str = "") -> str:
        """Where files are that have travelled here, or the name of our own."""
        path = pathlib.Path(folder, name)
        path.mkdir()
        kept = self._files.get(name, {})
        for file, content in kept.items():
            (path / file).write_bytes(content)
        return published if not kept else str(path / file if len(kept) == 1 else path)
