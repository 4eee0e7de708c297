"""Stylizes a folder of any size by Ray Data, on one machine or many.

A task lists the pictures and gives their names in parts. Each worker, an actor that
holds an engine, reads, stylizes and writes the pictures of a part. Only names and
counts go from process to process, so memory does not grow with the pictures. What Ray
loses when a worker or a machine dies, it does again.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
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

from tfstyle.batch.places import Failure, Part, Places
from tfstyle.batch.stores import store_of
from tfstyle.batch.stylize import Stylize
from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.extras import import_extra, silent_stderr
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
    content: str | Sequence[str],
    output: str,
    style: Any = None,
    *,
    dead_letter: str | None = None,
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
    listed = functools.partial(_rows, places, begun, stylize.optimizes)
    done = skipped = 0
    lines: list[str] = []
    with contextlib.closing(places), _ray(address, local) as ray:
        parts = ray.data.from_items([{"of": "all"}]).flat_map(listed, num_cpus=0)
        outcomes = parts.map_batches(
            _Worker,
            fn_constructor_args=(places, begun, stylize),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(
                size=workers or _capacity(ray, gpus_per_worker)
            ),
            num_cpus=1,
            num_gpus=gpus_per_worker or None,
        )
        for batch in outcomes.iter_batches(batch_size=None, prefetch_batches=0):
            for outcome in map(pickle.loads, batch["outcome"]):
                if isinstance(outcome, TfstyleError):
                    raise outcome
                done, skipped = done + outcome.done, skipped + outcome.skipped
                lines += [json.dumps(vars(failure)) for failure in outcome.failures]
                if progress:
                    progress(done + skipped + len(lines))
        text = "".join(f"{line}\n" for line in lines)
        places.write(places.dead_letter, text.encode())
    return Counts(done + skipped + len(lines), done, skipped, len(lines))


def _rows(
    places: Places, begun: int, singly: bool, _: Any
) -> Iterator[dict[str, bytes]]:
    """The pictures in parts, each a row of a Ray dataset."""
    for part in places.parts(begun, 1 if singly else MOST_OF_PART):
        yield {"part": pickle.dumps(part)}


@dataclasses.dataclass(frozen=True)
class _Outcome:
    done: int
    skipped: int
    failures: list[Failure]


class _Worker:
    """Reads, stylizes and writes the pictures of parts, in a process of its own."""

    def __init__(self, places: Places, begun: int, stylize: Stylize):
        self._places, self._begun, self._stylize = places, begun, stylize
        self._suspicious = PARTS_IN_FLIGHT if _restarted() else 0
        self._problem: TfstyleError | None = None
        try:
            self._stylize.check()
            self._places.remember(self._stylize.settings)
        except Exception as error:
            self._problem = _told(error)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        outcomes = (self._outcome(pickle.loads(part)) for part in batch["part"])
        return {"outcome": [pickle.dumps(outcome) for outcome in outcomes]}

    def _outcome(self, part: Part) -> _Outcome | TfstyleError:
        try:
            return self._problem or self._finished(part)
        except Exception as error:
            return _told(error)

    def _finished(self, part: Part) -> _Outcome:
        names, failures, done = list(part.names), list(part.failures), 0
        at_once, read = self._stylize.batch_size, self._picture
        if names and self._suspicious:  # the worker may have died over them
            self._suspicious -= 1
            written = self._places.written(part.folder)
            names = [n for n in names if written.get(saved_as(n), -1) < self._begun]
            at_once, read, done = 1, self._marked_picture, len(part.names) - len(names)
        remote = "://" in self._places.pictures
        ahead = READ_AHEAD if at_once > 1 or remote else 1
        names = [f"{part.folder}/{name}".lstrip("/") for name in names]
        with ThreadPoolExecutor(ahead) as pool:
            pictures = zip(names, _in_order(pool, read, names, ahead), strict=True)
            while group := list(itertools.islice(pictures, at_once)):
                good = {n: p for n, p in group if not isinstance(p, Failure)}
                failures += [p for _, p in group if isinstance(p, Failure)]
                results = self._stylize.stylize(list(good.values()))
                for failure in pool.map(self._written, good, results):
                    failures += [failure] if failure else []
                    done += failure is None
        return _Outcome(done, part.skipped, failures)

    def _picture(self, name: str) -> np.ndarray | Failure:
        path = f"{self._places.pictures}/{name}"
        try:
            source = store_of(path).picture(path)
            return load_image(source, self._stylize.size)[0]
        except Exception as error:  # stores raise whatever comes along
            return Failure.of(path, error)

    def _marked_picture(self, name: str) -> np.ndarray | Failure:
        """A picture, unless workers have died over it."""
        path, store = f"{self._places.pictures}/{name}", store_of(self._places.output)
        key = hashlib.sha256(os.fsencode(name)).hexdigest()
        mark, deaths = f"{self._places.scratch}/{key}", 0
        with contextlib.suppress(FileNotFoundError):
            deaths = int(store.read(mark))
        if deaths >= MOST_DEATHS:
            return Failure(path, f"{deaths} workers that tried have died")
        store.write(mark, str(deaths + 1).encode(), self._places.scratch)
        return self._picture(name)

    def _written(self, name: str, result: np.ndarray | TfstyleError) -> Failure | None:
        path, target = f"{self._places.pictures}/{name}", saved_as(name)
        try:
            if isinstance(result, TfstyleError):
                raise result
            extension, metadata = os.path.splitext(target)[1], {"Software": "tfstyle"}  # noqa: PTH122
            content = encode_image(result, extension, metadata=metadata)
        except TfstyleError as error:
            return Failure.of(path, error)
        self._places.write(f"{self._places.output}/{target}", content)
        return None


def _told(error: Exception) -> TfstyleError:
    """An error as a value, as Ray would print it with traces of its own."""
    return user_error(error) or TfstyleError(f"{type(error).__name__}: {error}")


def _in_order(
    pool: ThreadPoolExecutor, function: Callable, items: Sequence, ahead: int
) -> Iterator[Any]:
    """What a function returns for each item, some of them computed ahead."""
    futures: collections.deque = collections.deque()
    for item in items:
        futures.append(pool.submit(function, item))
        if len(futures) == ahead:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


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
    if gpus := resources.get("GPU", 0):
        return int(gpus / gpus_per_worker)
    raise UsageError(f"gpus_per_worker={gpus_per_worker:g}: Ray finds no GPU")


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
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
