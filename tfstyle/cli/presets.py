"""Lists the presets with the experiment that each reproduces."""

from __future__ import annotations

import textwrap

from absl import flags

from tfstyle.options.presets import Kind, preset_names, preset_source

_KINDS: dict[Kind, str] = {"run": "", "training": " (tfstyle train)"}


def define_flags(values: flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(values: flags.FlagValues) -> int:
    """Prints the list; presets with the same description stand above it together."""
    for kind, command in _KINDS.items():
        by_source: dict[str, list[str]] = {}
        for name in preset_names(kind):
            by_source.setdefault(preset_source(name, kind), []).append(name)
        for source, names in by_source.items():
            print("\n".join(f"{name}{command}" for name in names))
            print(textwrap.indent(textwrap.fill(source, 80), "    "))
    return 0
