"""A new picture of any size is made from noise with the Gram matrices of another.

tfstyle texture --style=painting.jpg --width=768 --height=512 --output=out.png
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.recipes import TEXTURE, plan_texture


def define_flags(values: flags.FlagValues) -> None:
    """Style, size, outputs and every option that is not about content."""
    flags.DEFINE_string("style", None, "Picture whose texture is taken.", values)
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
    runs.define_option_flags(values, TEXTURE)
    for name in ("content_layers", "content_weight"):
        delattr(values, name)


def run(values: flags.FlagValues) -> int:
    """Synthesizes the texture."""
    return runs.carry_out(
        values,
        lambda: plan_texture(
            runs.required(values, "style"),
            values["width"].value,
            values["height"].value,
            **runs.options_from(values),
        ),
    )
