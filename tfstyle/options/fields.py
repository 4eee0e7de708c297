"""How options are declared, with type, default, range and help, and checked."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, Union

from tfstyle.errors import UsageError, did_you_mean

Layers = Mapping[str, float] | Sequence[str] | None
"""Layers with their weights, or names that share a weight of 1, or the default ones."""
Path = str | os.PathLike[str]

PICTURES = "Pictures"
STYLE = "Style and content"
COLOR = "Colour"
MEMORY = "Size and memory"
OPTIMIZATION = "Optimisation"
NETWORK = "Network"
TRAINING = "Training"
PAPERS = "Reproduction of papers"


def option(
    default: Any,
    help: str,
    group: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    needs: Mapping[str, Collection[Any]] | None = None,
    by: Mapping[str, Mapping[Any, Any]] | None = None,
) -> Any:
    """Declares an option as a field of a frozen dataclass.

    Args:
      default: Its default.
      help: One or two sentences for ``--help`` and the reference.
      group: The heading that it stands under in ``--help``.
      at_least: Lowest value, of each number if there are several.
      at_most: Highest value.
      above: Bound that the value must exceed.
      below: Bound that the value must stay under.
      needs: Values of other options without which this one has no effect. A value
        other than the default is then refused.
      by: Another option, and the default by its value; ``default`` is then None.

    Returns:
      The field.
    """
    bounds = {"at_least": at_least, "at_most": at_most, "above": above, "below": below}
    metadata = {
        "help": help,
        "group": group,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "needs": dict(needs or {}),
        "by": dict(by or {}),
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class OptionField:
    """What is known of one option.

    Attributes:
      name: Its name as a keyword; ``--name`` on the command line.
      hint: Its type.
      default: Its default.
      help: What it does.
      group: The heading that it stands under.
      bounds: Its range: ``at_least``, ``at_most``, ``above`` and ``below``.
      needs: Values of other options without which it has no effect.
      by: Another option, and the default by its value.
    """

    name: str
    hint: Any
    default: Any
    help: str
    group: str
    bounds: Mapping[str, float]
    needs: Mapping[str, Collection[Any]]
    by: Mapping[str, Mapping[Any, Any]] = dataclasses.field(default_factory=dict)

    def default_of(self, options: Any) -> Any:
        """The default beside the other options as they are."""
        for other, defaults in self.by.items():
            if self.default is None:
                return defaults[getattr(options, other)]
        return self.default

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of an option that has a fixed set of them; else empty."""
        literals = [arm for arm in self._arms if typing.get_origin(arm) is Literal]
        return typing.get_args(literals[0]) if literals else ()

    @property
    def kind(self) -> str:
        """``bool``, ``int``, ``float``, ``ints``, ``floats``, ``layers``, ``text``."""
        simple = {bool: "bool", int: "int", float: "float", Layers: "layers"}
        if self.hint in simple:
            return simple[self.hint]
        if Sequence[int] in self._arms:
            return "ints"
        return "floats" if Sequence[float] in self._arms else "text"

    @property
    def _arms(self) -> tuple[Any, ...]:
        """The types of a union; the type alone if it is none."""
        if typing.get_origin(self.hint) in (types.UnionType, Union):
            return typing.get_args(self.hint)
        return (self.hint,)

    @property
    def wanted(self) -> str:
        """What a value must be, for messages and the reference."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.kind == "layers":
            return "a mapping from layers to weights, or a list of layers"
        nouns = {
            "bool": "True or False",
            "int": "a whole number",
            "float": "a number",
            "ints": "whole numbers",
            "floats": "numbers",
            "text": "a text",
        }
        if not self.range:
            return nouns[self.kind]
        of = " of" * self.range.startswith("at least")
        return f"{nouns[self.kind]}{of} {self.range}"

    @property
    def range(self) -> str:
        """The range of a number, such as "from 0 to 1"; empty if any will do."""
        bounds = self.bounds
        low, high = bounds.get("at_least"), bounds.get("at_most")
        above, below = bounds.get("above"), bounds.get("below")
        if low is not None and high is not None:
            return f"from {low:g} to {high:g}"
        if low is not None and below is not None:
            return f"from {low:g} to below {below:g}"
        if low is not None:
            return f"at least {low:g}"
        return "" if above is None else f"above {above:g}"

    def check(self, value: Any) -> None:
        """Refuses a value of another type or out of range.

        Raises:
          UsageError: If the option cannot have the value.
        """
        if not self.accepts(value):
            raise UsageError(f"{self.name}={value!r}: give {self.wanted}")

    def accepts(self, value: Any) -> bool:
        """Whether the option can have a value."""
        if value is None:
            return self.default is None
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind == "bool":
            return isinstance(value, bool)
        if self.kind == "layers":
            weights = value.values() if isinstance(value, Mapping) else ()
            return isinstance(value, str | Mapping | list | tuple) and all(
                self._is_number(weight, whole=False) for weight in weights
            )
        if self.kind == "text":
            return isinstance(value, str | os.PathLike)
        whole = self.kind in ("int", "ints")
        if self.kind in ("int", "float"):
            return self._is_number(value, whole)
        if isinstance(value, numbers.Real):
            # Only `steps` may be a single number; its type says so.
            return int in typing.get_args(self.hint) and self._is_number(value, whole)
        if isinstance(value, str) or not isinstance(value, Iterable):
            return False
        return all(self._is_number(each, whole) for each in value)

    def _is_number(self, value: Any, whole: bool) -> bool:
        kind = numbers.Integral if whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        number, bounds = float(value), self.bounds
        return (
            math.isfinite(number)
            and bounds.get("at_least", -math.inf) <= number
            and number <= bounds.get("at_most", math.inf)
            and bounds.get("above", -math.inf) < number
            and number < bounds.get("below", math.inf)
        )


@functools.cache
def fields_of(options: Any) -> tuple[OptionField, ...]:
    """The options of a dataclass, in the order of their declaration.

    Args:
      options: A dataclass whose fields were declared by ``option``.

    Returns:
      One record per field.
    """
    hints = typing.get_type_hints(options)
    return tuple(
        OptionField(
            name=field.name,
            hint=hints[field.name],
            default=field.default,
            help=field.metadata["help"],
            group=field.metadata["group"],
            bounds=field.metadata["bounds"],
            needs=field.metadata["needs"],
            by=field.metadata["by"],
        )
        for field in dataclasses.fields(options)
    )


def check_options(options: Any) -> None:
    """Checks every option of a record, alone and beside the others.

    NumPy's numbers and arrays become Python's own, which compare as one expects and
    have the same texts wherever they come from.

    Args:
      options: An instance of a dataclass whose fields were declared by ``option``.

    Raises:
      UsageError: If an option has a value that it cannot have, or one that has no
        effect with the others as they are.
    """
    kind: Any = type(options)
    fields = fields_of(kind)
    for field in fields:
        given = getattr(options, field.name)
        value = _without_numpy(given)
        if value is not given:
            object.__setattr__(options, field.name, value)
        field.check(value)
    for field in fields:
        if getattr(options, field.name) is None:
            object.__setattr__(options, field.name, field.default_of(options))
    for field in fields:
        value = getattr(options, field.name)
        if value == field.default_of(options):
            continue
        for other, values in field.needs.items():
            found = getattr(options, other)
            if found not in values:
                raise UsageError(
                    f"{field.name}={value!r} has no effect with {other}={found!r}; "
                    f"leave it out, or give {other}={' or '.join(map(repr, values))}"
                )


def _without_numpy(value: Any) -> Any:
    if isinstance(value, list | tuple) and any(hasattr(v, "tolist") for v in value):
        return tuple(map(_without_numpy, value))
    return value.tolist() if hasattr(value, "tolist") else value


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Refuses a value that is not one of some choices.

    Raises:
      UsageError: If it is none of them; the message has the argument's name.
    """
    if value not in choices:
        raise UsageError(f"{name}={value!r}: choose one of {', '.join(choices)}")


def check_names(given: Iterable[str], known: Collection[str], what: str) -> None:
    """Refuses names of options that do not exist, with the nearest that do.

    Raises:
      UsageError: If a name does not exist.
    """
    for name in given:
        if name not in known:
            hint = did_you_mean(
                name, known, f"its options are {', '.join(sorted(known))}"
            )
            raise UsageError(f"{what} has no option {name!r}; {hint}")
