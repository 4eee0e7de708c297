"""Any number of pictures, stylized by an Apache Beam pipeline on any of its runners.

Only names of pictures go from worker to worker. What follows a name, to read, decode,
stylize, encode and write, is one fused stage, so memory does not grow with the number
of pictures.

TensorFlow is not imported here: a worker does so when it loads its model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import math
import os
import pathlib
import posixpath
import re
import secrets
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.images import SAVE_FORMATS, encode_image, load_image
from tfstyle.images.color import keep_colors
from tfstyle.options import APPLY_COLORS
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer.pictures import LoadedStyles, weighted_sources

try:
    import apache_beam as beam
    from apache_beam.io.filesystem import CompressionTypes
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.metrics import Metrics, MetricsFilter
    from apache_beam.ml.inference.base import ModelHandler, RunInference
except ImportError as error:
    raise UsageError(
        f"apache-beam is not installed ({error}): pip install 'tfstyle[beam]'"
    ) from error

if TYPE_CHECKING:
    from apache_beam.runners.runner import PipelineResult

    from tfstyle.networks.style_net import StyleNet

BATCH_PIXELS = 512**2
"""Pixels of a batch of several pictures, unless told otherwise: more do not keep a
processor busier, but its caches do not hold them."""
MOST_PIXELS = 4_000_000
"""Pixels of a batch at most; a picture that has more may be computed tile by tile."""
DEAD_LETTER = "unreadable.jsonl"
"""The file in the output folder that lists what could not be stylized."""

_NAMESPACE = "tfstyle"
_TEMPORARY = ".tfstyle-batch"
_UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture on its way.

    Attributes:
      path: Where it comes from.
      target: Where its result goes to.
      pixels: ``[1, H, W, 3]`` float32 in [0, 1].
    """

    path: str
    target: str
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture that there is no result of.

    Attributes:
      path: Where it comes from.
      reason: In one line.
    """

    path: str
    reason: str

    @classmethod
    def of(cls, path: str, error: Exception) -> Failure:
        """What an error says about a picture."""
        told = user_error(error) or f"{type(error).__name__}: {error}"
        text = " ".join(str(told).split())
        for name in (path, "the picture"):
            text = text.removeprefix(f"{name}: ")
        return cls(path, text)

    def line(self) -> str:
        """The failure as a line of JSON, in ASCII."""
        return json.dumps(dataclasses.asdict(self))


Model = Callable[[Sequence[Picture]], Iterable[Picture | Failure]]
"""Stylizes pictures of any shapes, in any order."""


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a run did with the pictures that it found.

    Attributes:
      found: How many match the patterns: the sum of the others.
      stylized: How many results were written.
      skipped: How many results were there before.
      unreadable: How many have no result, and are in the dead letter.
    """

    found: int = 0
    stylized: int = 0
    skipped: int = 0
    unreadable: int = 0

    @classmethod
    def of(cls, result: PipelineResult) -> Counts:
        """The counts of a pipeline that has ended, if its runner has them."""
        counts = dict.fromkeys((field.name for field in dataclasses.fields(cls)), 0)
        ours = MetricsFilter().with_namespace(_NAMESPACE)
        for counter in result.metrics().query(ours)["counters"]:
            counts[counter.key.metric.name] += counter.result
        return cls(**counts)


def _count(what: str, number: int = 1) -> None:
    Metrics.counter(_NAMESPACE, what).inc(number)


@dataclasses.dataclass(frozen=True)
class Places:
    """Where pictures come from and results go to, on any file system of Beam's.

    Attributes:
      patterns: Names with ``*`` (within a folder), ``**`` (through folders), ``?`` and
        ``[...]``.
      output: Folder of the results.
      dead_letter: File that lists what could not be stylized.

    Raises:
      UsageError: The pictures are in the folder of the results.
    """

    patterns: tuple[str, ...]
    output: str
    dead_letter: str

    @classmethod
    def of(
        cls, patterns: str | Sequence[str], output: str, dead_letter: str | None = None
    ) -> Places:
        """The places by names that may be relative to the working directory."""
        given = [patterns] if isinstance(patterns, str) else patterns
        folder = _absolute(output).rstrip("/")
        file = _absolute(dead_letter) if dead_letter else f"{folder}/{DEAD_LETTER}"
        return cls(tuple(map(_absolute, given)), folder, file)

    def __post_init__(self) -> None:
        """Sees to it that no result could be taken for a picture, or for its own."""
        if f"{self.common}/".startswith(f"{self.output}/"):
            raise UsageError(
                f"{self.output}: the pictures are in this folder; give the results "
                "another, which may be inside it"
            )

    @property
    def common(self) -> str:
        """The deepest folder that all patterns begin with, before any wildcard."""
        plain = (re.split(r"[*?\[]", pattern)[0] for pattern in self.patterns)
        folders = (text.rpartition("/")[0].split("/") for text in plain)
        shared = itertools.takewhile(
            lambda parts: len(set(parts)) == 1, zip(*folders, strict=False)
        )
        return "/".join(parts[0] for parts in shared)

    def match(self, pattern: str) -> Iterator[tuple[bytes, bytes]]:
        """The pictures of a pattern: the name of the result, and the path."""
        for metadata in FileSystems.match([pattern])[0].metadata_list:
            path = metadata.path
            if path.startswith(f"{self.output}/") or path == self.dead_letter:
                continue
            name = _saved_as(path.removeprefix(f"{self.common}/"))
            yield os.fsencode(name), os.fsencode(path)  # which may not be UTF-8


def _absolute(path: str) -> str:
    """A path that means the same to every worker of this machine."""
    if "://" in path:
        return path
    return os.path.abspath(path) + "/" * path.endswith("/")  # noqa: PTH100


def _saved_as(name: str) -> str:
    """The name, with an extension that can be written."""
    stem, extension = posixpath.splitext(name)
    return name if extension.lower() in SAVE_FORMATS else f"{stem}.png"


class StylizePictures(beam.PTransform):
    """From patterns of names to stylized pictures, in a pipeline of one's own.

    Example:
      >>> with beam.Pipeline() as pipeline:
      ...     pipeline | StylizePictures("in/*.jpg", "out", NetworkHandler("waves"))

    Results are named as their pictures, from the folder on that all patterns begin
    with, and are PNG files where a picture's own extension cannot be written. Each is
    written elsewhere and renamed, so that it is there whole or not at all; what is
    there already is not made again. What cannot be stylized is written to the dead
    letter and returned, as lines of JSON with ``path`` and ``reason``. Only one run at
    a time may write to a folder: at its end, it removes what others left unfinished.
    """

    def __init__(
        self,
        patterns: str | Sequence[str],
        output: str,
        handler: ModelHandler,
        *,
        size: int | None = None,
        dead_letter: str | None = None,
    ):
        """Plans a run.

        Args:
          patterns: See ``Places``.
          output: Folder of the results.
          handler: A ``NetworkHandler`` or an ``OptimizerHandler``.
          size: Longest side in pixels; None keeps the picture's own.
          dead_letter: None for ``DEAD_LETTER`` in the output folder.

        Raises:
          UsageError: The pictures are in the output folder.
        """
        super().__init__()
        self._places = Places.of(patterns, output, dead_letter)
        self._handler, self._size = handler, size

    def expand(self, begin: Any) -> beam.PCollection:
        """Adds the steps to a pipeline."""
        pipeline, places = begin.pipeline, self._places
        names = (
            pipeline
            | "Patterns" >> beam.Create(places.patterns)
            | "Match"
            >> beam.FlatMap(places.match).with_output_types(tuple[bytes, bytes])
            | "Meet by result" >> beam.GroupByKey()
        )
        read = _Read(places.output, self._size)
        pictures, unreadable = names | "Read" >> beam.ParDo(read).with_outputs(
            _UNREADABLE, main="pictures"
        )
        failed = (
            pictures
            | "Stylize" >> RunInference(self._handler)
            | "Write" >> beam.ParDo(_Write(places.output))
        )
        lines = (unreadable, failed) | "All failures" >> beam.Flatten()
        # A side input is there when all pictures are done.
        _ = (
            pipeline
            | "Once" >> beam.Create([places])
            | "Finish" >> beam.Map(_finish, beam.pvalue.AsIter(lines))
        )
        return lines


class _Read(beam.DoFn):
    """Pictures that have no result yet, from the name of the result and the paths."""

    def __init__(self, output: str, size: int | None):
        self._output, self._size = output, size

    def process(self, element: tuple[bytes, Iterable[bytes]]) -> Iterator[Any]:
        name = os.fsdecode(element[0])
        paths = {os.fsdecode(path) for path in element[1]}
        # The one that keeps its name goes first, whatever the order of the files.
        kept = f"/{name}"
        path, *others = sorted(paths, key=lambda path: (not path.endswith(kept), path))
        target = f"{self._output}/{name}"
        _count("found", len(paths))
        for other in others:
            yield _failed(
                Failure(other, f"would be written to {target}, as {path} is; rename it")
            )
        if FileSystems.exists(target):
            _count("skipped")
            return
        try:
            pixels = _loaded(path, self._size)
        except Exception as error:  # file systems raise whatever comes along
            yield _failed(Failure.of(path, error))
            return
        yield Picture(path, target, pixels)


def _loaded(path: str, size: int | None) -> np.ndarray:
    if "://" not in path:
        return load_image(path, size)  # a pipe would never open
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as file:
        return load_image(file, size)


def _failed(failure: Failure) -> beam.pvalue.TaggedOutput:
    _count("unreadable")
    return beam.pvalue.TaggedOutput(_UNREADABLE, failure.line())


class _Write(beam.DoFn):
    """Writes results; gives the lines of pictures that have none."""

    def __init__(self, output: str):
        self._output = output

    def setup(self) -> None:
        self._folders: set[str] = set()

    def process(self, element: Picture | Failure) -> Iterator[str]:
        failure = element if isinstance(element, Failure) else self._write(element)
        _count("unreadable" if failure else "stylized")
        if failure:
            yield failure.line()

    def _write(self, result: Picture) -> Failure | None:
        extension = posixpath.splitext(result.target)[1]
        try:
            content = encode_image(
                result.pixels, extension, metadata={"Software": "tfstyle"}
            )
        except TfstyleError as error:  # such as more pixels than the format can have
            return Failure.of(result.path, error)
        folder = posixpath.dirname(result.target)
        if folder not in self._folders:
            _make_folder(folder)
            self._folders.add(folder)
        mime_type = f"image/{SAVE_FORMATS[extension.lower()].lower()}"
        with _replaced(result.target, self._output, mime_type) as file:
            file.write(content)
        return None


def _finish(places: Places, lines: Iterable[str]) -> None:
    """Writes the dead letter whole, and removes what killed runs left behind."""
    folder = posixpath.dirname(places.dead_letter)
    _make_folder(folder)
    with _replaced(places.dead_letter, folder, "application/jsonl") as file:
        for line in lines:
            file.write(f"{line}\n".encode())
    for parent in {places.output, folder}:
        with contextlib.suppress(OSError):  # the pictures are done all the same
            _remove(f"{parent}/{_TEMPORARY}")


def _remove(folder: str) -> None:
    matched = FileSystems.match([f"{folder}/*"])[0].metadata_list
    if files := [metadata.path for metadata in matched]:
        FileSystems.delete(files)
    if FileSystems.exists(folder):  # where a folder is more than a part of names
        FileSystems.delete([folder])


def _make_folder(folder: str) -> None:
    if not FileSystems.exists(folder):
        with contextlib.suppress(OSError):  # another worker may have been faster
            FileSystems.mkdirs(folder)


@contextlib.contextmanager
def _replaced(target: str, folder: str, mime_type: str) -> Iterator[BinaryIO]:
    """A file elsewhere in a folder that takes its place when it is written.

    Raises:
      TfstyleError: It could not be written.
    """
    temporary = f"{folder}/{_TEMPORARY}/{secrets.token_hex(8)}"
    how = {"mime_type": mime_type, "compression_type": CompressionTypes.UNCOMPRESSED}
    try:
        with FileSystems.create(temporary, **how) as file:
            yield file
        try:
            FileSystems.rename([temporary], [target])
        except OSError:
            if not FileSystems.exists(target):
                raise
            # Not every file system replaces a file.
            FileSystems.delete([target])
            FileSystems.rename([temporary], [target])
    except OSError as error:
        with contextlib.suppress(OSError):  # it may not have come that far
            FileSystems.delete([temporary])
        reason = " ".join(str(error).split())[:200]
        raise TfstyleError(f"{target}: could not be written: {reason}") from error


class _Handler(ModelHandler):
    """What both kinds of style share: batches, and a worker's part of its machine."""

    def __init__(self, batch_size: int | None, max_memory: float, workers: int):
        super().__init__()
        self._batch = MOST_PIXELS if batch_size else BATCH_PIXELS
        self._least = MOST_PIXELS // batch_size if batch_size else 1
        self._max_memory, self._workers = max_memory, workers

    def run_inference(
        self,
        batch: Sequence[Picture],
        model: Model,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Picture | Failure]:
        """Stylizes pictures of any shapes."""
        return model(batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """As many pictures as were asked for, and as pixels allow."""
        # Beam would look for the best size itself, doubling it from 1 pixel on.
        size = {"min_batch_size": self._batch, "max_batch_size": self._batch}
        return {**size, "element_size_fn": self._weight}

    def get_num_bytes(self, batch: Sequence[Picture]) -> int:
        """For Beam's metrics; its own way is to pickle the pictures."""
        return sum(picture.pixels.nbytes for picture in batch)

    def _weight(self, picture: Picture) -> int:
        pixels = math.prod(picture.pixels.shape[1:3])
        return min(max(pixels, self._least), self._batch)

    def _start_tensorflow(self) -> float:
        """Takes this worker's part of the cores; gives its part of the memory in GB."""
        import tensorflow as tf

        from tfstyle.stylizer.memory import GIGABYTE, memory_limit

        cores = os.cpu_count() or 1
        workers = self._workers or cores
        threads = max(1, cores // workers)
        with contextlib.suppress(RuntimeError):  # it has begun, in a process of others
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
            for gpu in tf.config.list_physical_devices("GPU"):
                tf.config.experimental.set_memory_growth(gpu, True)
        return self._max_memory or memory_limit(0.0) / GIGABYTE / workers


class NetworkHandler(_Handler):
    """A style that a network was trained on, as a SavedModel, for ``RunInference``.

    The model travels inside this object, so workers need no file of it.
    """

    def __init__(
        self,
        style_name: str | Mapping[str, float] | None = None,
        *,
        model: str | os.PathLike[str] | StyleNet = "bundled",
        color: str = "style",
        batch_size: int | None = None,
        max_memory: float = 0.0,
        workers: int = 0,
    ):
        """Exports the network.

        Args:
          style_name: As of ``apply_style``.
          model: As of ``apply_style``.
          color: As of ``apply_style``.
          batch_size: How many pictures are computed at once at most; those of one shape
            are one tensor. None for as many as have ``BATCH_PIXELS`` together.
          max_memory: Gigabytes that each worker may take; larger pictures are computed
            tile by tile, with the same result. 0: its part of a safe share of what its
            machine has.
          workers: Worker processes of a machine, which share its cores and its memory.
            0: one for each core.

        Raises:
          UsageError: There is no such style, model or color.
        """
        super().__init__(batch_size, max_memory, workers)
        from tfstyle.networks.export import export_network
        from tfstyle.networks.style_net import StyleNet, load_network, save_network

        if color not in APPLY_COLORS:
            raise UsageError(
                f"color={color!r}: choose one of {', '.join(APPLY_COLORS)}"
            )
        network = model if isinstance(model, StyleNet) else load_network(model)
        self._blend = network.blend(style_name).numpy()
        self._color, self._bytes_per_pixel = color, network.bytes_per_pixel
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            export_network(network, folder / "served", style_name=style_name)
            save_network(network, folder / "model.keras")
            self._files = _zipped(folder)

    def load_model(self) -> Model:
        """Reads the SavedModel; once for each worker."""
        from tfstyle.stylizer.memory import GIGABYTE, RUNTIME

        memory = self._start_tensorflow()
        free = max(0.0, memory * GIGABYTE - RUNTIME)
        return _Network(
            self._files,
            self._blend,
            self._color,
            most_pixels=min(MOST_PIXELS, int(free / self._bytes_per_pixel)),
            max_memory=memory,
        )


class _Network:
    """A network that a worker has loaded."""

    def __init__(
        self,
        files: bytes,
        blend: np.ndarray,
        color: str,
        most_pixels: int,
        max_memory: float,
    ):
        from tfstyle.networks.export import run_saved_model

        self._files, self._blend, self._color = files, blend, color
        self._most_pixels, self._max_memory = most_pixels, max_memory
        with _unpacked(files) as folder:
            self._run = run_saved_model(folder / "served" / "1")

    def __call__(self, batch: Sequence[Picture]) -> Iterator[Picture | Failure]:
        for group in _by_shape(batch):
            try:
                results = self._results(group)
            except Exception as error:
                if not user_error(error):
                    raise
                yield from (Failure.of(picture.path, error) for picture in group)
                continue
            for picture, result in zip(group, results, strict=True):
                yield dataclasses.replace(picture, pixels=result[None])

    def _results(self, group: Sequence[Picture]) -> np.ndarray:
        images = np.concatenate([picture.pixels for picture in group])
        results = self._stylized(images)
        return keep_colors(results, images) if self._color == "content" else results

    def _stylized(self, images: np.ndarray) -> np.ndarray:
        from tfstyle.networks.apply import apply_network
        from tfstyle.networks.style_net import LEAST_SIDE

        size = images.shape[1:3]
        at_once = self._most_pixels // math.prod(size)
        parts = np.split(images, range(at_once or 1, len(images), at_once or 1))
        if at_once and min(size) >= LEAST_SIDE:
            return np.concatenate([self._run(part) for part in parts])
        # Tile by tile where memory is short, or refused.
        how = self._blend, self._max_memory
        return np.concatenate(
            [apply_network(self._network, part, *how) for part in parts]
        )

    @functools.cached_property
    def _network(self) -> StyleNet:
        from tfstyle.networks.style_net import load_network

        with _unpacked(self._files) as folder:
            return load_network(folder)


class OptimizerHandler(_Handler):
    """The style of paintings, to which each picture is optimised, for ``RunInference``.

    The paintings travel inside this object, so workers need no files of them.
    """

    def __init__(
        self,
        style: Any,
        *,
        max_memory: float = 0.0,
        workers: int = 0,
        **options: Any,
    ):
        """Reads and checks what ``stylize`` needs.

        Args:
          style: Paths as of ``stylize``.
          max_memory: As of ``NetworkHandler``.
          workers: As of ``NetworkHandler``.
          **options: The fields of ``tfstyle.Options``.

        Raises:
          UsageError: An option or a painting cannot be used.
          ImageError: A painting is damaged.
        """
        super().__init__(1, max_memory, workers)
        from tfstyle.losses.from_options import perceptual_loss

        stylizer = Stylizer(**options)
        sources = weighted_sources(style)
        stylizer.read(sources[0][0] if sources else None, sources)
        perceptual_loss(stylizer.options)  # refuses layers and weights
        self._options = stylizer.options
        weights = pathlib.Path(self._options.weights)
        self._weights = weights.read_bytes() if weights.is_file() else None
        self._style = [
            (pathlib.Path(path).read_bytes(), weight) for path, weight in sources
        ]

    def load_model(self) -> Model:
        """Prepares TensorFlow, and one engine for all pictures of the worker."""
        memory = self._start_tensorflow()
        options = {**vars(self._options), "max_memory": memory}
        with tempfile.TemporaryDirectory() as folder:
            if self._weights is not None:
                name = pathlib.Path(options["weights"]).name
                options["weights"] = pathlib.Path(folder) / name
                options["weights"].write_bytes(self._weights)
            stylizer = Stylizer(**options)
            _ = stylizer.engine  # reads the weights, which are gone afterwards
        style = [(io.BytesIO(content), weight) for content, weight in self._style]
        return _Optimizer(stylizer, stylizer.load_styles(style))


class _Optimizer:
    """Paintings and an engine in the hands of a worker."""

    def __init__(self, stylizer: Stylizer, styles: LoadedStyles):
        self._stylizer, self._styles = stylizer, styles

    def __call__(self, batch: Sequence[Picture]) -> Iterator[Picture | Failure]:
        for picture in batch:
            try:
                result = self._stylizer(picture.pixels, self._styles)
            except Exception as error:
                if not user_error(error):
                    raise
                yield Failure.of(picture.path, error)
            else:
                yield dataclasses.replace(picture, pixels=result.images)


def _by_shape(batch: Sequence[Picture]) -> Iterable[list[Picture]]:
    groups = defaultdict(list)
    for picture in batch:
        groups[picture.pixels.shape].append(picture)
    return groups.values()


def _zipped(folder: pathlib.Path) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return memory.getvalue()


@contextlib.contextmanager
def _unpacked(files: bytes) -> Iterator[pathlib.Path]:
    """A folder with files that are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(files)).extractall(folder)
        yield pathlib.Path(folder)
