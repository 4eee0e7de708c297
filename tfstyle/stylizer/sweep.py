"""Sweeps: the same pictures with every combination of some options."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfstyle.backend import check_backend
from tfstyle.errors import UsageError
from tfstyle.optimizers.progress import callback_names, checked_callbacks
from tfstyle.options import STYLIZE, Options
from tfstyle.options.text import to_text
from tfstyle.stylizer.pictures import Pictures, read_pictures

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tfstyle.optimizers.progress import Callback
    from tfstyle.options.keywords import StylizeKeywords
    from tfstyle.stylizer.result import Result

_PICTURE_OPTIONS = (
    *("size", "allow_upscale", "size_of", "style_scale", "style_size", "init"),
    *("color", "color_strength"),
)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
      settings: The options that the sweep goes through, with their values here.
      result: The result of the run.
    """

    settings: dict[str, Any]
    result: Result


def sweep(
    content: Any,
    style: Any,
    grid: Mapping[str, Sequence[Any]],
    *,
    content_mask: Any = None,
    style_mask: Any = None,
    protect: Any = None,
    callbacks: Callable[[dict[str, Any]], Sequence[Callback]] | None = None,
    **options: Unpack[StylizeKeywords],
) -> Iterator[Cell]:
    """Stylizes a picture with every combination of some options.

    Pictures are read, the network is built, and features of content and style are
    computed once for all combinations that have them in common.

    Example:
      >>> for cell in tfstyle.sweep("photo.jpg", "art.jpg", {"style_weight": [1, 10]}):
      ...     cell.result.save(f"{cell.settings}.png")

    Args:
      content: Same as in ``Stylizer.__call__``.
      style: Same as in ``Stylizer.__call__``.
      grid: The values of each option to go through; the last one changes first.
      content_mask: Same as in ``Stylizer.__call__``.
      style_mask: Same as in ``Stylizer.__call__``.
      protect: Same as in ``Stylizer.__call__``.
      callbacks: Makes the callbacks of each run from its settings; one that returns
        True ends the sweep after that run. None for no callbacks.
      **options: Options that are the same in all runs.

    Yields:
      The runs, in order.

    Raises:
      UsageError: If a combination cannot be used; before the first run.
      ImageError: If a file is not a picture, or is damaged.
    """
    masks = {
        "content_mask": content_mask,
        "style_mask": style_mask,
        "protect": protect,
    }
    if not (callbacks is None or callable(callbacks)):
        raise UsageError(
            f"callbacks={callback_names(callbacks)}: give a function that makes the "
            "callbacks of a run from its settings, as lambda settings: [callback]"
        )
    cells = _combinations(grid)
    chosen = [STYLIZE.options({**options, **settings}) for settings in cells]
    pictures: dict[str, Pictures] = {}
    for each in chosen:
        if _picture_key(each) not in pictures:
            found = read_pictures(each, content, style, **masks)
            pictures[_picture_key(each)] = found
    return _run_all(cells, chosen, pictures, callbacks)


def _run_all(
    cells: Sequence[dict[str, Any]],
    options: Sequence[Options],
    pictures: Mapping[str, Pictures],
    callbacks: Callable[[dict[str, Any]], Sequence[Callback]] | None,
) -> Iterator[Cell]:
    check_backend()
    from tfstyle.stylizer.engine import Engine, engine_key
    from tfstyle.stylizer.run import Run

    engines: dict[str, Engine] = {}
    for settings, each in zip(cells, options, strict=True):
        key = engine_key(each)
        if key not in engines:
            # Graphs and features of another network are no longer needed.
            engines = {key: Engine([o for o in options if engine_key(o) == key])}
        found = pictures[_picture_key(each)]
        called = checked_callbacks(callbacks(settings) if callbacks else ())
        result = Run(engines[key], each, found, called).finish()
        yield Cell(settings, result)
        if result.stopped:
            return


def _combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if not isinstance(grid, Mapping):
        raise UsageError(
            f"grid={grid!r}: give a mapping from options to values, as "
            "{'style_weight': [1, 10]}"
        )
    for name, values in grid.items():
        if isinstance(values, str) or not hasattr(values, "__len__") or not len(values):
            raise UsageError(f"{name}: give a list of at least one value to go through")
    return [
        dict(zip(grid, values, strict=True))
        for values in itertools.product(*grid.values())
    ]


def _picture_key(options: Options) -> str:
    """What decides the pictures of a run."""
    values = [to_text(getattr(options, name)) for name in _PICTURE_OPTIONS]
    return " ".join([*values, str(options.needs_content), str(options.needs_style)])
