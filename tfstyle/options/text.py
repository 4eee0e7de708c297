"""Options as text and back: flags, presets, captions, and what a picture remembers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tfstyle.errors import UsageError
from tfstyle.options.fields import OptionField
from tfstyle.options.options import weighted_layers


def from_text(field: OptionField, text: str) -> Any:
    """The value that a text stands for.

    Args:
      field: The option.
      text: Such as ``0.5``, ``true``, ``100,60,40`` or ``relu1_1:0.5,relu2_1:0.5``.

    Returns:
      A value of the option's type. Its range is checked when options are made.

    Raises:
      UsageError: If the text is not of that type.
    """
    parsers: dict[str, Callable[[str], Any]] = {
        "bool": _parse_bool,
        "int": int,
        "float": float,
        "ints": lambda text: _numbers(text, int),
        "floats": lambda text: _numbers(text, float),
    }
    if field.kind == "layers":
        return parse_layers(field.name, text)
    try:
        return parsers.get(field.kind, str)(text.strip())
    except ValueError:
        raise UsageError(f"{field.name}={text}: give {field.wanted}") from None


def to_text(value: Any) -> str:
    """The text that ``from_text`` turns back into a value.

    Returns:
      Its text; numbers in full precision.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{to_text(float(w))}" for name, w in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(to_text, value))
    return str(value)


def default_text(field: OptionField) -> str:
    """The default of an option as help shows it; empty if it has none."""
    for other, defaults in field.by.items():
        if field.default is None:
            found = (f"{to_text(value)} ({key})" for key, value in defaults.items())
            return f"by {other}: {', '.join(found)}"
    default = field.default
    if default in (None, "", ()):
        return ""
    return f"{default:g}" if isinstance(default, float) else to_text(default)


def parse_layers(name: str, text: str) -> dict[str, float]:
    """``relu1_1:0.5,relu2_1:0.5`` as a mapping; names alone share a weight of 1.

    Args:
      name: The name of the option, for messages.
      text: Layers with commas between them.

    Returns:
      Weights by layer.

    Raises:
      UsageError: If some layers have a weight and others have none, or a weight is not
        a number of at least 0.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    weighted = [part.rsplit(":", 1) for part in parts if ":" in part]
    if not weighted:
        return weighted_layers(name, parts, {})
    if len(weighted) != len(parts):
        raise UsageError(
            f"{name}={text}: {len(parts)} layers but {len(weighted)} weights; give "
            "each layer a weight as name:weight, or none"
        )
    layers = {}
    for layer, weight in weighted:
        try:
            layers[layer] = float(weight)
        except ValueError:
            raise UsageError(
                f"{name}={text}: the weight {weight!r} of {layer} is not a number; "
                "write name:weight,..."
            ) from None
    return weighted_layers(name, layers, {})


def _parse_bool(text: str) -> bool:
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(text)
    return values[text.lower()]


def _numbers(text: str, kind: Callable[[str], Any]) -> tuple[Any, ...]:
    return tuple(kind(part) for part in text.split(",") if part.strip())
