"""What a worker does to pictures: ``Stylize``, for ``Dataset.map_batches``."""

from __future__ import annotations

import collections
import functools
import hashlib
import io
import os
import pathlib
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.images import load_image
from tfstyle.images.color import keep_colors
from tfstyle.networks.blends import (
    CONFIG,
    PRESET_FILES,
    TRAINED,
    WEIGHTS,
    blend_weights,
    read_style_names,
    takes_any_style,
)
from tfstyle.options import APPLY_COLORS
from tfstyle.options.text import to_text
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer.pictures import weighted_sources

MOST_PIXELS = 4_000_000
"""Pixels of several pictures that are computed at once."""
BATCH_ON_GPU = 16
_PUBLISHED = (*PRESET_FILES, "imagenet")


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
        model: str | os.PathLike[str] = "bundled",
        color: str | None = None,
        size: int | None = None,
        batch_size: int | None = None,
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
          batch_size: With a trained style, pictures of one size that are computed at
            once at most; None for 1 on CPUs, where more gain nothing, and 16 on GPUs.
          max_memory: Gigabytes that a worker may take; 0 for its share.
          workers: Workers that share a machine, or a GPU where there is one; 0 for one
            for each core.
          **options: With ``style``, other fields of ``tfstyle.Options``; for a network,
            ``strength`` and ``style_scale`` only.

        Raises:
          UsageError: If an option or a file cannot be used.
          ImageError: If a style picture is damaged.
        """
        any_style = takes_any_style(model)
        self.size, self.optimizes = size, style is not None and not any_style
        self._batch_size, self._max_memory = batch_size, max_memory
        self._workers, self._weights = workers, list[float]()
        self.settings: dict[str, Any] = {}
        self._files: dict[str, bytes] = {}
        if style_name is not None and (self.optimizes or any_style):
            raise UsageError("style and style_name: give one of them")
        if self.optimizes:
            self._keep_optimization(style, model, color, options)
            return
        known = ("strength", "style_scale") if any_style else ()
        if wrong := sorted(set(options) - set(known)):
            raise UsageError(f"{wrong[0]}: this network has no such option")
        if color not in (None, *APPLY_COLORS):
            raise UsageError(
                f"color={color!r}: choose one of {', '.join(APPLY_COLORS)}"
            )
        self._name, self._color, self._options = style_name, color or "style", options
        self.settings |= {"color": self._color, "size": size, **options}
        self.settings["model"] = self._kept("model", model)
        if any_style:
            if style is None:
                raise UsageError("style: give the picture whose style is wanted")
            self._keep_styles(weighted_sources(style))
            return
        self.settings["style"] = style_name
        if names := read_style_names(model):
            blend_weights(names, style_name)

    def _keep_optimization(
        self, style: Any, model: Any, color: str | None, options: dict[str, Any]
    ) -> None:
        """Keeps what each picture is optimised with."""
        if str(model) != "bundled":
            raise UsageError("style and model: give one of them, or an AnyStyleNet")
        size = self.size
        given = {"color": color, "size": size}
        options |= {name: value for name, value in given.items() if value is not None}
        stylizer, sources = Stylizer(**options), weighted_sources(style)
        stylizer.load_styles(sources)
        self._options = vars(stylizer.options)
        self.size = stylizer.options.size
        self.settings |= {name: to_text(self._options[name]) for name in self._options}
        self.settings["weights"] = self._kept("weights", self._options["weights"])
        self._keep_styles(sources)
        del self.settings["max_memory"]

    def _keep_styles(self, sources: Sequence[tuple[Any, float]]) -> None:
        self._weights = [weight for _, weight in sources]
        digests = [self._kept(f"style{i}", path) for i, (path, _) in enumerate(sources)]
        self.settings["style"] = [*zip(digests, self._weights, strict=True)]

    def _styles(self) -> list[tuple[io.BytesIO, float]]:
        """The style pictures that have travelled here, with their weights."""
        contents = (self._files[f"style{i}"] for i in range(len(self._weights)))
        return [*zip(map(io.BytesIO, contents), self._weights, strict=True)]

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
        pictures = [load_image(image, self.size)[0] for image in batch["image"]]
        images = np.empty(len(pictures), object)
        for i, result in enumerate(self.stylize(pictures)):
            if isinstance(result, TfstyleError):
                raise result
            images[i] = np.rint(result * 255).astype("uint8")
        same = len({image.shape for image in images}) == 1
        return {**batch, "image": np.stack(list(images)) if same else images}

    def stylize(
        self, pictures: Sequence[np.ndarray]
    ) -> Iterator[np.ndarray | TfstyleError]:
        """Stylizes pictures of any sizes.

        Args:
          pictures: Float32 ``[H, W, 3]`` in [0, 1] each.

        Returns:
          The result of each in the same form, or what is wrong with it, in order.
        """
        results: dict[int, np.ndarray | TfstyleError] = {}
        groups = collections.defaultdict(list)
        for i, picture in enumerate(pictures):
            groups[i if self.optimizes else picture.shape].append(i)
        for indices in groups.values():
            images = np.stack([pictures[i] for i in indices])
            try:
                results.update(zip(indices, self._engine(images), strict=True))
            except Exception as error:
                told = user_error(error)
                if told is None:
                    raise
                results.update(dict.fromkeys(indices, told))
        return (results[i] for i in range(len(pictures)))

    def __getstate__(self) -> dict[str, Any]:
        built = ("_engine", "_folder", "batch_size")
        return {
            name: self.__dict__[name] for name in self.__dict__ if name not in built
        }

    @functools.cached_property
    def batch_size(self) -> int:
        """Pictures that are computed at once at most."""
        import tensorflow as tf

        on_gpu = tf.config.list_physical_devices("GPU") and not self.optimizes
        return self._batch_size or (BATCH_ON_GPU if on_gpu else 1)

    def check(self) -> None:
        """Builds the engine.

        Raises:
          UsageError: If the style does not exist, or a file is of another kind.
        """
        _ = self._engine

    @functools.cached_property
    def _engine(self) -> Any:
        """A function of pictures ``[N, H, W, 3]``; takes this worker's share."""
        import tensorflow as tf

        from tfstyle.stylizer.memory import GIGABYTE, memory_limit

        gpus, cores = tf.config.list_physical_devices("GPU"), os.cpu_count() or 1
        sharing = self._workers or cores
        try:
            for gpu in gpus:
                tf.config.experimental.set_memory_growth(gpu, True)
            if sharing > 1 and not gpus:
                threads = max(1, cores // sharing)
                tf.config.threading.set_intra_op_parallelism_threads(threads)
                tf.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:
            pass  # TensorFlow has begun, in a process of others
        memory = self._max_memory or memory_limit(0.0) / GIGABYTE / sharing
        self._folder = tempfile.TemporaryDirectory(prefix="tfstyle-")
        return self._optimizer(memory) if self.optimizes else self._network(memory)

    def _optimizer(self, memory: float) -> Any:
        options = {**self._options, "max_memory": memory}
        options["weights"] = self._path("weights", options["weights"])
        stylizer = Stylizer(**options)
        _ = stylizer.engine
        styles = stylizer.load_styles(self._styles())
        return lambda images: stylizer(images, styles).images

    def _network(self, memory: float) -> Any:
        import tensorflow as tf

        from tfstyle.networks.apply import apply_network
        from tfstyle.networks.style_net import load_network
        from tfstyle.stylizer.memory import GIGABYTE, RUNTIME

        network: Any = load_network(self._path("model", self.settings["model"]))
        if self._weights:
            paint = network.painter(self._styles(), max_memory=memory, **self._options)
            return lambda images: self._colored(
                np.concatenate([paint(image[None]) for image in images]), images
            )
        blend = network.blend(self._name)
        shapes = (tf.TensorSpec([None, None, None, 3]), tf.TensorSpec(blend.shape))
        at_once = tf.function(network.call, input_signature=shapes, autograph=False)
        passes, least = network.passes, network.passes.least_side
        free = max(0.0, memory * GIGABYTE - RUNTIME) / passes.bytes_per_pixel

        def stylize(images: np.ndarray) -> np.ndarray:
            fits = images.size / 3 <= min(free, MOST_PIXELS)
            if len(images) > 1 and fits and min(images.shape[1:3]) >= least:
                results = at_once(images, blend).numpy()
            else:
                each = [apply_network(network, i[None], blend, memory) for i in images]
                results = np.concatenate(each)
            return self._colored(results, images)

        return stylize

    def _colored(self, results: np.ndarray, images: np.ndarray) -> np.ndarray:
        return keep_colors(results, images) if self._color == "content" else results

    def _kept(self, name: str, path: Any) -> str:
        """Keeps the content of a file; gives its SHA-256, or the name of our own."""
        if str(path) in _PUBLISHED:
            return str(path)
        file = pathlib.Path(path)
        if (file / CONFIG).is_file():
            file_name, content = TRAINED, _packed(file)
        else:
            file = file / TRAINED if file.is_dir() else file
            file_name, content = file.name, _content(file)
        self._files[name] = content
        self._files[f"{name} file"] = file_name.encode()
        return hashlib.sha256(content).hexdigest()

    def _path(self, name: str, published: str) -> str:
        """Where a file is that has travelled here."""
        if name not in self._files:
            return published
        file = pathlib.Path(self._folder.name, self._files[f"{name} file"].decode())
        file.write_bytes(self._files[name])
        return str(file)


def _packed(preset: pathlib.Path) -> bytes:
    """The files of a preset as one ``.keras`` file, the same bytes each time."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in (CONFIG, WEIGHTS):
            archive.writestr(zipfile.ZipInfo(name), _content(preset / name))
    return packed.getvalue()


def _content(file: pathlib.Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from error
