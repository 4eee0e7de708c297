"""Runs tfstyle stylize with every combination of the values of its options.

An option takes several values with commas between them. The pictures go into a folder,
with a contact sheet and a table of their losses.

tfstyle sweep photo.jpg painting.jpg folder --style_weight=1,10,100

tfstyle sweep --content=photo.jpg --style=art.jpg --content_layers=relu3_1,relu4_2
--output=folder

Inside a value that has commas itself, write + for them: --steps=100+60+40,50+30+20
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required
from tfstyle.cli.outputs import (
    ResultFolder,
    check_folder_name,
    check_originals,
    origin,
    pictures_read,
)
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import NonFiniteLossError, TfstyleError, UsageError
from tfstyle.files import make_folder, replaced
from tfstyle.images import save_image
from tfstyle.images.sheet import contact_sheet
from tfstyle.monitoring.progress_bar import ProgressBar
from tfstyle.options import STYLIZE
from tfstyle.options.provenance import Origin, origin_of
from tfstyle.stylizer.sweep import Cell, sweep

POSITIONAL = ("content", "style", "output")
SHEET, TABLE = "sheet.png", "losses.csv"
_LONGEST_NAME = 120


def define_flags(values: flags.FlagValues) -> None:
    """Pictures, folder, and every option as a list of values."""
    pictures = [argument("content", "Content picture."), arguments.STYLE]
    pictures += [*arguments.MASKS, arguments.PRESET]
    output = argument(
        "output",
        "Folder for the pictures, the sheet and the table. It refuses results of other "
        "settings.",
        OUTPUT,
    )
    define(values, [*pictures, output])
    define(values, STYLIZE.fields, several=True)


def run(values: flags.FlagValues) -> int:
    """Runs the sweep."""
    content, style, output = required(values, "content", "style", "output")
    folder = pathlib.Path(output)
    grid, fixed = _grid(values)
    check_folder_name(output, "the pictures of a sweep")
    names = [SHEET, TABLE, *_file_names(grid)]
    outputs = [str(folder / name) for name in names]
    check_originals("output", outputs, pictures_read(values))
    make_folder(folder, "--output=")
    signals, bars = StopOnSignal(), ExitStack()
    results = sweep(
        content,
        arguments.parse_styles(style),
        grid,
        callbacks=lambda _: [bars.enter_context(ProgressBar(lines=True)), signals],
        **arguments.masks(values),
        **fixed,
    )
    # Before the first run: pictures may change or go while it lasts.
    shared = origin("stylize", values)
    kept = ResultFolder.of(output, outputs, "sweep", values, shared)
    import_tensorflow()
    with quiet_libraries(), signals, bars:
        cells: list[Cell] = []
        broken = None
        try:
            for cell in results:
                bars.close()
                if not cells:
                    kept.remember()
                cells.append(cell)
                made = _origin(shared, {**fixed, **cell.settings})
                _save(cell, folder / _file_name(len(cells), cell.settings), made)
        except NonFiniteLossError as error:
            if not cells:
                raise
            broken = error
    _write_table(cells, folder / TABLE)
    sheet = contact_sheet(
        [cell.result.images for cell in cells],
        [_caption(cell.settings, "\n") for cell in cells],
        columns=len(list(grid.values())[-1]),
    )
    save_image(sheet, folder / SHEET, metadata={"Software": "tfstyle"})
    if broken:
        pictures = f"{len(cells)} picture{'s' * (len(cells) > 1)}"
        raise TfstyleError(f"{broken} ({folder} has the {pictures} before)") from broken
    if signals.received:
        last = "; the last picture is unfinished" * cells[-1].result.stopped
        print(f"tfstyle: stopped; {folder} has what is done{last}", file=sys.stderr)
        return 128 + signals.received
    print(f"{folder / SHEET}: {len(cells)} pictures")
    return 0


def _save(cell: Cell, path: pathlib.Path, made: Origin) -> None:
    """Writes the picture of a cell, and says what came out."""
    result = cell.result
    if result.stopped:
        made = made.stopped(result.step)
    save_image(result.image, path, metadata=made.metadata())
    loss, caption = result.history["total"][-1], _caption(cell.settings, ", ")
    print(f"{caption}: loss {loss:.4g}, {result.seconds:.1f} s", flush=True)


def _grid(values: flags.FlagValues) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The options with several values, and all others that are given."""
    given: dict[str, Any] = {
        name: values[name].value for name in STYLIZE.names if values[name].value
    }
    grid = {name: found for name, found in given.items() if len(found) > 1}
    if not grid:
        raise UsageError(
            "no flag has several values; give one with commas, as --style_weight=1,10"
        )
    fixed = {name: found[0] for name, found in given.items() if len(found) == 1}
    return grid, fixed


def _origin(shared: Origin, chosen: Mapping[str, Any]) -> Origin:
    """How one of the pictures is made."""
    texts = STYLIZE.texts(STYLIZE.options(chosen))
    own = origin_of(shared.command, texts, {}).options
    return dataclasses.replace(shared, options=own)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        weights = set(value.values())
        names = (f"{k}:{w:g}" if len(weights) > 1 else k for k, w in value.items())
        return "+".join(names)
    if isinstance(value, list | tuple):
        return "+".join(_shown(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _caption(settings: Mapping[str, Any], separator: str) -> str:
    return separator.join(f"{name}={_shown(value)}" for name, value in settings.items())


def _file_names(grid: Mapping[str, list[Any]]) -> list[str]:
    """The names of all pictures, in their order."""
    combinations = itertools.product(*grid.values())
    return [
        _file_name(number, dict(zip(grid, values, strict=True)))
        for number, values in enumerate(combinations, 1)
    ]


def _file_name(number: int, settings: Mapping[str, Any]) -> str:
    caption = _caption(settings, ",")[:_LONGEST_NAME]
    return f"{number:02}_{re.sub('[^-+.,=0-9A-Za-z_]', '_', caption)}.png"


def _write_table(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """The settings and the last losses of every run."""
    rows = []
    for number, cell in enumerate(cells, 1):
        rows.append(
            {
                **{name: _shown(value) for name, value in cell.settings.items()},
                "file": _file_name(number, cell.settings),
                "seconds": round(cell.result.seconds, 2),
                "finished": "no" if cell.result.stopped else "yes",
                **{name: column[-1] for name, column in cell.result.history.items()},
            }
        )
    columns = dict.fromkeys(name for row in rows for name in row)
    with replaced(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
