"""What is left of a run for later: its loss curve and its report."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from tfstyle.errors import TfstyleError
from tfstyle.pyramid import Result


def save_loss_plot(result: Result, path: str | os.PathLike[str]) -> None:
    """Draws the total and every term over the steps, on a logarithmic axis.

    Args:
      result: A finished run.
      path: A file of a format that matplotlib knows: .png, .svg, .pdf.

    Raises:
      TfstyleError: The file could not be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    columns = list(result.history)[2:]
    for column in columns:
        total = column == "total"
        axes.plot(
            result.history["step"],
            result.history[column],
            label=column,
            color="black" if total else None,
            linewidth=2 if total else 1,
        )
    scales = result.history["scale"]
    for i, scale in enumerate(scales[1:], 1):
        if scale != scales[i - 1]:
            axes.axvline(result.history["step"][i], color="0.8", zorder=0)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    # A picture that starts as its own target has a content loss of 1e-14 at first.
    lowest = 1e-4 * min(result.history["total"])
    if lowest > axes.get_ylim()[0]:
        axes.set_ylim(bottom=lowest)
    figure.legend(fontsize="small", loc="outside right upper")
    with replaced(path) as temporary:
        extension = pathlib.Path(path).suffix.removeprefix(".")
        figure.savefig(temporary, format=extension or "png", dpi=120)


def save_report(
    result: Result, path: str | os.PathLike[str], facts: Mapping[str, Any]
) -> None:
    """Writes facts about a run and every recorded step of it as JSON.

    Args:
      result: A finished run.
      path: Where to.
      facts: Flags, versions, device and whatever else can be written as JSON.

    Raises:
      TfstyleError: The file could not be written.
    """
    report = {
        **facts,
        "seconds": round(result.seconds, 3),
        "stopped": result.stopped,
        "history": result.history,
    }
    with replaced(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A temporary file beside ``path`` that takes its place when all went well."""
    target = pathlib.Path(path)
    temporary = target.with_name(f".tfstyle-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        temporary.replace(target)
    except (OSError, ValueError) as error:
        raise TfstyleError(f"{target}: could not be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
