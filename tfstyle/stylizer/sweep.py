"""Sweeps: the same pictures with every combination of some options."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfstyle.backend import check_backend
from tfstyle.errors import UsageError
from tfstyle.options import Options
from tfstyle.stylizer.pictures import Plan, make_options, plan_stylize
from tfstyle.stylizer.recipes import run_plan

if TYPE_CHECKING:
    from tfstyle.optimizers.loop import Callback
    from tfstyle.stylizer.run import Result

_OWN = (
    "content_layers",
    "style_layers",
    "content_weight",
    "style_weight",
    "tv_weight",
    "laplacian_weight",
    "normalization",
    "optimizer",
    "learning_rate",
    "schedule",
    "final_learning_rate",
    "decay_step",
    "beta_2",
    "history",
    "steps",
    "scales",
    "min_scale_size",
    "noise",
    "seed",
    "space",
    "clamp",
    "clamp_until",
    "max_memory",
)
"""Options in which runs may differ that share their pictures and their features."""

_GAP = 8


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      settings: The options that the sweep goes through, with their values here.
      result: What came of them.
    """

    settings: dict[str, Any]
    result: Result


def sweep(
    content: Any,
    style: Any,
    grid: Mapping[str, Sequence[Any]],
    *,
    callbacks: Callable[[dict[str, Any]], Sequence[Callback]] = lambda settings: (),
    **options: Any,
) -> Iterator[Cell]:
    """Stylizes a picture with every combination of some options.

    Pictures are read, and features of content and style computed, once for all
    combinations that have them in common.

    Example:
      >>> for cell in tfstyle.sweep("photo.jpg", "art.jpg", {"style_weight": [1, 10]}):
      ...     tfstyle.save_image(cell.result.image, f"{cell.settings}.png")

    Args:
      content: As of ``stylize``.
      style: As of ``stylize``.
      grid: The values of each option that is gone through; the last one changes first.
      callbacks: Makes the callbacks of each run; one that returns True ends the sweep
        after that run.
      **options: Masks, and the options that are the same in all runs, as of
        ``stylize``.

    Yields:
      The runs, in order.

    Raises:
      UsageError: As of ``stylize``, for any combination, before the first run.
    """
    cells = _combinations(grid)
    masks = {name: options.pop(name, None) for name in _MASKS}
    chosen = [make_options({**options, **settings}) for settings in cells]
    plans: dict[Any, Plan] = {}
    for settings, each in zip(cells, chosen, strict=True):
        if _shared(each) not in plans:
            plans[_shared(each)] = plan_stylize(
                content, style, **masks, **{**options, **settings}
            )
    return _run_all(cells, chosen, plans, callbacks)


_MASKS = ("content_mask", "style_mask", "protect")


def _run_all(
    cells: Sequence[dict[str, Any]],
    chosen: Sequence[Options],
    plans: Mapping[Any, Plan],
    callbacks: Callable[[dict[str, Any]], Sequence[Callback]],
) -> Iterator[Cell]:
    check_backend()
    from tfstyle.stylizer.objective import Encoder

    encoders: dict[Any, Encoder] = {}
    for settings, each in zip(cells, chosen, strict=True):
        key = _shared(each)
        if key not in encoders:
            # Features of other pictures or of another network are done with.
            encoders = {key: Encoder([o for o in chosen if _shared(o) == key])}
        plan = dataclasses.replace(plans[key], options=each)
        result = run_plan(plan, callbacks(settings), encoder=encoders[key])
        yield Cell(settings, result)
        if result.stopped:
            return


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    for name, values in grid.items():
        if isinstance(values, str) or not len(values):
            raise UsageError(f"{name}: give a list of at least one value to go through")
    return [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def _shared(options: Options) -> tuple[str, ...]:
    """What decides pictures and features."""
    fields = dataclasses.asdict(options)
    shared = [f"{name}={value}" for name, value in fields.items() if name not in _OWN]
    return (*shared, str(options.needs_content), str(options.needs_style))


def _wrapped(text: str, characters: int) -> str:
    return "\n".join(
        part for line in text.split("\n") for part in textwrap.wrap(line, characters)
    )


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
    width: int = 360,
) -> np.ndarray:
    """Pictures side by side, each with its caption.

    Args:
      pictures: ``[1, H, W, 3]`` each, in [0, 1], of one shape.
      captions: One each, in lines.
      columns: Pictures in a row.
      width: Of each picture in pixels; smaller ones keep their size.

    Returns:
      The sheet, ``[1, H, W, 3]``, float32.
    """
    width = min(width, pictures[0].shape[2])
    height = round(width * pictures[0].shape[1] / pictures[0].shape[2])
    font = ImageFont.load_default(14)
    captions = [_wrapped(caption, width // 8) for caption in captions]
    lines = max(caption.count("\n") for caption in captions) + 1
    cell = (width + _GAP, height + 18 * lines + _GAP)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = (i % columns) * cell[0] + _GAP, i // columns * cell[1] + _GAP
        levels = np.rint(np.clip(picture[0], 0, 1) * 255).astype("uint8")
        thumbnail = Image.fromarray(levels).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        sheet.paste(thumbnail, (x, y))
        draw.multiline_text((x, y + height + 2), caption, "black", font, spacing=2)
    return np.asarray(sheet, "float32")[None] / 255
