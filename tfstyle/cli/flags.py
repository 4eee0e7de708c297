"""Options as absl flags: definition, parsing, presets, and values read back."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from tfstyle.errors import UsageError
from tfstyle.options import OptionField
from tfstyle.options.fields import (
    COLOR,
    MEMORY,
    NETWORK,
    OPTIMIZATION,
    PAPERS,
    PICTURES,
    STYLE,
    TRAINING,
)
from tfstyle.options.presets import Kind, preset_texts
from tfstyle.options.provenance import RECORDED, read_origin
from tfstyle.options.text import from_text, to_text

OUTPUT = "Output"
_GROUPS = (
    *(PICTURES, STYLE, COLOR, MEMORY, OPTIMIZATION, TRAINING, OUTPUT),
    *(NETWORK, PAPERS),
)


class OptionFlag(flags.Flag):
    """A flag of an option: its text is read and checked by the option's own rules.

    Attributes:
      field: The option.
    """

    def __init__(self, field: OptionField):
        """Makes the flag.

        Args:
          field: The option.
        """
        self.field = field
        super().__init__(
            _Parser(field),
            _Serializer(),
            field.name,
            field.default,
            field.help,
            boolean=field.kind == "bool",
        )

    def _parse(self, argument: Any) -> Any:
        return self.parser.parse(argument)  # whose errors are meant for users


class _Parser(flags.ArgumentParser):
    def __init__(self, field: OptionField):
        self._field = field

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        try:
            value = from_text(self._field, argument)
        except UsageError as error:
            raise UsageError(f"--{error}") from None
        if not self._field.accepts(value):
            name = self._field.name
            raise UsageError(f"--{name}={argument}: give {self._field.wanted}")
        return value


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return to_text(value)


def define(values: flags.FlagValues, fields: Iterable[OptionField]) -> None:
    """Defines a flag for each option.

    Args:
      values: Where to.
      fields: The options.
    """
    for field in fields:
        flags.DEFINE_flag(OptionFlag(field), values)


def argument(
    name: str,
    help: str,
    group: str = PICTURES,
    *,
    hint: Any = str,
    default: Any = None,
    **bounds: float,
) -> OptionField:
    """An option that only the command line has.

    Args:
      name: Its name.
      help: What it does.
      group: The heading that it stands under in ``--help``.
      hint: Its type.
      default: Its default.
      **bounds: Same as in ``options.fields.option``.
    """
    return OptionField(name, hint, default, help, group, bounds, {})


def values_of(
    values: flags.FlagValues, fields: Iterable[OptionField]
) -> dict[str, Any]:
    """The values of the flags of options.

    Args:
      values: The flags.
      fields: The options.

    Returns:
      Values by name.
    """
    return {field.name: values[field.name].value for field in fields}


def recorded_texts(values: flags.FlagValues) -> dict[str, str]:
    """The flags that decide a result and are not at their defaults, as texts."""
    texts = {}
    for name in sorted(RECORDED.intersection(values)):
        value = values[name].value
        if value is not None and to_text(value) != to_text(values[name].default):
            texts[name] = to_text(value)
    return texts


def required(values: flags.FlagValues, *names: str) -> list[Any]:
    """The values of flags that must be given.

    Args:
      values: The flags.
      *names: Those that must be given.

    Returns:
      Their values.

    Raises:
      UsageError: If any is missing; the message names all that are.
    """
    missing = [f"--{name}" for name in names if values[name].value in (None, "")]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UsageError(f"{' and '.join(missing)} {verb} missing; see --help")
    return [values[name].value for name in names]


def parse(
    values: flags.FlagValues,
    words: Sequence[str],
    positional: Sequence[str] = (),
    presets: Kind | None = "run",
) -> None:
    """Reads the words of a command line.

    Options of a preset come first, then those that ``--from_image`` finds in a picture,
    and then the command line's own.

    Args:
      values: The flags of a command.
      words: The command's name and its arguments.
      positional: Flags that may be given without their names, in this order.
      presets: The kind of presets that ``--preset`` names; None if they are not read.

    Raises:
      UsageError: If a flag does not exist, or has a value that it cannot have.
    """
    values.set_gnu_getopt(True)  # flags may follow positional arguments
    command = words[0]
    try:
        _, *rest = values(list(words))
    except flags.UnrecognizedFlagError as error:
        nearest = difflib.get_close_matches(error.flagname, list(values), n=2)
        hint = f"; did you mean --{' or --'.join(nearest)}?" if nearest else ""
        raise UsageError(
            f"there is no flag --{error.flagname}{hint or _see(command)}"
        ) from None
    except flags.Error as error:
        text = str(error).removeprefix("ERROR:: ")
        raise UsageError(f"{text}{_see(command)}") from None
    except UsageError as error:
        raise UsageError(f"{error}{_see(command)}") from None
    _take_positional(values, rest, positional, command)
    given = {name for name in values if values[name].present}
    if "from_image" in values and (image := values.from_image):
        origin = read_origin(image).located(image, given)
        for word in origin.words(command):
            name, _, text = word.removeprefix("--").partition("=")
            _set(values, name, text, given)
    if presets and "preset" in values and (preset := values.preset):
        for name, text in preset_texts(preset, presets).items():
            _set(values, name, text, given)


def _take_positional(
    values: flags.FlagValues, rest: Sequence[str], names: Sequence[str], command: str
) -> None:
    """Gives positional arguments to the flags that are not given by name, in order."""
    free = [name for name in names if not values[name].present]
    if "from_image" in values and values.from_image:
        free = free[-len(rest) :]  # the picture has told what to read
    if len(rest) > len(free):
        extra = rest[len(free)]
        problem = f"{extra!r} is one argument too many"
        if not names:
            problem = f"{extra!r} is no flag; write --flag=value"
        raise UsageError(f"{problem}{_see(command)}")
    for name, text in zip(free, rest, strict=False):
        values[name].parse(text)


def _set(values: flags.FlagValues, name: str, text: str, given: set[str]) -> None:
    """Sets a flag unless the command line did, or the command has no such flag."""
    if name in values and name not in given:
        values[name].value = values[name].parser.parse(text)
        given.add(name)


def _see(command: str) -> str:
    return f"; see tfstyle {command} --help"


def grouped(values: flags.FlagValues) -> dict[str, list[OptionField]]:
    """The options of a command by the heading that they stand under.

    Args:
      values: The flags of the command.

    Returns:
      Options in the order of their definition, by group in the order of ``_GROUPS``.
    """
    groups: dict[str, list[OptionField]] = {group: [] for group in _GROUPS}
    for flag in (values[name] for name in values):
        if isinstance(flag, OptionFlag):  # an alias is not one
            groups[flag.field.group].append(flag.field)
    return {group: fields for group, fields in groups.items() if fields}
