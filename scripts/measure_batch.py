"""Measures tfstyle batch beside tfstyle apply, on the same pictures on this machine.

Pictures are cut from the photographs of ``data/``. Each command is run on all of them
and on one alone, in turns; what one takes is the time to start, and the rest is the
time that the others take. Memory is that of all processes together.

Example:
  python scripts/measure_batch.py --pictures=2000 --side=128
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from memory_watch import MemoryWatch

import tfstyle

FLAGS = flags.FLAGS
flags.DEFINE_integer("pictures", 2000, "How many pictures.", 2)
flags.DEFINE_integer("side", 128, "Side of each in pixels.", 8)
flags.DEFINE_integer("repeats", 3, "Runs of each command, of which the median.", 1)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Same as in tfstyle batch.", 1)
flags.DEFINE_string("style_name", "waves", "Same as in tfstyle batch.")

CONTENT = pathlib.Path(__file__).resolve().parents[1] / "data" / "content"


def make_pictures(folder: pathlib.Path, number: int, side: int) -> None:
    """Writes JPEG files, cut at random from photographs that are no smaller."""
    random = np.random.default_rng(0)
    photos = [tfstyle.load_image(file)[0] for file in sorted(CONTENT.glob("*.jpg"))]
    photos = [photo for photo in photos if min(photo.shape[:2]) >= side]
    folder.mkdir()
    for i in range(number):
        photo = photos[i % len(photos)]
        top, left = (random.integers(n - side + 1) for n in photo.shape[:2])
        crop = photo[top : top + side, left : left + side]
        tfstyle.save_image(crop, folder / f"{i:06}.jpg")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
      seconds: From the beginning to the end.
      work: Seconds of all cores together.
      megabytes: The most memory.
      growth: Megabytes a minute in the second half of the time.
    """

    seconds: float
    work: float
    megabytes: float
    growth: float

    @classmethod
    def median(cls, costs: list[Cost]) -> Cost:
        """The middle of several runs, of each measure."""
        measures = zip(*map(dataclasses.astuple, costs), strict=True)
        return cls(*map(statistics.median, measures))


def run(command: str, pictures: pathlib.Path, words: list[str]) -> Cost:
    """Runs a command of tfstyle.

    Raises:
      RuntimeError: It failed, or did not write a result for each picture.
    """
    output = pictures.with_name("results")
    shutil.rmtree(output, ignore_errors=True)
    program = [sys.executable, "-m", "tfstyle", command, f"--output={output}"]
    before, began = _work(), time.monotonic()
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*program, *words], **pipes) as process:
        watch = MemoryWatch(process.pid)
        _, said = process.communicate()
    seconds, work = time.monotonic() - began, _work() - before
    watch.stop()
    missing = len(list(pictures.iterdir())) - len(list(output.glob("*.jpg")))
    if process.returncode or missing:
        raise RuntimeError(f"{command}: {missing} results missing: {said}")
    return Cost(seconds, work, watch.most, watch.growth)


def _work() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(folder: pathlib.Path) -> dict[str, tuple[Cost, Cost]]:
    """What one picture takes, and what all take, by command."""
    sizes = {"one": 1, "all": FLAGS.pictures}
    for name, number in sizes.items():
        make_pictures(folder / name, number, FLAGS.side)
    costs: dict[tuple[str, str], list[Cost]] = {}
    for _ in range(FLAGS.repeats):
        for name in sizes:
            pictures, style = folder / name, f"--style_name={FLAGS.style_name}"
            commands = {
                "apply": [f"--content={pictures}"],
                "batch": [f"--content={pictures}", f"--workers={FLAGS.workers}"],
            }
            for command, words in commands.items():
                cost = run(command, pictures, [style, *words])
                costs.setdefault((command, name), []).append(cost)
    return {
        command: (
            Cost.median(costs[command, "one"]),
            Cost.median(costs[command, "all"]),
        )
        for command in ("apply", "batch")
    }


def main(_: list[str]) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(pathlib.Path(folder))
    print(
        f"{FLAGS.pictures} pictures of {FLAGS.side}×{FLAGS.side}, medians of ", end=""
    )
    print(f"{FLAGS.repeats}, {FLAGS.workers} workers, {os.cpu_count()} cores\n")
    print(
        "| command | seconds | of them to start | pictures/s then ",
        end="| per second of a core ",
    )
    print("| most memory | its growth |")
    print("|---|---|---|---|---|---|---|")
    rates = {}
    for command, (one, every) in measured.items():
        others = FLAGS.pictures - 1
        seconds, work = every.seconds - one.seconds, every.work - one.work
        rates[command] = others / seconds, others / work
        print(f"| {command} | {every.seconds:.1f} | {one.seconds:.1f} ", end="")
        print(f"| {others / seconds:.1f} | {others / work:.1f} ", end="")
        print(f"| {every.megabytes:.0f} MB | {every.growth:+.1f} MB/min |")
    whole = measured["batch"][1].seconds / measured["apply"][1].seconds
    each, core = (a / b for a, b in zip(*rates.values(), strict=True))
    print(
        f"\nbatch takes {whole:.2f} of apply's time, {each:.2f} after the start, ",
        end="",
    )
    print(f"and {core:.2f} of its work then")


if __name__ == "__main__":
    app.run(main)
