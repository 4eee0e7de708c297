"""Any number of pictures, stylized by an Apache Beam pipeline.

tfstyle batch --style_name=waves --input='photos/*.jpg' --output=results

tfstyle batch --style=painting.jpg --size=384 --input='photos/**' --output=results

tfstyle batch --style_name=waves --input='gs://bucket/photos/*.jpg'
--output=gs://bucket/results -- --runner=DataflowRunner --project=... --region=...

With --style_name, a trained network stylizes each picture in one pass; with
--style, each is optimised, with the flags of tfstyle stylize. What follows -- goes to
Beam; where it names no runner, this machine works on all its cores.

Pictures that cannot be read are listed in a file. The same command goes on where it
was interrupted, and makes no result again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import pathlib
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psutil
from absl import flags

from tfstyle.backend import check_backend
from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required, values_of
from tfstyle.cli.outputs import check_folder_name, make_folder
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries, silent_stderr
from tfstyle.cli.signals import check_interrupts
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.options import APPLY_COLORS, FRAMES, Options
from tfstyle.options.fields import MEMORY

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

    from tfstyle.batch.pipeline import Counts, Places, StylizePictures

PICTURES = FRAMES
NETWORK_FLAGS = ("model", "style_name", "batch_size")
"""Flags without effect where there is no trained network."""
OWN_OPTIONS = ("color", "max_memory")
"""Options that a trained network has, too."""
BYTES_PER_WORKER = 2e9
"""So much memory there should be for each worker process."""
WAITING = "run_worker"
"""The name of Beam's threads that each wait for a worker process."""


def define_flags(values: flags.FlagValues) -> None:
    """Pictures, style, workers and what is Beam's."""
    define(
        values,
        [
            argument(
                "input",
                "Pictures by pattern: * within a folder, ** through folders; several "
                "patterns with commas between them. On this machine, or gs://, s3://, "
                "hdfs://.",
            ),
            arguments.STYLE_NAME,
            arguments.STYLE,
            arguments.MODEL,
            argument(
                "output",
                "Folder of the results, which are named as the pictures. Those that "
                "are there are not made again: another style needs another folder.",
                OUTPUT,
            ),
            argument(
                "dead_letter",
                "File that lists the pictures that cannot be stylized, with the "
                "reasons, as lines of JSON; empty if there is none. Default: "
                "OUTPUT/unreadable.jsonl.",
                OUTPUT,
            ),
            argument(
                "batch_size",
                "With a trained style: pictures that are computed at once at most. "
                "Default: as many as have 512×512 pixels together; more keep a GPU "
                "busy.",
                MEMORY,
                hint=int,
                at_least=1,
            ),
            argument(
                "size",
                "Longest side of the results in pixels. Default: the picture's; with "
                f"--style {Options.size}.",
                MEMORY,
                hint=int,
                at_least=1,
            ),
            argument(
                "workers",
                "Worker processes of a machine, which share its cores and memory; 1 "
                "works in this process. 0: one for each core, as memory allows.",
                MEMORY,
                hint=int,
                default=0,
                at_least=0,
            ),
            *PICTURES.fields,
        ],
    )
    flags.DEFINE_multi_string(
        "beam_flags", [], "A flag for Beam; or write them all after --.", values
    )


def run(values: flags.FlagValues) -> int:
    """Stylizes what has no result yet."""
    check_backend()
    source, output = required(values, "input", "output")
    check_folder_name(output, "the results")
    check_style_flags(values)
    beam_flags, debug = values.beam_flags or [], bool(values.debug)
    elsewhere = any(flag.startswith("--runner") for flag in beam_flags)
    workers = values.workers or (0 if elsewhere else default_workers())
    with quiet_beam(debug):
        from tfstyle.batch.pipeline import Places

        options = beam_options(beam_flags)
        patterns = [part.strip() for part in source.split(",") if part.strip()]
        places = Places.of(patterns, output, values.dead_letter)
        found = 0 if elsewhere else check_places(values, places)
        transform = _transform(values, places, workers)
        if elsewhere:
            return report(values, run_elsewhere(transform, options))
        try:
            with progress_bar(places, found):
                counts = run_here(transform, options, workers, debug)
        except StoppedError as stopped:
            said = "stopped; the same command goes on with what is left"
            print(f"tfstyle: {said}", file=sys.stderr)
            return 128 + stopped.number
    return report(values, counts)


def check_style_flags(values: flags.FlagValues) -> None:
    """Refuses flags of one kind of style beside the other.

    Raises:
      UsageError: There is one that would have no effect.
    """
    given = {name for name in values if values[name].present}
    if values.style:
        arguments.parse_styles(values.style)
        for name in NETWORK_FLAGS:
            if name in given:
                raise UsageError(f"--style and --{name}: give one of them")
        PICTURES.options(_options(values))
        return
    for field in dataclasses.fields(Options):
        if field.name in given.difference(("size", *OWN_OPTIONS)):
            raise UsageError(
                f"--{field.name}: a trained style has no such option; give --style, "
                "or leave it out"
            )
    if values.color not in APPLY_COLORS:
        raise UsageError(
            f"--color={values['color'].value}: with a trained style, choose one of "
            f"{', '.join(APPLY_COLORS)}"
        )


def beam_options(beam_flags: list[str]) -> PipelineOptions:
    """What flags say to Beam.

    Raises:
      UsageError: One has a value that it cannot have.
    """
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(beam_flags)
            options.get_all_options()  # each is read when it is asked for
    except SystemExit as error:
        reason = said.getvalue().strip().rpartition("error: ")[2]
        raise UsageError(f"-- {shlex.join(beam_flags)}: Beam says: {reason}") from error
    FileSystems.set_options(options)
    return options


def check_places(values: flags.FlagValues, places: Places) -> int:
    """Sees to it that there are pictures, and folders to write to.

    Args:
      values: The flags.
      places: What they mean.

    Returns:
      How many pictures there are.

    Raises:
      UsageError: There is none, or a folder cannot be written to.
    """
    for pattern in places.patterns:
        if pathlib.Path(pattern).is_dir():
            folder = pattern.rstrip("/")
            raise UsageError(
                f"--input={folder}: is a folder; give a pattern, such as "
                f"'{folder}/*.jpg', or '{folder}/**' for all files to any depth"
            )
    try:
        found = {path for each in places.patterns for _, path in places.match(each)}
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"--input: the pictures cannot be listed: {reason}") from error
    if not found:
        raise _nothing_found(values)
    for name, folder in (
        ("output", places.output),
        ("dead_letter", places.dead_letter.rpartition("/")[0]),
    ):
        if "://" not in folder:
            make_folder(name, pathlib.Path(folder))
    return len(found)


def _nothing_found(values: flags.FlagValues) -> UsageError:
    return UsageError(f"--input={values['input'].value}: no picture matches")


def default_workers() -> int:
    """A worker for each core, but no more than memory is for."""
    memory = psutil.virtual_memory().total
    return max(1, min(os.cpu_count() or 1, int(memory / BYTES_PER_WORKER)))


def _options(values: flags.FlagValues) -> dict[str, Any]:
    options = values_of(values, PICTURES.fields)
    options.pop("max_memory")
    return options


def _transform(
    values: flags.FlagValues, places: Places, workers: int
) -> StylizePictures:
    """The transform that the flags describe, with its model in it."""
    import_tensorflow()
    from tfstyle.batch.pipeline import NetworkHandler, OptimizerHandler, StylizePictures

    machine: dict[str, Any] = {
        "max_memory": values.max_memory,
        "workers": workers,
    }
    handler: NetworkHandler | OptimizerHandler
    size = values.size
    with quiet_libraries(), silent_stderr():
        if style := arguments.parse_styles(values.style):
            handler = OptimizerHandler(style, **machine, **_options(values))
            size = size or Options.size
        else:
            handler = NetworkHandler(
                values.style_name,
                model=values.model,
                color=values.color,
                batch_size=values.batch_size,
                **machine,
            )
    return StylizePictures(
        places.patterns,
        places.output,
        handler,
        size=size,
        dead_letter=places.dead_letter,
    )


def run_elsewhere(transform: StylizePictures, options: PipelineOptions) -> Counts:
    """Runs the pipeline on the runner that Beam's flags name.

    Raises:
      TfstyleError: The pipeline did not come to its end.
    """
    import apache_beam as beam

    from tfstyle.batch.pipeline import Counts

    try:
        pipeline = beam.Pipeline(options=options)
        _ = pipeline | transform
        result = pipeline.run()
        state = result.wait_until_finish()
    except Exception as error:  # runners raise whatever comes along
        raise _failure(error) from error
    if state != "DONE":
        raise TfstyleError(f"the pipeline ended as {state}; its runner knows why")
    return Counts.of(result)


def run_here(
    transform: StylizePictures, options: PipelineOptions, workers: int, debug: bool
) -> Counts:
    """Runs the pipeline on this machine.

    Args:
      transform: The pipeline.
      options: Of Beam.
      workers: How many worker processes; with 1, this process works.
      debug: Whether workers may write to standard error.

    Returns:
      What was done.

    Raises:
      StoppedError: A signal came.
      TfstyleError: The pipeline failed, or a worker was ended by somebody else.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions

    from tfstyle.batch.pipeline import Counts

    options.view_as(DirectOptions).direct_num_workers = workers
    with _Watch(debug) as watch:
        try:
            pipeline = beam.Pipeline(_local_runner(options, workers, debug), options)
            _ = pipeline | transform
            return Counts.of(pipeline.run())
        except BaseException as error:  # a signal's own may have been wrapped
            watch.check()
            raise _failure(error) from error


def _local_runner(options: PipelineOptions, workers: int, debug: bool) -> FnApiRunner:
    """The runner that works on this machine, with processes of ours."""
    from apache_beam.portability.api import beam_provision_api_pb2

    # By its name, DirectRunner may be one that fetches a program first.
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner, fn_runner
    from apache_beam.runners.portability.portable_runner import JobServiceHandle
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    if workers == 1:
        return FnApiRunner()
    work = f"from tfstyle.cli.batch import work; work({os.getpid()})"
    command = shlex.join([sys.executable, "-c", work])
    # Beam starts it in a shell. Ctrl-C goes to all processes, but is this one's matter.
    command = f"trap '' INT; exec {command}" + " 2>/dev/null" * (not debug)
    given = options.get_all_options(drop_default=True)
    provision = beam_provision_api_pb2.ProvisionInfo(
        retrieval_token="none",
        pipeline_options=JobServiceHandle.encode_pipeline_options(given),
    )
    return FnApiRunner(
        default_environment=SubprocessSDKEnvironment.from_command_string(command),
        provision_info=fn_runner.ExtendedProvisionInfo(provision),
    )


def _failure(error: BaseException) -> TfstyleError:
    """The last line of what Beam tells, without where in the pipeline it was."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    last = re.sub(r" \[while running .*|^[\w.]*TfstyleError: ", "", last)
    return TfstyleError(f"the pipeline failed: {last.strip()}")


class StoppedError(Exception):
    """A signal ended the run.

    Attributes:
      number: Of the signal.
    """

    def __init__(self, number: int):
        super().__init__()
        self.number = number


class _Watch:
    """Ends worker processes with the run, and the run with a worker process.

    Beam would wait for its workers, which may have hours of work; and it would wait for
    one that is gone.
    """

    def __init__(self, debug: bool):
        self._debug, self._received, self._problem = debug, 0, ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        check_interrupts()
        self._hook, threading.excepthook = threading.excepthook, self._hear
        return self

    def __exit__(self, *_: object) -> None:
        if self._received:
            _kill_workers()  # one may have been about to start
            for thread in threading.enumerate():
                if thread.name == WAITING:
                    thread.join(timeout=5)
        threading.excepthook = self._hook
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Says why the run was ended, if it was.

        Raises:
          StoppedError: A signal came.
          TfstyleError: A worker process ended.
        """
        if self._problem:
            raise TfstyleError(self._problem)
        if self._received:
            raise StoppedError(self._received)

    def _receive(self, number: int, _: object) -> None:
        self._received = number
        _kill_workers()
        raise KeyboardInterrupt

    def _hear(self, happened: threading.ExceptHookArgs) -> None:
        """Learns of a worker's end from the thread that waits for it."""
        if self._debug:
            self._hook(happened)
        waited = happened.thread is not None and happened.thread.name == WAITING
        if waited and not self._received:
            self._problem = (
                "a worker process was ended, perhaps for want of memory; the same "
                "command goes on with what is left, with fewer --workers if need be"
            )
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGTERM)


def _kill_workers() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def work(parent: int) -> None:
    """What a worker process does: Beam's work, until the run ends.

    Args:
      parent: The process that has begun the run; there is no work without it.
    """
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])


def _end_with(parent: int) -> None:
    """Ends this process when another is gone, however that ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(parent)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
    os._exit(1)


@contextlib.contextmanager
def quiet_beam(debug: bool) -> Iterator[None]:
    """Keeps what Beam logs to itself, also while it is imported."""
    before = logging.root.manager.disable
    if not debug:
        logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def progress_bar(places: Places, found: int) -> Iterator[None]:
    """A bar on standard error that follows the results on this machine's disk.

    It keeps silent where standard error is no terminal.
    """
    if not sys.stderr.isatty() or "://" in places.output:
        yield
        return
    import tqdm

    def results() -> int:
        return sum(len(files) for _, _, files in os.walk(places.output))

    def follow() -> None:
        while not done.wait(1):
            bar.update(results() - bar.n)

    done, follower = threading.Event(), threading.Thread(target=follow)
    with tqdm.tqdm(
        total=found,
        initial=results(),
        unit="picture",
        dynamic_ncols=True,
        leave=False,
    ) as bar:
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()


def report(values: flags.FlagValues, counts: Counts) -> int:
    """Prints what was done.

    Raises:
      UsageError: There was nothing to do it with.
    """
    from tfstyle.batch.pipeline import DEAD_LETTER

    if not counts.found:
        raise _nothing_found(values)
    output = values.output.rstrip("/")
    line = (
        f"{output}: {counts.found} picture{'s' * (counts.found != 1)} found, "
        f"{counts.stylized} stylized, {counts.skipped} done before, "
        f"{counts.unreadable} unreadable"
    )
    listed = values.dead_letter or f"{output}/{DEAD_LETTER}"
    print(line + f", see {listed}" * bool(counts.unreadable))
    return 0
