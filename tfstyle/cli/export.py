"""Writes a network, or the optimisation itself, for programs that do not use tfstyle.

tfstyle export --style_name=starry_night --format=litert --output=starry_night.tflite

tfstyle export --model=any --output=any

tfstyle export --what=optimizer --output=optimizer
"""

from __future__ import annotations

import pathlib
from typing import Literal

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required, values_of
from tfstyle.cli.outputs import check_originals, check_weights
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries, silent_stderr
from tfstyle.errors import UsageError
from tfstyle.options import (
    EXPORT_FORMATS,
    EXPORT_PARTS,
    EXPORT_PRECISIONS,
    LossOptions,
    fields_of,
)


def define_flags(values: flags.FlagValues) -> None:
    """What, from where, to where, and the loss of an optimiser."""
    define(
        values,
        [
            argument(
                "what",
                "A trained network, or the optimisation of a picture (a SavedModel).",
                hint=Literal["network", "optimizer"],
                default="network",
            ),
            arguments.MODEL,
            argument(
                "style_name",
                "The style or blend (name:weight,...) to build in. Default: the "
                "network's first.",
            ),
            argument(
                "output",
                "Folder for a SavedModel, in which each export is a new version; for "
                "other formats, a file.",
                OUTPUT,
            ),
            argument(
                "format",
                "Format of a network.",
                OUTPUT,
                hint=Literal[tuple(EXPORT_FORMATS)],
                default="savedmodel",
            ),
            argument(
                "part",
                "Of the network for any style, as litert or onnx: 'encode' turns a "
                "style into its code, 'stylize' takes a picture and a code.",
                OUTPUT,
                hint=Literal[EXPORT_PARTS],
                default="whole",
            ),
            argument(
                "quantize",
                "Precision of LiteRT's weights.",
                OUTPUT,
                hint=Literal[EXPORT_PRECISIONS],
                default="float32",
            ),
            *fields_of(LossOptions),
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Writes one export, and prints how it differs from the original."""
    output, what = required(values, "output")[0], values.what
    format = values.format
    _check_effect(values)
    wanted = EXPORT_FORMATS[format] if what == "network" else None
    check_name(pathlib.Path(output), wanted)
    check_originals("output", [output], [values.model])
    options = values_of(values, fields_of(LossOptions))
    check_weights(values)
    import_tensorflow()
    from tfstyle.networks.export import export_network
    from tfstyle.networks.export_optimizer import export_optimizer
    from tfstyle.networks.style_net import load_network

    with quiet_libraries(), silent_stderr():
        if what == "optimizer":
            difference = export_optimizer(output, **options)
        else:
            difference = export_network(
                load_network(values.model),
                output,
                format,
                style_name=values.style_name,
                part=values.part,
                quantize=values.quantize,
            )
    usual = "stylize" if what == "optimizer" else "apply"
    one_style = what == "network" and format != "keras"
    style = arguments.unnamed_style(values) if one_style else ""
    told = f"{255 * difference:.2g} levels of 255 from tfstyle {usual}"
    print(f"{output}: at most {told}{style}")
    return 0


def _check_effect(values: flags.FlagValues) -> None:
    """Refuses flags that would change nothing.

    Raises:
      UsageError: If there is one; the message names it.
    """
    what, format = values.what, values.format
    networks = ["model", "style_name", "format", "part", "quantize"]
    optimizers = [field.name for field in fields_of(LossOptions)]
    for name in networks if what == "optimizer" else optimizers:
        if values[name].present:
            raise UsageError(
                f"--{name}: has no effect with --what={what}; leave it out"
            )
    if values.quantize != "float32" and format != "litert":
        raise UsageError(
            f"--quantize={values.quantize}: {format} is written in float32 only; leave "
            "it out, or give --format=litert"
        )


def check_name(output: pathlib.Path, extension: str | None) -> None:
    """Refuses a name that does not fit the format.

    Args:
      output: The name.
      extension: The one that it must have; None for a folder.

    Raises:
      UsageError: If the name has another extension, if its folder does not exist, or
        if a file has a folder's name.
    """
    if extension and output.suffix != extension:
        raise UsageError(f"--output={output}: give a name that ends in {extension}")
    if extension and not output.parent.is_dir():
        raise UsageError(f"--output={output}: there is no folder {output.parent}")
    if extension is None and output.exists() and not output.is_dir():
        raise UsageError(f"--output={output}: is a file; give a folder")
