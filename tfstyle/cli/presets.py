"""Lists the presets with the experiment that each reproduces."""

from __future__ import annotations

import textwrap

from absl import flags

from tfstyle.options.presets import preset_names, preset_source


def define_flags(values: flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(values: flags.FlagValues) -> int:
    """Prints the list."""
    for command in ("", "train"):
        for name in preset_names(command):
            print(f"{name} (tfstyle {command})" if command else name)
            source = preset_source(name, command)
            print(textwrap.indent(textwrap.fill(source, 80), "    "))
    return 0
