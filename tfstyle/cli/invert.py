"""Shows what a layer still knows of a picture.

Noise is optimised until its features agree with those of the picture.

tfstyle invert photo.jpg out.png --layer=relu3_1
"""

from __future__ import annotations

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import argument, define, required, values_of
from tfstyle.cli.outputs import RUN_OUTPUTS
from tfstyle.cli.run import carry_out
from tfstyle.errors import UsageError
from tfstyle.options import INVERT
from tfstyle.options.fields import STYLE, Layers
from tfstyle.stylizer import Stylizer

POSITIONAL = ("content", "output")


def define_flags(values: flags.FlagValues) -> None:
    """Content, layer, outputs and every option that is not about style."""
    content = argument("content", "Content picture.")
    define(values, [content, arguments.PRESET, arguments.FROM_IMAGE, *RUN_OUTPUTS])
    layer = argument("layer", "Short for --content_layers.", STYLE, hint=Layers)
    define(values, [*INVERT.fields, layer])


def run(values: flags.FlagValues) -> int:
    """Inverts the features of the content picture."""
    if values.layer is not None:
        if values["content_layers"].present:
            raise UsageError("--layer and --content_layers: give one of them")
        values["content_layers"].value = values.layer
    stylizer = Stylizer.for_recipe(INVERT, values_of(values, INVERT.fields))
    content, _ = required(values, "content", "output")
    return carry_out("invert", values, stylizer, lambda: stylizer.read(content, None))
