"""A new picture of any size is made from noise with the Gram matrices of another.

tfstyle texture --style=painting.jpg --width=768 --height=512 --output=out.png
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.cli.flags import define_recipe_flags, options_from
from tfstyle.stylizer.pictures import plan_texture


def define_flags(values: flags.FlagValues) -> None:
    """Style, size, outputs and every option that is not about content."""
    runs.define_style_flag(values)
    runs.define_style_mask_flag(values)
    flags.DEFINE_integer(
        "width",
        None,
        "Width in pixels; default: the style picture's.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "height",
        None,
        "Height in pixels; default: the style picture's.",
        flag_values=values,
    )
    runs.define_output_flags(values)
    define_recipe_flags(values, "texture")


def run(values: flags.FlagValues) -> int:
    """Synthesizes the texture."""
    return runs.carry_out(
        "texture",
        values,
        lambda: plan_texture(
            runs.parse_styles(runs.required(values, "style")),
            values["width"].value,
            values["height"].value,
            style_mask=runs.picture_paths(values["style_mask"].value) or None,
            **options_from(values),
        ),
    )
