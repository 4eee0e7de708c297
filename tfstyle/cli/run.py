"""Carries out the commands that optimise a picture."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags

from tfstyle.cli.flags import required
from tfstyle.cli.outputs import (
    check_files,
    origin,
    result_folder,
    save_or_rescue,
)
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import NonFiniteLossError, TfstyleError
from tfstyle.monitoring.progress_bar import ProgressBar
from tfstyle.monitoring.snapshots import Snapshots
from tfstyle.stylizer import Stylizer
from tfstyle.video.run_film import RunFilm

if TYPE_CHECKING:
    from tfstyle.optimizers.progress import Callback
    from tfstyle.stylizer.pictures import Pictures
    from tfstyle.stylizer.result import Result


def carry_out(
    command: str,
    values: flags.FlagValues,
    stylizer: Stylizer,
    read: Callable[[], Pictures],
    outputs: Sequence[str] | None = None,
) -> int:
    """Checks everything, optimises pictures and writes what the flags ask for.

    Args:
      command: The command.
      values: Its flags.
      stylizer: The options.
      read: Reads and checks the pictures.
      outputs: A file for each picture of the batch; None for ``--output``.

    Returns:
      The exit code.

    Raises:
      TfstyleError: If something cannot be read, run or written.
    """
    output = required(values, "output")[0]
    check_files(values, outputs or [output])
    film = RunFilm(values.animate) if values.animate else None
    pictures = read()
    # Before the run: pictures may change or go while it lasts.
    made = origin(command, values)
    folder = result_folder(command, values, outputs) if outputs else None
    import_tensorflow()
    with quiet_libraries(), StopOnSignal() as signals:
        result, error = _run(values, stylizer, pictures, signals, film)
        if result.stopped:
            made = made.stopped(result.step)
        if result.step:
            if folder:
                folder.remember()
            unsaved = []
            for picture, file in zip(result.images, outputs or [output], strict=True):
                try:
                    save_or_rescue(picture, file, made.metadata())
                except TfstyleError as problem:  # the others are saved all the same
                    unsaved.append(problem)
            _write_reports(values, result, stylizer)
            if film:
                film.save()
            if unsaved:
                raise unsaved[0]
    if error:
        kept = "has the last good picture" if result.step else "not written"
        raise TfstyleError(f"{error} ({output}: {kept})")
    if result.stopped:
        said = f"stopped at step {result.step}; {output} has the picture so far"
        if values.checkpoint:
            said += "; the same command goes on"
        print(f"tfstyle: {said}", file=sys.stderr)
        return 128 + signals.received
    height, width = result.image.shape[:2]
    print(f"{output}: {width}×{height}, {result.seconds:.1f} s")
    return 0


def _run(
    values: flags.FlagValues,
    stylizer: Stylizer,
    pictures: Pictures,
    signals: StopOnSignal,
    film: RunFilm | None,
) -> tuple[Result, NonFiniteLossError | None]:
    from tfstyle.monitoring.best_effort import BestEffort
    from tfstyle.monitoring.tensorboard import TensorBoard

    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(lines=True))
        callbacks: list[Callback] = [bar, signals]
        callbacks += [film] if film else []
        if folder := values.snapshot_dir:
            snapshots = BestEffort(
                Snapshots(folder, values.snapshot_every), "snapshots"
            )
            callbacks.append(stack.enter_context(snapshots))
        if folder := values.log_dir:
            board = BestEffort(TensorBoard(folder), "TensorBoard")
            callbacks.append(stack.enter_context(board))
        try:
            return stylizer.run(
                pictures,
                callbacks,
                values.checkpoint,
                values.checkpoint_every,
            ), None
        except NonFiniteLossError as error:
            if error.result is None:
                raise
            return error.result, error


def _write_reports(
    values: flags.FlagValues, result: Result, stylizer: Stylizer
) -> None:
    from tfstyle.monitoring.reports import save_loss_plot, save_report

    if plot := values.loss_plot:
        save_loss_plot(result.history, plot)
    if report := values.report:
        save_report(result, report, _facts(values, stylizer))


def _facts(values: flags.FlagValues, stylizer: Stylizer) -> dict[str, Any]:
    from tfstyle.cli.info import device, versions, weights_file
    from tfstyle.files import sha256

    weights: Any = stylizer.options.weights
    if weights == "imagenet":
        weights = weights_file(stylizer.options.backbone)
    return {
        "flags": {name: values[name].value for name in values},
        "versions": versions(),
        "weights_sha256": weights and sha256(weights),
        "device": device(),
    }
