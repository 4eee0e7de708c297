"""Flags that several commands share, and what their texts mean."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

from absl import flags

from tfstyle.cli.flags import OUTPUT, argument
from tfstyle.errors import UsageError
from tfstyle.images.masks import LABELS
from tfstyle.networks.blends import read_style_names
from tfstyle.options.fields import NETWORK

STYLE = argument(
    "style",
    "The picture that gives its style. Several are blended: a.jpg,b.jpg, or with "
    "weights a.jpg:0.7,b.jpg:0.3. A folder stands for all pictures in it.",
)
STYLE_NAME = argument(
    "style_name",
    "A trained style, or a blend as name:weight,... Default: the network's first.",
)
STYLE_MASK = argument(
    "style_mask",
    "The same for the style picture; for several styles, one for each with commas "
    "between them. Without content_mask, only what is white counts.",
)
CONTENT_MASK = argument(
    "content_mask",
    "A picture that divides the content picture into regions, in greys from white to "
    f"black or in the colours {', '.join(LABELS)}. In that order, the first region "
    "takes the first style, and so on; with style_mask, a region takes what has its "
    "colour there. With one style and no style_mask, black stays as it is.",
)
PROTECT = argument("protect", "A grey picture: what is white in it stays as it is.")
MASKS = (CONTENT_MASK, STYLE_MASK, PROTECT)
MODEL = argument(
    "model",
    "'bundled', a .keras file, or the folder of a preset or of a run of tfstyle train.",
    NETWORK,
    default="bundled",
)
FROM_IMAGE = argument(
    "from_image",
    "A picture that tfstyle wrote, to make it again with its pictures and flags. Other "
    "flags override them.",
)
PRESET = argument(
    "preset", "A published experiment, see tfstyle presets. Other flags override it."
)
LOG_DIR = argument(
    "log_dir", "Folder for TensorBoard: every term of the loss, and pictures.", OUTPUT
)


def check_style_flags(
    values: flags.FlagValues, trained: Iterable[str], optimized: Iterable[str]
) -> None:
    """Refuses flags that the kind of style that is asked for does not have.

    Args:
      values: The flags, with ``style`` where pictures are optimised.
      trained: Flags that only trained styles have.
      optimized: Flags that only the optimisation to ``style`` has.

    Raises:
      UsageError: If one is given that would have no effect.
    """
    wrong = trained if values.style else optimized
    for name in wrong:
        if values[name].present:
            raise UsageError(
                f"--style and --{name}: give one of them"
                if values.style
                else f"--{name}: a trained style has no such option; give --style, or "
                "leave it out"
            )


def unnamed_style(values: flags.FlagValues) -> str:
    """The end of a last line: the trained style, if nobody chose one of several."""
    names = read_style_names(values.model)
    if values.style_name or len(names) < 2:
        return ""
    return f"; style {names[0]}, the first of {', '.join(names)}"


def masks(values: flags.FlagValues) -> dict[str, Any]:
    """The masks that the flags name, as ``tfstyle.stylize`` takes them."""
    return {
        "content_mask": values.content_mask,
        "style_mask": picture_paths(values.style_mask) or None,
        "protect": values.protect,
    }


def parse_styles(text: str | None) -> list[tuple[str, float]] | None:
    """Reads ``a.jpg:0.7,b.jpg:0.3``; pictures without weights weigh 1 each.

    Returns:
      Paths and weights; None if there is no text.

    Raises:
      UsageError: If some pictures have a weight and others have none.
    """
    pictures = picture_paths(text)
    parts = [
        (path, 1.0) if pathlib.Path(path).exists() else _weighted(path)
        for path in pictures
    ]
    given = sum(
        1 for path, (name, _) in zip(pictures, parts, strict=True) if path != name
    )
    if given not in (0, len(parts)):
        raise UsageError(
            f"--style={text}: {len(parts)} pictures but {given} weights; give each "
            "picture a weight as picture:weight, or none"
        )
    return parts or None


def _weighted(path: str) -> tuple[str, float]:
    name, _, weight = path.rpartition(":")
    try:
        return (name, float(weight)) if name else (path, 1.0)
    except ValueError:
        return path, 1.0


def picture_paths(text: str | None) -> list[str]:
    """The pictures that a flag names. A single one may have commas in its name."""
    if not text or "," not in text or pathlib.Path(text).exists():
        return [text] if text else []
    return [part.strip() for part in text.split(",") if part.strip()]
