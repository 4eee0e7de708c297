"""The loss plot and the JSON report of a finished run."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.files import replaced

if TYPE_CHECKING:
    from tfstyle.stylizer.result import Result


_MOST_POINTS = 400  # of a curve; with more, it would look noisy


def save_loss_plot(
    history: Mapping[str, Sequence[float]], path: str | os.PathLike[str]
) -> None:
    """Plots the total and every term over the steps, on a logarithmic axis.

    Args:
      history: Columns ``step``, ``scale``, ``total`` and one for each term, same as in
        ``Result``. Long columns are drawn as means of neighbouring steps.
      path: A file in a format that matplotlib has: .png, .svg, .pdf.

    Raises:
      TfstyleError: If the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    window = len(history["step"]) // _MOST_POINTS + 1
    steps = _means(history["step"], window)
    for column in list(history)[2:]:
        total = column == "total"
        axes.plot(
            steps,
            _means(history[column], window),
            label=column,
            color="black" if total else None,
            linewidth=2 if total else 1,
        )
    scales = history["scale"]
    for i, scale in enumerate(scales[1:], 1):
        if scale != scales[i - 1]:
            axes.axvline(history["step"][i], color="0.8", zorder=0)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # Where the start is the content picture, the content loss begins near 1e-14.
    lowest = 1e-4 * min(history["total"])
    if lowest > axes.get_ylim()[0]:
        axes.set_ylim(bottom=lowest)
    figure.legend(fontsize="small", loc="outside right upper")
    with replaced(path) as temporary:
        extension = pathlib.Path(path).suffix.removeprefix(".")
        figure.savefig(temporary, format=extension or "png", dpi=120)


def _means(values: Sequence[float], window: int) -> np.ndarray:
    """Means of ``window`` neighbours each."""
    starts = np.arange(0, len(values), window)
    counts = np.diff([*starts, len(values)])
    return np.add.reduceat(np.asarray(values, "float64"), starts) / counts


def save_report(
    result: Result, path: str | os.PathLike[str], facts: Mapping[str, Any]
) -> None:
    """Writes facts about a run, and the losses of every step, as JSON.

    Args:
      result: A finished run.
      path: The file to write.
      facts: Flags, versions, device and other facts, in types that JSON has.

    Raises:
      TfstyleError: If the file cannot be written.
    """
    report = {
        **facts,
        "seconds": round(result.seconds, 3),
        "stopped": result.stopped,
        "history": result.history,
    }
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
