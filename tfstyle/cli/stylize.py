"""The content picture keeps its shapes and takes the style picture's strokes.

tfstyle stylize --content=photo.jpg --style=painting.jpg --output=out.png
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.recipes import plan_stylize


def define_flags(values: flags.FlagValues) -> None:
    """Content, style, outputs and every option."""
    flags.DEFINE_string("content", None, "Content picture.", values)
    flags.DEFINE_string("style", None, "Style picture.", values)
    runs.define_output_flags(values)
    runs.define_option_flags(values)


def run(values: flags.FlagValues) -> int:
    """Stylizes the content picture."""
    for name in ("content", "style"):
        if values[f"{name}_weight"].value:
            runs.required(values, name)
    return runs.carry_out(
        values,
        lambda: plan_stylize(
            values["content"].value, values["style"].value, **runs.options_from(values)
        ),
    )
