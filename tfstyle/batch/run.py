"""Stylizes a folder of any size by Ray Data, on one machine or many.

A task lists the pictures and gives their names in parts. Each worker, an actor that
holds an engine, reads, stylizes and writes the pictures of a part. Only names and
counts go from process to process, so memory does not grow with the pictures. What Ray
loses when a worker or a machine dies, it does again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import psutil

from tfstyle.batch.places import Failure, Part, Places, told
from tfstyle.batch.stores import store_of
from tfstyle.batch.stylize import Stylize
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.extras import import_extra, silent_stderr
from tfstyle.files import PathLike
from tfstyle.images import encode_image, load_image
from tfstyle.images.folder import saved_as

MOST_OF_PART = 32
"""Pictures of a part at most: what a worker that dies leaves unfinished."""
MOST_DEATHS = 2
"""Workers that may die over one picture before it is given up."""
PARTS_IN_FLIGHT = 8
"""Parts that Ray hands to a worker ahead, or more."""
LONGEST_TEMPORARY = 30
"""Characters of a folder in which the names of Ray's sockets are short enough."""
BYTES_PER_WORKER = 2e9
"""Memory of this machine that there should be for each worker."""
READ_AHEAD = 4
"""Pictures that are read at the same time where that takes long."""
OBJECT_STORE = 2**28
"""Bytes for what workers get from this process, such as the files of a style."""
_ENVIRONMENT = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # which would print a trace at SIGTERM
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Ports on loopback only: the name of the switch tells where it is off by default.
_LOCAL = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_worker_niceness": "0"}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a run did with the pictures that it found.

    Attributes:
      found: How many there are: the sum of the others.
      stylized: How many results were written.
      skipped: How many had a result of an earlier run.
      unreadable: How many have no result; they are in the dead letter.
    """

    found: int
    stylized: int
    skipped: int
    unreadable: int


def stylize_folder(
    content: PathLike | Sequence[PathLike],
    output: PathLike,
    style: Any = None,
    *,
    dead_letter: PathLike | None = None,
    workers: int = 0,
    address: str | None = None,
    gpus_per_worker: float = 0.0,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Counts:
    """Stylizes any number of pictures; called again, goes on where it was interrupted.

    Example:
      >>> tfstyle.batch.stylize_folder("photos", "results", style_name="waves")

    Each result appears whole or not at all. What cannot be stylized stops nothing, and
    is listed in the dead letter. Results that are there are made again only where the
    picture is newer, and a folder of results refuses other settings. One run at a time
    may write to a folder.

    Args:
      content: A folder (all pictures in it, to any depth), a picture, a pattern with
        ``*``, ``?`` and ``[...]`` within a name and ``**`` for any number of folders,
        or a list of these; on this machine, or as ``s3://``, ``gs://`` or ``hdfs://``.
        As in Python and bash, no pattern matches names that begin with a dot.
      output: Folder of the results, which are named as the pictures from the folder on
        that all patterns begin with, and are PNG where a format cannot be written.
      style: See ``Stylize``.
      dead_letter: File for lines of JSON with ``path`` and ``reason``. None for
        ``unreadable.jsonl`` in the output folder.
      workers: Worker processes; 0 for one for each core, as memory allows, or for each
        ``gpus_per_worker``.
      address: A Ray cluster: ``host:port``, or ``auto`` on one of its machines. None
        for this machine alone.
      gpus_per_worker: GPUs of each worker; several workers may share one.
      progress: Called with the number of pictures that are finished.
      **options: See ``Stylize``.

    Returns:
      What was done.

    Raises:
      UsageError: If there is no picture, or something cannot be used as it stands.
      MissingExtraError: If Ray is not installed.
      TfstyleError: If results cannot be written, or the cluster failed.
    """
    places = Places.of(content, output, dead_letter)
    places.check()
    local = 0 if address else workers or default_workers()
    share = max(1, round(1 / gpus_per_worker)) if gpus_per_worker else local
    stylize = Stylize(style, workers=share, **options)
    begun = places.begin(stylize.settings)
    most = 1 if stylize.optimizes else MOST_OF_PART
    ahead = READ_AHEAD if gpus_per_worker or "://" in places.pictures else 1
    done = skipped = 0
    lines: list[str] = []

    def listed(_: Any) -> Iterator[dict[str, bytes]]:
        for part in places.parts(begun, most):
            yield {"part": pickle.dumps(part)}

    with contextlib.closing(places), _ray(address, local) as ray:
        size = workers or _capacity(ray, gpus_per_worker)
        parts = ray.data.from_items([{"of": "all"}]).flat_map(listed, num_cpus=0)
        finished = parts.map_batches(
            _Worker,
            fn_constructor_args=(places, begun, stylize, ahead),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=1,
            num_gpus=gpus_per_worker or None,
        )
        for batch in finished.iter_batches(batch_size=None, prefetch_batches=0):
            for part in map(pickle.loads, batch["part"]):
                if isinstance(part, TfstyleError):
                    raise part
                done, skipped = done + part.done, skipped + part.skipped
                lines += [json.dumps(vars(failure)) for failure in part.failures]
                if progress:
                    progress(done + skipped + len(lines))
        text = "".join(f"{line}\n" for line in lines)
        places.write(places.dead_letter, text.encode())
    return Counts(done + skipped + len(lines), done, skipped, len(lines))


class _Worker:
    """Reads, stylizes and writes the pictures of parts, in a process of its own."""

    def __init__(self, places: Places, begun: int, stylize: Stylize, ahead: int):
        self._places, self._begun, self._stylize = places, begun, stylize
        self._pool, self._ahead = ThreadPoolExecutor(ahead), ahead
        self._suspicious = PARTS_IN_FLIGHT if _restarted() else 0
        self._remember = functools.cache(places.remember)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        finished = [self._finished(pickle.loads(part)) for part in batch["part"]]
        return {"part": [pickle.dumps(part) for part in finished]}

    def _finished(self, part: Part) -> Part | TfstyleError:
        names, failures = list(part.names), list(part.failures)
        ahead, read = self._ahead, self._picture
        try:
            if names and self._suspicious:  # the worker may have died over them
                self._suspicious -= 1
                written = self._places.written(part.folder)
                names = [n for n in names if written.get(saved_as(n), -1) < self._begun]
                ahead, read = 1, self._marked_picture
            names = [f"{part.folder}/{name}".lstrip("/") for name in names]
            for group in (names[i : i + ahead] for i in range(0, len(names), ahead)):
                results = self._stylize.stylize(self._pool.map(read, group))
                failures += filter(None, self._pool.map(self._written, group, results))
        except Exception as error:  # Ray would print it with traces of its own
            return told(error)
        done = len(part.names) + len(part.failures) - len(failures)
        return dataclasses.replace(part, done=done, failures=tuple(failures))

    def _picture(self, name: str) -> np.ndarray | TfstyleError:
        path = f"{self._places.pictures}/{name}"
        try:
            return load_image(store_of(path).picture(path), self._stylize.size)[0]
        except Exception as error:  # stores raise whatever comes along
            return told(error)

    def _marked_picture(self, name: str) -> np.ndarray | TfstyleError:
        """A picture, unless workers have died over it."""
        store, key = store_of(self._places.scratch), hashlib.sha256(os.fsencode(name))
        mark, deaths = f"{self._places.scratch}/{key.hexdigest()}", 0
        with contextlib.suppress(FileNotFoundError):
            deaths = int(store.read(mark))
        if deaths >= MOST_DEATHS:
            return TfstyleError(f"{deaths} workers that tried have died")
        store.write(mark, str(deaths + 1).encode(), self._places.scratch)
        return self._picture(name)

    def _written(self, name: str, result: np.ndarray | TfstyleError) -> Failure | None:
        target, metadata = saved_as(name), {"Software": "tfstyle"}
        try:
            if isinstance(result, TfstyleError):
                raise result
            extension = os.path.splitext(target)[1]  # noqa: PTH122
            content = encode_image(result, extension, metadata=metadata)
        except TfstyleError as error:
            return Failure.of(f"{self._places.pictures}/{name}", error)
        self._remember()
        self._places.write(f"{self._places.output}/{target}", content)
        return None


def _restarted() -> bool:
    """Whether Ray has begun this worker again, which then gets the same parts again."""
    context = import_extra("ray", extra="batch").get_runtime_context()
    return bool(context.was_current_actor_reconstructed)


def default_workers() -> int:
    """A worker for each core of this machine, but no more than memory is for."""
    memory = psutil.virtual_memory().total
    return max(1, min(os.cpu_count() or 1, int(memory / BYTES_PER_WORKER)))


def _capacity(ray: Any, gpus_per_worker: float) -> int:
    resources = ray.cluster_resources()
    if not gpus_per_worker:
        return int(resources.get("CPU", 1))
    gpus = resources.get("GPU", 0)
    if size := int(gpus / gpus_per_worker):
        return size
    found = f"only {gpus:g}" if gpus else "no GPU"
    raise UsageError(f"gpus_per_worker={gpus_per_worker:g}: Ray finds {found}")


@contextlib.contextmanager
def _ray(address: str | None, workers: int) -> Iterator[Any]:
    """Ray with a cluster, or with processes of its own that end with the block."""
    with contextlib.ExitStack() as stack:
        variables = dict(_ENVIRONMENT)
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        if not address:
            place = tempfile.gettempdir()
            temporary = tempfile.TemporaryDirectory(
                dir=place if len(place) <= LONGEST_TEMPORARY else "/tmp",
                ignore_cleanup_errors=True,
            )
            folder = stack.enter_context(temporary)
            variables |= {**_LOCAL, "TMPDIR": folder}
            options |= {"num_cpus": workers, "include_dashboard": False}
            options |= {"object_store_memory": OBJECT_STORE, "_temp_dir": folder}
        stack.enter_context(mock.patch.dict(os.environ, variables))
        ray, data = (import_extra(name, extra="batch") for name in ("ray", "ray.data"))
        for name in ("ray", "ray.data"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        if not ray.is_initialized():
            stack.callback(ray.shutdown)
            try:
                with silent_stderr():
                    ray.init(address or "local", **options)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise TfstyleError(
                    f"{address or 'Ray'}: {_last_line(error)}"
                ) from error
        context = data.DataContext.get_current().copy()
        # Each row is a block: what a worker takes at a time.
        context.target_max_block_size, context.enable_progress_bars = 1, False
        stack.enter_context(data.DataContext.current(context))
        try:
            yield ray
        except ray.exceptions.RayError as error:
            raise TfstyleError(f"Ray: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    return str(error).strip().rpartition("\n")[2].strip() or type(error).__name__
