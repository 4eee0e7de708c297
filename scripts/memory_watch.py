"""How much memory a process and its children take while they work."""

from __future__ import annotations

import threading
import time

import numpy as np
import psutil

SECONDS_BETWEEN = 1.0


class MemoryWatch:
    """Looks at the resident memory of a process and its children, again and again.

    Attributes:
      minutes: When it was looked, since the watch began.
      megabytes: What all of them had then.
    """

    def __init__(self, process: int):
        """Begins to watch.

        Args:
          process: The number of a process.
        """
        self.minutes: list[float] = []
        self.megabytes: list[float] = []
        self._process, self._ended = psutil.Process(process), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._ended.set()
        self._thread.join()

    @property
    def most(self) -> float:
        """The most megabytes of any time."""
        return max(self.megabytes, default=0.0)

    @property
    def growth(self) -> float:
        """Megabytes a minute, by least squares over the second half of the time."""
        half = len(self.minutes) // 2
        minutes, megabytes = self.minutes[half:], self.megabytes[half:]
        return float(np.polyfit(minutes, megabytes, 1)[0]) if half else 0.0

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._ended.wait(SECONDS_BETWEEN):
            try:
                family = [self._process, *self._process.children(recursive=True)]
                resident = sum(_resident(each) for each in family)
            except psutil.NoSuchProcess:
                return
            self.minutes.append((time.monotonic() - began) / 60)
            self.megabytes.append(resident / 1e6)


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # ended since it was listed
        return 0
