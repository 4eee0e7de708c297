"""What a layer still knows of a picture: noise is optimised until its features agree.

tfstyle invert --content=photo.jpg --layer=relu3_1 --output=out.png
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.cli.flags import define_recipe_flags, options_from
from tfstyle.stylizer.pictures import plan_inversion


def define_flags(values: flags.FlagValues) -> None:
    """Content, layer, outputs and every option that is not about style."""
    flags.DEFINE_string("content", None, "Content picture.", values)
    runs.define_output_flags(values)
    define_recipe_flags(values, "invert")
    flags.DEFINE_alias("layer", "content_layers", flag_values=values)


def run(values: flags.FlagValues) -> int:
    """Inverts the features of the content picture."""
    return runs.carry_out(
        "invert",
        values,
        lambda: plan_inversion(
            runs.required(values, "content"), None, **options_from(values)
        ),
    )
