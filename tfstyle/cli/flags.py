"""Options as absl flags: definition, parsing, presets, and values read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from tfstyle.errors import UsageError, did_you_mean
from tfstyle.images.samples import resolve_samples
from tfstyle.options import OptionField, provenance
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
from tfstyle.options.text import default_text, from_text, to_text

OUTPUT, ADDRESS = "Output", "Address"
_GROUPS = (
    *(PICTURES, ADDRESS, STYLE, COLOR, MEMORY, OPTIMIZATION, TRAINING, OUTPUT),
    *(NETWORK, PAPERS),
)


class OptionFlag(flags.Flag):
    """A flag of an option: its text is read and checked by the option's own rules.

    Attributes:
      field: The option.
    """

    def __init__(self, field: OptionField, several: bool = False):
        """Makes the flag.

        Args:
          field: The option.
          several: Whether it takes several values with commas between them; a value
            that has commas itself is then written with + instead. It has no default.
        """
        self.field, self._several = field, several
        super().__init__(
            flags.ArgumentParser(),
            _Serializer(),
            field.name,
            None if several else field.default,
            field.help,
            boolean=field.kind == "bool",
        )

    def take(self, text: str) -> None:
        """Sets the flag to one value, from a preset or from a picture.

        Raises:
          UsageError: If the option cannot have the value.
        """
        value = self._checked(text)
        self.value = [value] if self._several else value

    def _parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        if not self._several:
            return self._checked(argument)
        lists = self.field.kind in ("ints", "floats", "layers")
        parts = [part.strip() for part in argument.split(",")]
        return [self._checked(p.replace("+", ",") if lists else p) for p in parts]

    def _checked(self, text: str) -> Any:
        try:
            value = from_text(self.field, text)
        except UsageError as error:
            raise UsageError(f"--{error}") from None
        if not self.field.accepts(value):
            raise UsageError(f"--{self.name}={text}: give {self.field.wanted}")
        return value


class _Serializer(flags.ArgumentSerializer):
    def serialize(self, value: Any) -> str:
        return to_text(value)


def define(
    values: flags.FlagValues, fields: Iterable[OptionField], *, several: bool = False
) -> None:
    """Defines a flag for each option; ``several`` is that of ``OptionFlag``."""
    for field in fields:
        flags.DEFINE_flag(OptionFlag(field, several), values)


def argument(
    name: str,
    help: str,
    group: str = PICTURES,
    *,
    hint: Any = str,
    default: Any = None,
    **bounds: float,
) -> OptionField:
    """An option that only the command line has; ``bounds`` are those of ``option``."""
    return OptionField(name, hint, default, help, group, bounds, {})


def values_of(
    values: flags.FlagValues, fields: Iterable[OptionField]
) -> dict[str, Any]:
    """The values of the flags of these options, by name."""
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

    Raises:
      UsageError: If any is missing; the message names all that are.
    """
    missing = [f"--{name}" for name in names if values[name].value in (None, "")]
    if missing:
        *others, last = missing
        listed = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise UsageError(f"{listed} missing; see --help")
    return [values[name].value for name in names]


def parse(
    values: flags.FlagValues,
    words: Sequence[str],
    positional: Sequence[str] = (),
    presets: Kind = "run",
) -> None:
    """Reads the words of a command line.

    Options of a preset come first, then those that ``--from_image`` finds in a picture,
    and then the command line's own.

    Args:
      values: The flags of a command.
      words: The command's name and its arguments.
      positional: Flags that may be given without their names, in this order.
      presets: The kind of presets that ``--preset`` names.

    Raises:
      UsageError: If a flag does not exist, or has a value that it cannot have.
    """
    values.set_gnu_getopt(True)  # flags may follow positional arguments
    see = f"; see tfstyle {words[0]} --help"
    try:
        _, *rest = values(list(words))
        _take_positional(values, rest, positional)
    except flags.UnrecognizedFlagError as error:
        known = [f"--{name}" for name in values]
        hint = did_you_mean(f"--{error.flagname}", known, see.removeprefix("; "))
        raise UsageError(f"there is no flag --{error.flagname}; {hint}") from None
    except flags.CantOpenFlagFileError as error:
        cause: Any = error.__context__  # the OSError
        told = f"--flagfile={cause.filename}: cannot be read ({cause.strerror})"
        raise UsageError(f"{told}{see}") from None
    except UnicodeDecodeError:
        raise UsageError(
            f"--flagfile: is no text with a flag on each line{see}"
        ) from None
    except flags.Error as error:
        if found := re.search(r"-(\w+)( with no argument)?$", str(error)):
            told = f"--{found[1]} has no value; write --{found[1]}=VALUE"
            raise UsageError(f"{told}{see}") from None
        raise UsageError(f"{str(error).removeprefix('ERROR:: ')}{see}") from None
    except ValueError as error:  # also ours, and absl's own about switches
        raise UsageError(f"{error}{see}") from None
    given = {name for name in values if values[name].present}
    if "from_image" in values and (image := values.from_image):
        origin = read_origin(image).located(image, given)
        for word in origin.words(words[0]):
            name, _, text = word.removeprefix("--").partition("=")
            _set(values, name, text, given)
    if "preset" in values and (preset := values.preset):
        for name, text in preset_texts(preset, presets).items():
            _set(values, name, text, given)
    for name in set(provenance.PICTURES).intersection(values):
        if named := values[name].value:
            values[name].value = resolve_samples(named)


def with_flags(message: str, values: flags.FlagValues) -> str:
    """A message of the library with its arguments written as the flags that they are.

    Args:
      message: Such as ``clamp=(1.0,): give low,high``.
      values: The flags of the command.

    Returns:
      Such as ``--clamp=1.0: give low,high``: with ``--`` before a flag's name that
      begins the message, that ``=`` follows, or that is no English word, as
      ``style_mask``.
    """
    for name in values:
        value = values[name].value
        message = message.replace(f"{name}={value!r}", f"{name}={to_text(value)}")
    names = sorted(values, key=len, reverse=True)
    known = "|".join(names)
    compound = "|".join(name for name in names if "_" in name) or "(?!)"
    return re.sub(
        rf"^({known})(?=:| is | has )|(?<![\w./'-])({known})(?==)"
        rf"|(?<![\w./'-])({compound})(?![\w./'=-]| \()",
        lambda found: f"--{found[0]}",
        message,
    )


def _take_positional(
    values: flags.FlagValues, rest: Sequence[str], names: Sequence[str]
) -> None:
    """Gives positional arguments to the flags that are not given by name, in order."""
    free = [name for name in names if not values[name].present]
    if "from_image" in values and values["from_image"].value:
        free = free[-len(rest) :]  # the picture tells what to read
    if len(rest) > len(free):
        extra = rest[len(free)]
        if names:
            raise UsageError(f"{extra!r} is one argument too many")
        raise UsageError(f"{extra!r} is no flag; write --flag=value")
    for name, text in zip(free, rest, strict=False):
        values[name].parse(text)


def _set(values: flags.FlagValues, name: str, text: str, given: set[str]) -> None:
    """Sets a flag unless the command line did, or the command has no such flag."""
    if name in values and name not in given:
        _flag(values, name).take(text)
        given.add(name)


def _flag(values: flags.FlagValues, name: str) -> OptionFlag:
    flag = values[name]
    assert isinstance(flag, OptionFlag)  # `define` makes no others
    return flag


def grouped(values: flags.FlagValues) -> dict[str, list[OptionField]]:
    """The options of a command by the heading that they stand under.

    Returns:
      Options in the order of their definition, by group in the order of ``_GROUPS``.
    """
    groups: dict[str, list[OptionField]] = {group: [] for group in _GROUPS}
    for field in (_flag(values, name).field for name in values):
        groups[field.group].append(field)
    return {group: fields for group, fields in groups.items() if fields}


def described(field: OptionField) -> tuple[str, str]:
    """A flag as ``--help`` shows it.

    Returns:
      Its name with its choices, and what it does, with its default and range.
    """
    text = default_text(field)
    facts = [text] if text else []
    facts += [field.range] if field.range else []
    title = f"--{field.name}"
    if field.choices:
        title += f"={'|'.join(field.choices)}"
    elif field.kind == "bool":
        title = f"--[no]{field.name}"
    return title, f"{field.help} [{'; '.join(facts)}]" if facts else field.help
