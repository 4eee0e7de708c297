"""Every flag of an option takes several values with commas between them.

The pictures of all combinations go into a folder, beside a contact sheet of them and a
table of their losses.

tfstyle sweep --content=photo.jpg --style=art.jpg --style_weight=1,10,100
--content_layers=relu3_1,relu4_2 --output=folder

A value that has commas itself is written with + instead: --steps=100+60+40,50+30+20
"""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.cli import stylize
from tfstyle.cli.flags import options_from, parse, recorded_options
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import UsageError
from tfstyle.files import replaced
from tfstyle.images import save_image
from tfstyle.options import Options
from tfstyle.options.provenance import PICTURES, Origin, origin_of
from tfstyle.stylizer.recipes import make_repeatable
from tfstyle.stylizer.sweep import Cell, contact_sheet, sweep

if TYPE_CHECKING:
    from tfstyle.optimizers.loop import Callback

READS_PRESETS = False  # their values may have commas
SHEET, TABLE = "sheet.png", "losses.csv"
_LONGEST_NAME = 120


def define_flags(values: flags.FlagValues) -> None:
    """Pictures, folder, and every option as a list of values."""
    flags.DEFINE_string("content", None, "Content picture.", values)
    runs.define_style_flag(values)
    runs.define_mask_flags(values)
    flags.DEFINE_string("output", None, "Folder for pictures, sheet and table.", values)
    flags.DEFINE_string(
        "preset", None, "A published experiment for all that is not swept.", values
    )
    for field in dataclasses.fields(Options):
        flags.DEFINE_string(field.name, None, field.metadata["help"], values)


def run(values: flags.FlagValues) -> int:
    """Runs the sweep."""
    folder = pathlib.Path(runs.required(values, "output"))
    texts = _texts(values)
    grid, fixed = _grid(values, texts)
    runs.check_folder_name(str(folder), "the pictures of a sweep")
    runs.make_folder("output", folder)
    signals, bars = StopOnSignal(), ExitStack()
    results = sweep(
        runs.required(values, "content"),
        runs.parse_styles(runs.required(values, "style")),
        grid,
        callbacks=lambda _: _callbacks(bars, signals),
        **runs.masks(values),
        **fixed,
    )
    # Before the first run: pictures may change or go while it lasts.
    origin = runs.origin("stylize", _as_stylize(values, {}))
    import_tensorflow()
    make_repeatable(Options(**fixed))
    with quiet_libraries(), signals, bars:
        cells = []
        for cell in results:
            bars.close()
            cells.append(cell)
            made = _origin(origin, values, _chosen(texts, grid, cell))
            path = folder / _file_name(len(cells), cell)
            save_image(cell.result.image, path, metadata=made.metadata())
            print(f"{_caption(cell.settings, ', ')}: {_summary(cell)}", flush=True)
    _write_table(cells, folder / TABLE)
    sheet = contact_sheet(
        [cell.result.image for cell in cells],
        [_caption(cell.settings, "\n") for cell in cells],
        columns=len(list(grid.values())[-1]),
    )
    save_image(sheet, folder / SHEET, metadata={"Software": "tfstyle"})
    if signals.received:
        print(f"tfstyle: stopped; {folder} has what is done", file=sys.stderr)
        return 128 + signals.received
    print(f"{folder / SHEET}: {len(cells)} pictures")
    return 0


def _texts(values: flags.FlagValues) -> dict[str, list[str]]:
    """The values of each option that is given."""
    return {
        field.name: [part.strip().replace("+", ",") for part in text.split(",")]
        for field in dataclasses.fields(Options)
        if (text := values[field.name].value) is not None
    }


def _chosen(
    texts: Mapping[str, list[str]], grid: Mapping[str, list[Any]], cell: Cell
) -> dict[str, str]:
    """The text of each option that made a picture."""
    places = {name: grid[name].index(value) for name, value in cell.settings.items()}
    return {name: parts[places.get(name, 0)] for name, parts in texts.items()}


def _origin(
    shared: Origin, values: flags.FlagValues, chosen: Mapping[str, str]
) -> Origin:
    """How one of the pictures is made, of what all have in common."""
    recorded = recorded_options(_as_stylize(values, chosen))
    options = origin_of(shared.command, recorded, {}).options
    return dataclasses.replace(shared, options=options)


def _grid(
    values: flags.FlagValues, texts: Mapping[str, list[str]]
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """The options with several values, and all others."""
    fixed = options_from(_as_stylize(values, {}))
    grid = {}
    for name, parts in texts.items():
        found = [
            options_from(_as_stylize(values, {name: part}))[name] for part in parts
        ]
        if len(found) > 1:
            grid[name] = found
        else:
            fixed[name] = found[0]
    if not grid:
        raise UsageError(
            "no flag has several values; give one with commas, as --style_weight=1,10"
        )
    return grid, fixed


def _as_stylize(
    values: flags.FlagValues, options: Mapping[str, str]
) -> flags.FlagValues:
    """The flags of ``tfstyle stylize`` that make one of the pictures."""
    shared = [name for name in ("preset", *PICTURES) if name in values]
    texts = {name: values[name].value for name in shared} | dict(options)
    made = flags.FlagValues()
    stylize.define_flags(made)
    words = [f"--{name}={text}" for name, text in texts.items() if text is not None]
    parse(made, ["sweep", *words])
    return made


def _callbacks(bars: ExitStack, signals: StopOnSignal) -> list[Callback]:
    from tfstyle.monitoring.callbacks import ProgressBar

    return [bars.enter_context(ProgressBar()), signals]


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


def _file_name(number: int, cell: Cell) -> str:
    caption = _caption(cell.settings, ",")[:_LONGEST_NAME]
    return f"{number:02}_{re.sub('[^-+.,=0-9A-Za-z_]', '_', caption)}.png"


def _summary(cell: Cell) -> str:
    return f"loss {cell.result.history['total'][-1]:.4g}, {cell.result.seconds:.1f} s"


def _write_table(cells: Sequence[Cell], path: pathlib.Path) -> None:
    """The settings and the last losses of every run."""
    rows = []
    for number, cell in enumerate(cells, 1):
        rows.append(
            {
                **{name: _shown(value) for name, value in cell.settings.items()},
                "file": _file_name(number, cell),
                "seconds": round(cell.result.seconds, 2),
                **{name: column[-1] for name, column in cell.result.history.items()},
            }
        )
    columns = dict.fromkeys(name for row in rows for name in row)
    with replaced(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="")
        writer.writeheader()
        writer.writerows(rows)
