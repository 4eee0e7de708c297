"""Lists the presets with the experiment that each reproduces."""

from __future__ import annotations

import textwrap

from absl import flags

from tfstyle.presets import preset_names, preset_source


def define_flags(values: flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(values: flags.FlagValues) -> int:
    """Prints the list."""
    for name in preset_names():
        print(name)
        print(textwrap.indent(textwrap.fill(preset_source(name), 80), "    "))
    return 0
