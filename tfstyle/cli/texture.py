"""Makes a new picture of any size.

Noise is optimised until its Gram matrices agree with those of the picture.

tfstyle texture painting.jpg out.png --width=768 --height=512
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import argument, define, required, values_of
from tfstyle.cli.outputs import RUN_OUTPUTS
from tfstyle.cli.run import carry_out
from tfstyle.options import TEXTURE
from tfstyle.options.fields import MEMORY
from tfstyle.stylizer import Stylizer

POSITIONAL = ("style", "output")

SIDES = tuple(
    argument(
        name,
        f"{name.capitalize()} in pixels. Default: the style picture's.",
        MEMORY,
        hint=int,
        at_least=1,
    )
    for name in ("width", "height")
)
STYLE_MASK = argument(
    "style_mask",
    "A grey picture: only what is white counts. For several styles, one for each with "
    "commas between them.",
)


def define_flags(values: flags.FlagValues) -> None:
    """Style, size, outputs and every option that is not about content."""
    pictures = (arguments.STYLE, STYLE_MASK, arguments.PRESET, arguments.FROM_IMAGE)
    define(values, [*pictures, *RUN_OUTPUTS, *SIDES, *TEXTURE.fields])


def run(values: flags.FlagValues) -> int:
    """Synthesizes the texture."""
    stylizer = Stylizer.for_recipe(TEXTURE, values_of(values, TEXTURE.fields))
    style, _ = required(values, "style", "output")
    return carry_out(
        "texture",
        values,
        stylizer,
        lambda: stylizer.read_texture(
            arguments.parse_styles(style),
            values.width,
            values.height,
            style_mask=arguments.picture_paths(values.style_mask) or None,
        ),
    )
