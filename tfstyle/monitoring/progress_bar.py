"""The progress bar of runs, trainings, films and folders of pictures."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from typing import Any

from tfstyle.optimizers.progress import Progress

SECONDS_BETWEEN_LINES = 30.0
"""How often a bar prints a line where there is no terminal."""


class ProgressBar:
    """A bar on standard error, with the time left; a context manager.

    For a run, a training or a film, the bar is a callback. For a folder of pictures,
    ``move_to`` moves it. Inside the context, warnings that tfstyle logs stand on lines
    of their own, above the bar.

    Example:
      >>> with ProgressBar() as bar:
      ...     tfstyle.stylize("photo.jpg", "painting.jpg", callbacks=[bar])
    """

    def __init__(
        self, unit: str = "step", *, total: int | None = None, lines: bool = False
    ):
        """Prepares a bar, which appears when something is finished.

        Args:
          unit: What is counted, in the singular.
          total: How many there are to count, for ``move_to``; a callback is told.
          lines: Whether to print a plain line at the start of each further scale and
            every ``SECONDS_BETWEEN_LINES`` where standard error is not a terminal, as
            in a log; otherwise nothing is printed there.
        """
        self._unit, self._total, self._lines = unit, total, lines
        self._bar: Any = None
        self._scale = 0
        self._began = self._last_line = time.monotonic()
        self._context = contextlib.ExitStack()

    def __enter__(self) -> ProgressBar:
        from tqdm.contrib.logging import logging_redirect_tqdm

        if sys.stderr.isatty():
            logger = logging.getLogger("tfstyle")
            self._context.enter_context(logging_redirect_tqdm([logger]))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        self._context.close()

    def __call__(self, progress: Progress) -> None:
        """Shows the progress of a run, a training or a film."""
        height, width = progress.size
        name, value = progress.columns[0], progress.total
        label = "loss" if name == "total" else name
        self._total = progress.steps
        self._show(
            progress.step,
            size=f"{width}×{height}",
            value="" if math.isnan(value) else f"{label} {value:.4g}",
            scale=progress.scale,
        )

    def move_to(self, finished: int, total: int | None = None) -> None:
        """Shows the progress in a folder.

        Args:
          finished: How many are finished in all.
          total: How many there are to count, if that was not known when the bar was
            made. On a terminal, it counts if it comes with the first call.
        """
        self._total = total or self._total
        self._show(finished)

    def _show(
        self, finished: int, size: str = "", value: str = "", scale: int = 0
    ) -> None:
        if self._bar is None:
            self._bar = self._begin(finished, size)
        if self._bar.disable:
            self._print_line(finished, size, value, scale)
            return
        self._bar.set_description_str(size, refresh=False)
        self._bar.set_postfix_str(value, refresh=False)
        self._bar.update(finished - self._bar.n)

    def _begin(self, finished: int, size: str) -> Any:
        import tqdm

        left = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {unit} [{remaining} left"
        if not self._total:
            left = "{n_fmt} {unit} [{elapsed}"
        # The bar begins with what is finished by now: the first step traces the graph,
        # and its time says nothing about the time left.
        return tqdm.tqdm(
            desc=size,
            total=self._total,
            initial=finished,
            unit=f"{self._unit}s",
            bar_format="{desc} " + left + "{postfix}]",
            dynamic_ncols=True,
            leave=False,
            disable=None,  # only on a terminal
        )

    def _print_line(self, finished: int, size: str, value: str, scale: int) -> None:
        now = time.monotonic()
        due = scale > self._scale or now - self._last_line >= SECONDS_BETWEEN_LINES
        if not self._lines or not due:
            return
        self._scale, self._last_line = scale, now
        counted = f"{self._unit} {finished}"
        if self._total:
            counted += f" of {self._total}"
        parts = [counted, size, value, f"{now - self._began:.0f} s"]
        print_message("tfstyle: " + ", ".join(part for part in parts if part))


def print_message(message: str) -> None:
    """Prints a line on standard error, above any bar that is shown.

    Args:
      message: The line, without its end.
    """
    import tqdm

    tqdm.tqdm.write(message, file=sys.stderr)
