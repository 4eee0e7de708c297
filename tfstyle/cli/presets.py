"""Lists the presets, under the experiments that they reproduce."""

from __future__ import annotations

import textwrap

from absl import flags

from tfstyle.options.presets import Kind, preset_names, preset_source

_KINDS: tuple[Kind, ...] = ("run", "training")


def define_flags(values: flags.FlagValues) -> None:
    """The command has no flags of its own."""


def run(values: flags.FlagValues) -> int:
    """Prints the list, with each experiment once."""
    parts: dict[str, dict[str, str]] = {}
    for kind in _KINDS:
        for name in preset_names(kind):
            experiment, part = preset_source(name, kind)
            parts.setdefault(experiment, {})[name] = part
    widest = max(len(name) for presets in parts.values() for name in presets)
    for experiment, presets in parts.items():
        print(_filled(experiment))
        for name, part in presets.items():
            print(_filled(f"  {name:{widest}}  {part}", widest + 4))
        print()
    return 0


def _filled(text: str, indent: int = 0) -> str:
    return textwrap.fill(
        text, 88, subsequent_indent=" " * indent, break_on_hyphens=False
    )
