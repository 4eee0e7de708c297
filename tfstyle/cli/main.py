"""The console command ``tfstyle``."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
import types
from collections.abc import Sequence

from absl import flags

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.presets import preset_path

COMMANDS = {
    "stylize": "give a picture the style of another",
    "invert": "find the picture that a layer's features describe",
    "texture": "make a new picture with the texture of another",
    "presets": "list the published experiments that --preset names",
    "info": "show versions, devices and weights",
}
USAGE = """tfstyle: neural style transfer for TensorFlow and Keras.

  tfstyle COMMAND --flag=value ...

{commands}

  tfstyle COMMAND --help    the flags of a command
  tfstyle --version

Example:
  tfstyle stylize --content=photo.jpg --style=painting.jpg --output=out.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: Words of the command line without the program's name.

    Returns:
      The exit code: 0, 1 for a failure, 2 for wrong usage, 130 or 143 for a run that a
      signal ended.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = any(word in ("--debug", "-debug", "--debug=true") for word in words)
    try:
        return _dispatch(words)
    except TfstyleError as error:
        if debug:
            raise
        print(f"tfstyle: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if debug:
            raise
        print("tfstyle: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"tfstyle: {line} (--debug shows where)", file=sys.stderr)
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "-help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("--version", "-version"):
        print(f"tfstyle {tfstyle.__version__}")
        return 0
    if words[0] not in COMMANDS:
        names = ", ".join(COMMANDS)
        raise UsageError(f"there is no command {words[0]!r}; the commands are {names}")
    command = importlib.import_module(f"tfstyle.cli.{words[0]}")
    values = flags.FlagValues()
    command.define_flags(values)
    flags.DEFINE_bool("debug", False, "Show where an error came from.", values)
    if any(word in ("--help", "-h", "-help", "--helpfull") for word in words):
        print(command_help(words[0], command, values))
        return 0
    parse(values, words)
    return command.run(values)


def parse(values: flags.FlagValues, words: list[str]) -> None:
    """Reads flags, those of a preset first, so that single flags override it.

    Args:
      values: The flags of a command.
      words: The command's name and its arguments.

    Raises:
      UsageError: A flag is unknown or its value is not of its kind, or an argument is
        no flag.
    """
    presets = [word.split("=", 1)[1] for word in words if word.startswith("--preset=")]
    flagfiles = [f"--flagfile={preset_path(name)}" for name in presets[-1:]]
    try:
        rest = values([words[0], *flagfiles, *words[1:]])
    except flags.Error as error:
        raise UsageError(f"{error}; see tfstyle {words[0]} --help") from error
    if rest[1:]:
        raise UsageError(
            f"{rest[1]!r} is no flag; write --flag=value, see tfstyle {words[0]} --help"
        )


def usage() -> str:
    """The text of ``tfstyle --help``."""
    rows = [f"  {name:9} {summary}" for name, summary in COMMANDS.items()]
    return USAGE.format(commands="\n".join(rows))


def command_help(name: str, command: types.ModuleType, values: flags.FlagValues) -> str:
    """The text of ``tfstyle COMMAND --help``: every flag with its default."""
    width = min(shutil.get_terminal_size().columns, 88)
    parts = [f"tfstyle {name}: {COMMANDS[name]}.", "", (command.__doc__ or "").strip()]
    for flag_name in values:
        flag = values[flag_name]
        shown = flag.default_as_str
        default = f" [{shown.strip(chr(39))}]" if shown else ""
        body = textwrap.fill(
            f"{flag.help}{default}",
            width,
            initial_indent=" " * 6,
            subsequent_indent=" " * 6,
        )
        parts.append(f"  --{flag_name}\n{body}")
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
