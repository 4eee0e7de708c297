"""How ``benchmark.py`` takes time: by turns, and without what traces a graph."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 3, "Turns of each contestant.", lower_bound=1)
flags.DEFINE_integer("timing_steps", 5, "Least steps to time in a turn.", lower_bound=3)
flags.DEFINE_float("timing_seconds", 2.0, "Least seconds of a turn of step.")
flags.DEFINE_integer(
    "time_only_steps", 0, "quality: keep all loss curves, time so many.", lower_bound=0
)


def note(*words: object) -> None:
    """One line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}]", *words, file=sys.stderr, flush=True)


class Clock:
    """A callback that notes when each scale has made how many steps."""

    def __init__(self, stop: bool = False):
        """With ``stop``, ends a run that has been long enough."""
        self.marks: dict[int, list[tuple[int, float]]] = {}
        self._stop = stop

    def __call__(self, progress: Any) -> bool:
        """Takes the time."""
        marks = self.marks.setdefault(progress.scale, [])
        marks.append((progress.step, time.perf_counter()))
        return self._stop and enough(*zip(*marks, strict=True))

    def seconds_per_step(self) -> list[float]:
        """The median of each scale, without its first step, which traces."""
        return [
            float(np.median([(t - t0) / (n - n0) for (n0, t0), (n, t) in passed]))
            for passed in map(list, map(itertools.pairwise, self.marks.values()))
        ]


def clocked(run: Callable[[Clock], Any]) -> float:
    """Seconds per step of a run at one scale, with the callback that ends it."""
    clock = Clock(stop=True)
    run(clock)
    return clock.seconds_per_step()[0]


def enough(steps: Sequence[int], times: Sequence[float]) -> bool:
    """Whether steps have been timed long enough."""
    count, seconds = steps[-1] - steps[0], times[-1] - times[0]
    return count >= timing_steps() and seconds >= FLAGS.timing_seconds


def timing_steps() -> int:
    """How many steps are timed in a turn, at least."""
    return max(FLAGS.time_only_steps or FLAGS.timing_steps, 3)


def seconds_of(call: Callable[[], Any]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def loop_seconds(step: Callable[[], Any]) -> float:
    """Median seconds of a step of a plain loop, after one that is not timed."""
    step()
    times = [time.perf_counter()]
    while len(times) == 1 or not enough((0, len(times) - 1), times):
        step()
        times.append(time.perf_counter())
    return float(np.median(np.diff(times)))


def in_turns(
    contestants: Mapping[str, Callable[[], Any]], unit: str = "s per step"
) -> dict[str, list[Any]]:
    """What each measures, once per repeat, one after another."""
    results: dict[str, list[Any]] = {name: [] for name in contestants}
    for repeat in range(FLAGS.repeats):
        for name, measure in contestants.items():
            results[name].append(measure())
            shown = np.array2string(np.asarray(results[name][-1]), precision=4)
            note(f"  {name}, {repeat + 1} of {FLAGS.repeats}: {shown} {unit}")
    return results


def with_median(seconds: Sequence[float]) -> dict[str, Any]:
    """A row of a table."""
    return {"seconds": list(seconds), "median": float(np.median(seconds))}
