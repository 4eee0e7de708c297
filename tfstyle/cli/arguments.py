"""Flags that several commands share, and what their texts mean."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any

from absl import flags

from tfstyle.cli.flags import ADDRESS, OUTPUT, argument
from tfstyle.errors import UsageError
from tfstyle.images.masks import LABELS
from tfstyle.networks.blends import (
    ANY,
    BUNDLED,
    read_style_names,
    takes_any_style,
)
from tfstyle.options.fields import MEMORY, NETWORK, OptionField
from tfstyle.options.fields import STYLE as STYLE_GROUP

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
    "'bundled' for five styles, 'any' for the style of any picture, a .keras file, or "
    "the folder of a preset or of a run of tfstyle train.",
    NETWORK,
    default=BUNDLED,
)
STRENGTH = argument(
    "strength",
    "With the network for any style: from 0, the photograph itself, to 1.",
    STYLE_GROUP,
    hint=float,
    default=1.0,
    at_least=0,
    at_most=1,
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

BROWSER = argument(
    "browser", "Open the page in a browser.", ADDRESS, hint=bool, default=True
)


def port(help: str) -> OptionField:
    """The port at which a page is served."""
    return argument("port", help, ADDRESS, hint=int, at_least=1, at_most=65535)


def size(default: str) -> OptionField:
    """The size of results that come one by one, with what it is by default."""
    told = f"Longest side of the result in pixels. Default: {default}."
    return argument("size", told, MEMORY, hint=int, at_least=1)


def optimizes(values: flags.FlagValues) -> bool:
    """Whether each picture is optimised to ``style``, and not stylized in one pass."""
    return bool(values.style) and not takes_any_style(values.model)


def check_style_flags(
    values: flags.FlagValues, trained: Iterable[str], optimized: Iterable[str]
) -> None:
    """Refuses flags that the kind of style that is asked for does not have.

    Args:
      values: The flags, with ``style`` where pictures are optimised.
      trained: Flags that only networks have.
      optimized: Flags that only the optimisation to ``style`` has.

    Raises:
      UsageError: If one is given that would have no effect.
    """
    if optimizes(values):
        wrong, problem = trained, "--style and --{}: give one of them"
    else:
        wrong, problem = (
            optimized,
            (
                "--{}: a network has no such option; leave it out, or give --style "
                "without --model to optimise each picture"
            ),
        )
    for name in wrong:
        if values[name].present:
            raise UsageError(problem.format(name))


def one_pass(values: flags.FlagValues) -> tuple[str, dict[str, Any]]:
    """The network that gives pictures a style, and what its ``painter`` takes.

    Returns:
      What ``load_network`` reads, and keywords.

    Raises:
      UsageError: If a flag is missing, or would have no effect.
    """
    model = values.model
    if values.style and model == BUNDLED and not values["model"].present:
        model = ANY
    own = {"strength", "style_scale", "content_mask"}.intersection(values)
    # A picture's own flags, of --from_image, have values but are not present.
    given = {
        name: values[name].value
        for name in sorted(own)
        if values[name].value != values[name].default
    }
    if not takes_any_style(model):
        for name in given | ({"style": None} if values.style else {}):
            raise UsageError(
                f"--{name}: the network of --model={model} has trained styles only; "
                "give --model=any, or leave it out"
            )
        return model, {"style": values.style_name}
    if values.style_name:
        raise UsageError(
            "--style_name: this network takes any picture; give --style=picture"
        )
    styles = parse_styles(values.style)
    if styles is None:
        raise UsageError("--style is missing: give the picture whose style is wanted")
    return model, {"style": styles, **given}


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
