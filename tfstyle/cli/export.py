"""A network, or the optimisation itself, for runtimes that know no tfstyle.

tfstyle export --style_name=starry_night --format=litert --output=starry_night.tflite

tfstyle export --what=optimizer --output=optimizer
"""

from __future__ import annotations

import pathlib

from absl import flags

from tfstyle.backend import check_backend
from tfstyle.cli import run as runs
from tfstyle.cli.flags import define_option_flags, options_from
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries, silent_stderr
from tfstyle.errors import UsageError
from tfstyle.options import EXPORT_FORMATS, EXPORT_PRECISIONS, LossOptions


def define_flags(values: flags.FlagValues) -> None:
    """What, from where, to where, and the loss of an optimiser."""
    text = flags.DEFINE_string
    flags.DEFINE_enum(
        "what",
        "network",
        ["network", "optimizer"],
        "A trained network, or the optimisation of a picture (a SavedModel).",
        flag_values=values,
    )
    runs.define_model_flag(values)
    flags.DEFINE_enum(
        "format",
        "savedmodel",
        list(EXPORT_FORMATS),
        "Of a network.",
        flag_values=values,
    )
    text(
        "output",
        None,
        "A folder for a SavedModel, which gets the next version in it; else a file.",
        values,
    )
    text(
        "style_name",
        None,
        "The style or blend (name:weight,...) that is built in. Default: the first.",
        values,
    )
    flags.DEFINE_enum(
        "quantize",
        "float32",
        list(EXPORT_PRECISIONS),
        "Precision of LiteRT's weights.",
        flag_values=values,
    )
    define_option_flags(values, kind=LossOptions)


def run(values: flags.FlagValues) -> int:
    """Writes one export, and says how it differs from the original."""
    check_backend()
    output, what = runs.required(values, "output"), values["what"].value
    format = runs.required(values, "format")
    wanted = EXPORT_FORMATS[format] if what == "network" else None
    check_output(pathlib.Path(output), wanted)
    options = options_from(values, LossOptions)
    runs.check_weights(values)
    import_tensorflow()
    from tfstyle.networks.export import export_network, export_optimizer
    from tfstyle.networks.style_net import load_network

    with quiet_libraries(), silent_stderr():
        if what == "optimizer":
            difference = export_optimizer(output, **options)
        else:
            difference = export_network(
                load_network(runs.required(values, "model")),
                output,
                format,
                style_name=values["style_name"].value,
                precision=runs.required(values, "quantize"),
            )
    print(f"{output}: largest difference from tfstyle's own {difference:.2g}")
    return 0


def check_output(output: pathlib.Path, extension: str | None) -> None:
    """Refuses a name that does not fit the format.

    Raises:
      UsageError: It does not; the message has one that does.
    """
    if extension and output.suffix != extension:
        raise UsageError(f"--output={output}: give a name that ends in {extension}")
    if extension and not output.parent.is_dir():
        raise UsageError(f"--output={output}: there is no folder {output.parent}")
    if extension is None and output.exists() and not output.is_dir():
        raise UsageError(f"--output={output}: is a file; give a folder")
