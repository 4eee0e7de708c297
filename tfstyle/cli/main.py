"""The console command ``tfstyle``."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import textwrap
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfstyle.backend import check_backend
from tfstyle.cli.signals import remembering_interrupts
from tfstyle.errors import UsageError, did_you_mean, user_error
from tfstyle.version import __version__

if TYPE_CHECKING:
    from absl import flags

COMMANDS = {
    "stylize": "give a picture the style of another",
    "invert": "find the picture that a layer's features describe",
    "texture": "make a new picture with the texture of another",
    "sweep": "stylize with every combination of some options",
    "apply": "give pictures any style, or a trained one, in one pass",
    "video": "give a film a style, without flicker",
    "train": "train a network for styles of your own, or for any style",
    "batch": "give any number of pictures a style, on any number of machines",
    "studio": "open the studio in the browser",
    "web": "open the page that needs no server: style in the browser alone",
    "export": "write a network for TensorFlow Serving, LiteRT or ONNX",
    "presets": "list the published experiments that --preset names",
    "info": "show versions, devices and weights",
}
WITHOUT_TENSORFLOW = ("presets", "web")
"""Commands that work whatever backend Keras is told to use."""
USAGE = """tfstyle: neural style transfer for TensorFlow and Keras.

  tfstyle COMMAND --flag=value ...

{commands}

  tfstyle COMMAND --help    the flags of a command
  tfstyle --version

Example:
  tfstyle stylize sample:cat sample:nocturne out.png
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: Words of the command line without the program's name.

    Returns:
      The exit code: 0, 1 for a failure, 2 for wrong usage, 130 or 143 for a run that a
      signal ended, 141 if nobody reads the output any more.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = any(word in ("--debug", "-debug", "--debug=true") for word in words)
    try:
        with remembering_interrupts():
            code = _dispatch(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as in `tfstyle presets | head -1`
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        if debug:
            raise
        print("tfstyle: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        if told := user_error(error):
            print(f"tfstyle: {told}", file=sys.stderr)
            return told.exit_code
        line = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        print(f"tfstyle: {line} (--debug shows where)", file=sys.stderr)
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "-help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] in ("--version", "-version"):
        print(f"tfstyle {__version__}")
        return 0
    if words[0] not in COMMANDS:
        hint = did_you_mean(
            words[0], COMMANDS, f"the commands are {', '.join(COMMANDS)}"
        )
        raise UsageError(f"there is no command {words[0]!r}; {hint}")
    # absl, NumPy and Pillow are imported from here on, where no Ctrl-C gets lost.
    from absl import flags

    from tfstyle.cli.flags import OUTPUT, argument, define, parse, with_flags

    command = importlib.import_module(f"tfstyle.cli.{words[0]}")
    values = flags.FlagValues()
    command.define_flags(values)
    debug = "Show where in the code an error came from."
    define(values, [argument("debug", debug, OUTPUT, hint=bool, default=False)])
    if any(word in ("--help", "-h", "-help", "--helpfull") for word in words):
        print(command_help(words[0], command, values))
        return 0
    positional = getattr(command, "POSITIONAL", ())
    parse(values, words, positional, getattr(command, "PRESETS", "run"))
    if words[0] not in WITHOUT_TENSORFLOW:
        check_backend()
    try:
        return command.run(values)
    except UsageError as error:
        raise UsageError(with_flags(str(error), values)) from error


def usage() -> str:
    """The text of ``tfstyle --help``."""
    rows = [f"  {name:9} {summary}" for name, summary in COMMANDS.items()]
    return USAGE.format(commands="\n".join(rows))


def command_help(name: str, command: types.ModuleType, values: flags.FlagValues) -> str:
    """The text of ``tfstyle COMMAND --help``: every flag with its default, by group."""
    from tfstyle.cli.flags import described, grouped

    parts = [f"tfstyle {name}: {COMMANDS[name]}.", ""]
    for text in (command.__doc__ or "").strip().split("\n\n"):
        example = text.startswith("tfstyle ")
        parts += [textwrap.indent(text, "  " * example), ""]
    for group, fields in grouped(values).items():
        parts += [f"{group}:", *(_entry(*described(field)) for field in fields), ""]
    parts += [
        "Defaults and ranges are in brackets. --flagfile=FILE reads flags from a file,",
        "one on a line.",
    ]
    return "\n".join(parts)


def _entry(title: str, text: str) -> str:
    width = min(shutil.get_terminal_size().columns, 88)
    return f"  {title}\n" + textwrap.indent(textwrap.fill(text, width - 6), " " * 6)
