"""Options as flags: each option's flag, its value as text, and back."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from tfstyle.errors import UsageError
from tfstyle.options import CHOICES, LossOptions, Options, weighted_layers
from tfstyle.options.presets import preset_path
from tfstyle.options.provenance import RECORDED, read_origin
from tfstyle.stylizer.pictures import INVERSION, TEXTURE


def define_option_flags(
    values: flags.FlagValues,
    defaults: Mapping[str, Any] | None = None,
    kind: type[LossOptions] = Options,
) -> None:
    """A flag for each field of options, with its default and its help text.

    Args:
      values: Where to.
      defaults: Defaults of a recipe that differ.
      kind: The options.
    """
    for field in dataclasses.fields(kind):
        default = (defaults or {}).get(field.name, field.default)
        help_text = field.metadata["help"]
        if field.name in CHOICES:
            choices = list(CHOICES[field.name])
            flags.DEFINE_enum(
                field.name, default, choices, help_text, flag_values=values
            )
        elif default is None or isinstance(default, tuple):
            shown = default if default is None else ",".join(f"{x:g}" for x in default)
            flags.DEFINE_string(field.name, shown, help_text, values)
        else:
            define = DEFINERS[type(default)]
            define(field.name, default, help_text, flag_values=values)


def define_recipe_flags(values: flags.FlagValues, command: str) -> None:
    """The flags of the options that a command which optimises a picture has.

    Args:
      values: Where to.
      command: ``stylize``, ``invert`` or ``texture``.
    """
    define_option_flags(values, _DEFAULTS.get(command))
    for name in _WITHOUT.get(command, ()):
        delattr(values, name)


_DEFAULTS = {"invert": INVERSION, "texture": TEXTURE}
_COLORS = ("color", "color_strength", "color_matching")
_WITHOUT = {
    "invert": ("style_layers", "style_weight", "style_size", "style_scale", *_COLORS),
    "texture": ("content_layers", "content_weight", "laplacian_weight", *_COLORS),
}


def options_from(
    values: flags.FlagValues, kind: type[LossOptions] = Options
) -> dict[str, Any]:
    """The fields of options as flags say them."""
    options = {}
    for field in dataclasses.fields(kind):
        if field.name not in values:
            continue
        value = values[field.name].value
        if field.name in PARSERS and isinstance(value, str):
            value = PARSERS[field.name](field.name, value)
        options[field.name] = value
    return options


def parse_layers(name: str, text: str) -> dict[str, float]:
    """``relu1_1:0.5,relu2_1:0.5`` as a mapping; names alone share a weight of 1.

    Raises:
      UsageError: Some layers have a weight and some have none, or one is no number or
        negative.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    weighted = [part.rsplit(":", 1) for part in parts if ":" in part]
    if not weighted:
        return weighted_layers(f"--{name}", parts, {})
    if len(weighted) != len(parts):
        raise UsageError(
            f"--{name}={text}: {len(parts)} layers but {len(weighted)} weights; give "
            "each layer a weight as name:weight, or none"
        )
    try:
        layers = {layer: float(weight) for layer, weight in weighted}
    except ValueError:
        raise UsageError(
            f"--{name}={text}: a weight is not a number; write name:weight,..."
        ) from None
    return weighted_layers(f"--{name}", layers, {})


def _numbers(name: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            f"--{name}={text}: give numbers with commas between them"
        ) from None


PARSERS: dict[str, Callable[[str, str], Any]] = {
    "content_layers": parse_layers,
    "style_layers": parse_layers,
    "steps": lambda name, text: _numbers(name, text, int),
    "style_scale": lambda name, text: _numbers(name, text, float),
    "clamp": lambda name, text: _numbers(name, text, float),
    "sample_steps": lambda name, text: _numbers(name, text, int),
}
DEFINERS: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def recorded_options(values: flags.FlagValues) -> dict[str, str]:
    """The flags that decide a result and are not at their defaults, as texts."""
    texts = {}
    for name in sorted(RECORDED.intersection(values)):
        value = values[name].value
        if value is not None and value != values[name].default:
            texts[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return texts


def parse(values: flags.FlagValues, words: list[str], presets: bool = True) -> None:
    """Reads flags, those of a preset or a picture first, so that others override them.

    Args:
      values: The flags of a command.
      words: The command's name and its arguments.
      presets: Whether a preset is read; a sweep does so itself.

    Raises:
      UsageError: A flag is unknown or its value is not of its kind, or an argument is
        no flag.
    """
    command, *arguments = words
    _read(values, words)
    before = []
    if presets and "preset" in values and values["preset"].value is not None:
        # A preset is for every command: a texture has no use for its content layers.
        known = {field.name for field in dataclasses.fields(Options)}
        before += [f"--undefok={','.join(known - set(values))}"]
        before += [f"--flagfile={preset_path(values['preset'].value, command)}"]
    if "from_image" in values and values["from_image"].value is not None:
        given = {name for name in values if values[name].present}
        origin = read_origin(values["from_image"].value)
        before += origin.located(values["from_image"].value, given).words(command)
    if before:
        _read(values, [command, *before, *arguments])


def _read(values: flags.FlagValues, words: list[str]) -> None:
    try:
        rest = values(words)
    except flags.Error as error:
        problem = _problem(error, values)
        raise UsageError(f"{problem}; see tfstyle {words[0]} --help") from error
    after = words[words.index("--") + 1 :] if "--" in words else []
    if "beam_flags" in values and rest[1:] == after:
        values["beam_flags"].value = [*(values["beam_flags"].value or []), *after]
    elif rest[1:]:
        raise UsageError(
            f"{rest[1]!r} is no flag; write --flag=value, see tfstyle {words[0]} --help"
        )


def _problem(error: flags.Error, values: flags.FlagValues) -> str:
    """What absl found wrong, in the words of the rest of tfstyle."""
    if isinstance(error, flags.UnrecognizedFlagError):
        nearest = difflib.get_close_matches(error.flagname, list(values))
        hint = f" (did you mean --{' or --'.join(nearest)}?)" if nearest else ""
        return f"there is no flag --{error.flagname}{hint}"
    if isinstance(error, flags.CantOpenFlagFileError):
        return str(error).removeprefix("ERROR:: ")
    illegal = re.match(r"flag --(\w+)=(.*?): ", str(error), re.DOTALL)
    if not illegal or illegal[1] not in values:
        return str(error)
    parser = values[illegal[1]].parser
    wanted = parser.syntactic_help or "true or false"
    if choices := getattr(parser, "enum_values", ()):
        wanted = f"one of {', '.join(choices)}"
    return f"--{illegal[1]}={illegal[2]}: give {wanted}"
