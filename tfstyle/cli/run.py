"""What the commands that optimise a picture share: flags, outputs, signals."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from absl import flags

from tfstyle.backbones import check_backend
from tfstyle.cli.quiet import import_tensorflow
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.images import check_writable, save_image
from tfstyle.options import CHOICES, Options
from tfstyle.recipes import Plan

if TYPE_CHECKING:
    from tfstyle.optimize import Callback, Progress
    from tfstyle.pyramid import Result

PLOT_EXTENSIONS = (".png", ".svg", ".pdf")


def define_output_flags(values: flags.FlagValues) -> None:
    """Flags for what a run leaves behind."""
    text = flags.DEFINE_string
    text("output", None, "Picture to write: .png, .jpg or .webp.", values)
    text("preset", None, "A published experiment, see tfstyle presets.", values)
    text("loss_plot", None, "Loss curves to draw: .png, .svg or .pdf.", values)
    text("report", None, "Report to write as JSON: flags, versions, losses.", values)
    text("log_dir", None, "Folder for TensorBoard.", values)
    text("snapshot_dir", None, "Folder for pictures of the run.", values)
    flags.DEFINE_integer(
        "snapshot_every", 50, "Steps between snapshots.", 1, flag_values=values
    )


def define_option_flags(
    values: flags.FlagValues, defaults: Mapping[str, Any] | None = None
) -> None:
    """A flag for each field of ``Options``, with its default and its help text.

    Args:
      values: Where to.
      defaults: Defaults of a recipe that differ.
    """
    for field in dataclasses.fields(Options):
        default = (defaults or {}).get(field.name, field.default)
        help_text = field.metadata["help"]
        if field.name in CHOICES:
            choices = list(CHOICES[field.name])
            flags.DEFINE_enum(
                field.name, default, choices, help_text, flag_values=values
            )
        elif field.name in PARSERS:
            shown = default if default is None else ",".join(f"{x:g}" for x in default)
            flags.DEFINE_string(field.name, shown, help_text, values)
        else:
            define = DEFINERS[type(default)]
            define(field.name, default, help_text, flag_values=values)


def options_from(values: flags.FlagValues) -> dict[str, Any]:
    """The fields of ``Options`` as flags say them."""
    options = {}
    for field in dataclasses.fields(Options):
        if field.name not in values:
            continue
        value = values[field.name].value
        if field.name in PARSERS and value is not None:
            value = PARSERS[field.name](field.name, value)
        options[field.name] = value
    return options


def parse_layers(name: str, text: str) -> dict[str, float] | list[str]:
    """``relu1_1:0.5,relu2_1:0.5`` as a mapping; names without weights as a list.

    Raises:
      UsageError: Some layers have a weight and some have none, or one is no number.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    weighted = [part for part in parts if ":" in part]
    if not weighted:
        return parts
    if len(weighted) != len(parts):
        raise UsageError(
            f"--{name}={text}: {len(parts)} layers but {len(weighted)} weights; give "
            "each layer a weight as name:weight, or none"
        )
    layers = {}
    for part in parts:
        layer, weight = part.rsplit(":", 1)
        layers[layer] = _numbers(name, weight, float)[0]
    return layers


def _numbers(name: str, text: str, kind: Callable[[str], Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(
            f"--{name}={text}: give numbers with commas between them"
        ) from None


PARSERS: dict[str, Callable[[str, str], Any]] = {
    "content_layers": parse_layers,
    "style_layers": parse_layers,
    "steps": lambda name, text: _numbers(name, text, int),
    "clamp": lambda name, text: _numbers(name, text, float),
}
DEFINERS: dict[type, Callable[..., Any]] = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def required(values: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given.

    Raises:
      UsageError: It was not given.
    """
    value = values[name].value
    if not value:
        raise UsageError(f"--{name} is missing; see --help")
    return value


def carry_out(values: flags.FlagValues, make_plan: Callable[[], Plan]) -> int:
    """Checks everything, runs a plan and writes what the flags ask for.

    Args:
      values: The flags of the command.
      make_plan: Reads and checks pictures and options.

    Returns:
      The exit code.

    Raises:
      TfstyleError: Something cannot be read, run or written.
    """
    check_backend()
    output = required(values, "output")
    check_writable(output)
    if values["loss_plot"].value:
        check_writable(values["loss_plot"].value, extensions=PLOT_EXTENSIONS)
    if values["report"].value:
        check_writable(values["report"].value, extensions=())
    plan = make_plan()
    import_tensorflow()
    from tfstyle.pyramid import BrokenRunError

    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(StopOnSignal())
        callbacks: list[Callback] = [*_callbacks(values, stack), signals]
        try:
            result = plan.run(callbacks)
        except BrokenRunError as error:
            save_image(error.result.image, output)
            kept = f"{output} has the last good picture"
            raise TfstyleError(f"{error} ({kept})") from None
    save_image(result.image, output, metadata={"Software": "tfstyle"})
    _write_reports(values, result, plan)
    if result.stopped:
        step = int(result.history["step"][-1])
        print(f"stopped at step {step}; {output} has the picture so far")
        return 128 + signals.received
    height, width = result.image.shape[1:3]
    print(f"{output}: {width}×{height}, {result.seconds:.1f} s")
    return 0


def _callbacks(
    values: flags.FlagValues, stack: contextlib.ExitStack
) -> Iterator[Callback]:
    from tfstyle.callbacks import ProgressBar, Snapshots, TensorBoard

    yield stack.enter_context(ProgressBar())
    if values["snapshot_dir"].value:
        every = values["snapshot_every"].value or 1
        yield Snapshots(values["snapshot_dir"].value, every)
    if values["log_dir"].value:
        yield TensorBoard(values["log_dir"].value)


def _write_reports(values: flags.FlagValues, result: Result, plan: Plan) -> None:
    from tfstyle.reports import save_loss_plot, save_report

    if values["loss_plot"].value:
        save_loss_plot(result, values["loss_plot"].value)
    if values["report"].value:
        save_report(result, values["report"].value, _facts(values, plan))


def _facts(values: flags.FlagValues, plan: Plan) -> dict[str, Any]:
    from tfstyle.backbones.slim19 import WEIGHTS
    from tfstyle.backbones.weights import sha256
    from tfstyle.cli.info import facts

    weights = pathlib.Path(os.fspath(plan.options.weights))
    if not weights.is_file() and plan.options.backbone == "slim19":
        weights = WEIGHTS
    return {
        "flags": {name: values[name].value for name in values},
        "versions": facts(),
        "weights_sha256": sha256(weights) if weights.is_file() else None,
    }


class StopOnSignal:
    """Ends a run after SIGINT or SIGTERM with the picture so far; a context manager.

    A second signal ends the program at once.

    Attributes:
      received: Number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __call__(self, progress: Progress) -> bool:
        """Tells the run to stop once a signal came."""
        return bool(self.received)

    def _receive(self, number: int, _: object) -> None:
        if self.received:
            sys.exit(128 + number)
        self.received = number
