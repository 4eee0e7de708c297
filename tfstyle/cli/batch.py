"""Any number of pictures, on all cores of this machine or on a Ray cluster.

tfstyle batch photos results --style_name=waves

tfstyle batch 'photos/**/*.jpg' results --style=painting.jpg --size=384

tfstyle batch s3://bucket/photos s3://bucket/results --style_name=waves --address=auto

tfstyle batch photos results --model=any --style=painting.jpg

With --style_name or --model=any, a network stylizes each picture in one pass; with
--style alone, each is optimised, with the flags of tfstyle stylize.

Pictures that cannot be read are listed in a file, and make the exit code 1. The same
command goes on where it was interrupted, and makes a result again only where its
picture is newer.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import Any

from absl import flags

from tfstyle.batch import stylize_folder
from tfstyle.batch.places import Places
from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required, values_of
from tfstyle.cli.outputs import check_folder_name
from tfstyle.cli.quiet import announce_loading
from tfstyle.cli.signals import check_interrupts
from tfstyle.monitoring.progress_bar import ProgressBar
from tfstyle.options import FRAMES, Options
from tfstyle.options.fields import MEMORY

POSITIONAL = ("content", "output")
TRAINED_OPTIONS = ("model", "style_name", "strength")
"""What only networks have."""
COMMON_OPTIONS = ("color", "max_memory", "size")
"""What optimisation and networks have."""
RUN_OPTIONS = ("address", "dead_letter", "gpus_per_worker", "workers")
"""What a run has."""


def define_flags(values: flags.FlagValues) -> None:
    """Pictures, style, workers and cluster."""
    define(
        values,
        [
            argument(
                "content",
                "A folder, or pictures by pattern: * within a name, **/ for any number "
                "of folders; several with commas between them. On this machine, or "
                "s3://, gs://, hdfs://.",
            ),
            arguments.STYLE_NAME,
            arguments.STYLE,
            arguments.MODEL,
            arguments.STRENGTH,
            argument(
                "output",
                "Folder of the results, which are named as the pictures. It refuses "
                "results of other settings.",
                OUTPUT,
            ),
            argument(
                "dead_letter",
                "File that lists the pictures that cannot be stylized, with the "
                "reasons, as lines of JSON. Default: OUTPUT/unreadable.jsonl.",
                OUTPUT,
            ),
            arguments.size(f"the picture's own, or {Options.size} with --style"),
            argument(
                "workers",
                "Worker processes. 0: one for each core, as memory allows, or for each "
                "gpus_per_worker.",
                MEMORY,
                hint=int,
                default=0,
                at_least=0,
            ),
            argument(
                "gpus_per_worker",
                "GPUs of each worker; 0.5 lets two share one.",
                MEMORY,
                hint=float,
                default=0.0,
                at_least=0,
            ),
            argument(
                "address",
                "A Ray cluster: HOST:PORT, or auto on one of its machines. Default: "
                "this machine alone.",
                MEMORY,
            ),
            *FRAMES.fields,
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Stylizes what has no result yet."""
    source, output = required(values, "content", "output")
    check_folder_name(output, "the results")
    options = _options(values)
    pictures = arguments.picture_paths(source)
    places = Places.of(pictures, output, values.dead_letter)
    places.check()
    counted: list[int] = []

    def count() -> None:
        counted.append(sum(len(names) for _, names, _ in places.walk()))

    threading.Thread(target=count, daemon=True).start()
    bar = ProgressBar("picture", lines=True)

    def show(finished: int) -> None:
        check_interrupts()  # Python drops one that comes in a callback of Ray's
        bar.move_to(finished, *counted)

    announce_loading("Ray", "ray")
    # Ray, too, lets SIGTERM raise `SystemExit`, once it runs.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    try:
        # Ray's messages about workers that die go to standard output.
        with bar, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
            counts = stylize_folder(pictures, output, progress=show, **options)
    except (KeyboardInterrupt, SystemExit) as stop:
        said = "stopped; the same command goes on with what is left"
        print(f"tfstyle: {said}", file=sys.stderr)
        return 128 + (2 if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    line = (
        f"{output}: {counts.found} picture{'s' * (counts.found != 1)} found, "
        f"{counts.stylized} stylized, {counts.skipped} done before, "
        f"{counts.unreadable} unreadable"
    )
    line += f", see {places.dead_letter}" * bool(counts.unreadable)
    print(line if values.style else line + arguments.unnamed_style(values))
    return int(counts.unreadable > 0)


def _options(values: flags.FlagValues) -> dict[str, Any]:
    """What the flags say about the style and the run.

    Raises:
      UsageError: If a flag would have no effect.
    """
    optimized = [name for name in FRAMES.names if name not in COMMON_OPTIONS]
    optimized.remove("style_scale")
    arguments.check_style_flags(values, TRAINED_OPTIONS, optimized)
    common = {n: values[n].value for n in (*COMMON_OPTIONS, *RUN_OPTIONS)}
    if arguments.optimizes(values):
        own = vars(FRAMES.options(values_of(values, FRAMES.fields)))
        return {**own, **common, "style": arguments.parse_styles(values.style)}
    model, how = arguments.one_pass(values)
    if isinstance(how["style"], str | None):
        how["style_name"] = how.pop("style")
    return {**common, **how, "model": model}
