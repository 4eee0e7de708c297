"""What the commands that optimise a picture share: flags and outputs."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from tfstyle.backend import check_backend
from tfstyle.cli.flags import options_from, recorded_options
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.images import SAVE_FORMATS, check_writable, save_image
from tfstyle.images.masks import LABELS
from tfstyle.options.provenance import PICTURES, Origin, origin_of
from tfstyle.stylizer.checkpoint import SECONDS_BETWEEN
from tfstyle.stylizer.pictures import Plan, make_options, weighted_sources
from tfstyle.stylizer.recipes import make_repeatable, run_plan
from tfstyle.video.animation import Animation

if TYPE_CHECKING:
    from tfstyle.optimizers.loop import Callback
    from tfstyle.stylizer.run import BrokenRunError, Result

PLOT_EXTENSIONS = (".png", ".svg", ".pdf")


def define_output_flags(values: flags.FlagValues) -> None:
    """Flags for what a run leaves behind."""
    text = flags.DEFINE_string
    text("output", None, "Picture to write: .png, .jpg or .webp.", values)
    text(
        "preset",
        None,
        "A published experiment, see tfstyle presets; other flags override it.",
        values,
    )
    define_from_image_flag(values)
    text("loss_plot", None, "Loss curves to draw: .png, .svg or .pdf.", values)
    text("report", None, "JSON to write: flags, versions, every step's loss.", values)
    text("log_dir", None, "Folder for TensorBoard: every term, and pictures.", values)
    text(
        "checkpoint",
        None,
        "Folder that keeps the state of the run: the same command goes on after Ctrl-C "
        "or a power loss and ends with the same picture.",
        values,
    )
    flags.DEFINE_float(
        "checkpoint_every",
        SECONDS_BETWEEN,
        "Seconds between checkpoints.",
        0.0,
        flag_values=values,
    )
    text(
        "animate",
        None,
        "Film of the run: .gif, .webp, or .mp4 (pip install 'tfstyle[video]').",
        values,
    )
    text("snapshot_dir", None, "Folder for pictures of the run so far.", values)
    flags.DEFINE_integer(
        "snapshot_every", 50, "Steps between snapshots.", 1, flag_values=values
    )


def define_from_image_flag(values: flags.FlagValues) -> None:
    """The flag that makes a picture again."""
    text = (
        "A picture that tfstyle wrote: pictures and flags as it was made with; other "
        "flags override them."
    )
    flags.DEFINE_string("from_image", None, text, values)


def define_style_flag(values: flags.FlagValues) -> None:
    """The flag for one style or several."""
    text = (
        "Style picture; several with commas between them, with weights as "
        "picture:weight,... or none; a folder stands for all its pictures."
    )
    flags.DEFINE_string("style", None, text, values)


def define_style_name_flag(values: flags.FlagValues) -> None:
    """The flag for a style of a trained network."""
    text = (
        "A trained style, or a blend as name:weight,... Default: the first of the "
        "network."
    )
    flags.DEFINE_string("style_name", None, text, values)


def define_style_mask_flag(values: flags.FlagValues) -> None:
    """The flag for the regions of style pictures."""
    text = (
        "Picture of the style picture's regions, or one for each style with commas "
        "between them; without content_mask, what is white counts."
    )
    flags.DEFINE_string("style_mask", None, text, values)


def define_mask_flags(values: flags.FlagValues) -> None:
    """--content_mask, --style_mask and --protect."""
    flags.DEFINE_string(
        "content_mask",
        None,
        "Picture of the content picture's regions: white, grey and black, or several "
        f"of the colours {', '.join(LABELS)}. Each region takes the style at its place "
        "in that order, or what has its colour in style_mask. With one style and no "
        "style_mask, black is left as it is.",
        values,
    )
    define_style_mask_flag(values)
    flags.DEFINE_string(
        "protect", None, "Grey picture; what is white stays as it is.", values
    )


def masks(values: flags.FlagValues) -> dict[str, Any]:
    """What ``define_mask_flags`` has defined, as ``tfstyle.stylize`` takes it."""
    return {
        "content_mask": values["content_mask"].value,
        "style_mask": picture_paths(values["style_mask"].value) or None,
        "protect": values["protect"].value,
    }


def define_model_flag(values: flags.FlagValues) -> None:
    """The flag of the commands that use a trained network."""
    text = "'bundled', a .keras file, or the folder of a run of tfstyle train."
    flags.DEFINE_string("model", "bundled", text, values)


def parse_styles(text: str | None) -> list[tuple[str, float]] | None:
    """``a.jpg:0.7,b.jpg:0.3`` as pictures with weights; names alone weigh 1 each.

    Raises:
      UsageError: Some pictures have a weight and some have none.
    """
    pictures = picture_paths(text)
    parts = [(path, 1.0) if _exists(path) else _weighted(path) for path in pictures]
    given = sum(
        1 for path, (name, _) in zip(pictures, parts, strict=True) if path != name
    )
    if given not in (0, len(parts)):
        raise UsageError(
            f"--style={text}: {len(parts)} pictures but {given} weights; give each "
            "picture a weight as picture:weight, or none"
        )
    return parts or None


def _exists(path: str) -> bool:
    return pathlib.Path(path).exists()


def _weighted(path: str) -> tuple[str, float]:
    name, _, weight = path.rpartition(":")
    try:
        return (name, float(weight)) if name else (path, 1.0)
    except ValueError:
        return path, 1.0


def picture_paths(text: str | None) -> list[str]:
    """The pictures that a flag names; a single one may have commas in its name."""
    if not text or "," not in text or pathlib.Path(text).exists():
        return [text] if text else []
    return [part.strip() for part in text.split(",") if part.strip()]


def check_folder_name(output: str, pictures: str) -> None:
    """Refuses a picture's name for the folder of several.

    Raises:
      UsageError: ``--output`` is one; the message says how many pictures there are.
    """
    if pathlib.Path(output).suffix.lower() in SAVE_FORMATS:
        raise UsageError(
            f"--output={output}: {pictures} need a folder; give a name without "
            "extension"
        )


def required(values: flags.FlagValues, name: str) -> str:
    """The value of a flag that must be given.

    Raises:
      UsageError: It was not given.
    """
    value = values[name].value
    if not value:
        raise UsageError(f"--{name} is missing; see --help")
    return value


def require_pictures(values: flags.FlagValues) -> None:
    """Refuses a run without a picture that a weight is about.

    Raises:
      UsageError: It is missing.
    """
    options = make_options(options_from(values))
    for name, needed in (
        ("content", options.needs_content),
        ("style", options.needs_style),
    ):
        if needed:
            required(values, name)


def carry_out(
    command: str,
    values: flags.FlagValues,
    make_plan: Callable[[], Plan],
    outputs: Sequence[str] | None = None,
) -> int:
    """Checks everything, runs a plan and writes what the flags ask for.

    Args:
      command: Its name.
      values: Its flags.
      make_plan: Reads and checks options and pictures.
      outputs: A file for each picture of the batch; None for ``--output``.

    Returns:
      The exit code.

    Raises:
      TfstyleError: Something cannot be read, run or written.
    """
    check_backend()
    output = required(values, "output")
    outputs = outputs or [output]
    check_files(values, outputs)
    film = Animation(values["animate"].value) if values["animate"].value else None
    plan = make_plan()
    metadata = origin(command, values).metadata()
    import_tensorflow()
    make_repeatable(plan.options)
    with quiet_libraries(), StopOnSignal() as signals:
        result, error = _run(values, plan, signals, film)
        if result.history["step"]:
            for picture, file in zip(result.image, outputs, strict=True):
                _save_or_rescue(picture, file, metadata)
            _write_reports(values, result, plan)
            if film:
                film.save()
    if error:
        kept = "has the last good picture" if result.history["step"] else "not written"
        raise TfstyleError(f"{error} ({output}: {kept})")
    if result.stopped:
        step = int(result.history["step"][-1])
        said = f"stopped at step {step}; {output} has the picture so far"
        if values["checkpoint"].value:
            said += "; the same command goes on"
        print(f"tfstyle: {said}", file=sys.stderr)
        return 128 + signals.received
    height, width = result.image.shape[1:3]
    print(f"{output}: {width}×{height}, {result.seconds:.1f} s")
    return 0


def _save_or_rescue(
    picture: np.ndarray, file: str, metadata: Mapping[str, str]
) -> None:
    """Saves a picture, elsewhere if need be: it may have taken a night."""
    try:
        save_image(picture, file, metadata=metadata)
    except TfstyleError as error:
        rescued = pathlib.Path(tempfile.mkdtemp(prefix="tfstyle-")) / "rescued.png"
        try:
            save_image(picture, rescued, metadata=metadata)
        except TfstyleError:
            raise error from None
        raise ImageError(f"{error}; meanwhile the picture is {rescued}") from error


def check_files(values: flags.FlagValues, outputs: Sequence[str]) -> None:
    """Refuses files that cannot be read or written, and makes the folders.

    Raises:
      UsageError: There is one; the message says why.
    """
    for output in outputs:
        check_writable(output)
    if plot := values["loss_plot"].value:
        check_writable(plot, extensions=PLOT_EXTENSIONS)
    if report := values["report"].value:
        check_writable(report, extensions=())
    for name in ("log_dir", "snapshot_dir", "checkpoint"):
        if folder := values[name].value:
            make_folder(name, pathlib.Path(folder))
    check_weights(values)


def check_weights(values: flags.FlagValues) -> None:
    """Refuses weights that do not exist.

    Raises:
      UsageError: They do not.
    """
    weights = required(values, "weights")
    if weights != "imagenet" and not pathlib.Path(weights).is_file():
        raise UsageError(
            f"--weights={weights}: no such file; check the path, or give 'imagenet' "
            "for the published weights"
        )


def make_folder(name: str, folder: pathlib.Path) -> None:
    """Makes the folder that a flag names.

    Raises:
      UsageError: It cannot be made, or not written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--{name}={folder}: the folder cannot be made ({error.strerror}); "
            "choose another"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            f"--{name}={folder}: you may not write to this folder; choose another or "
            "change its permissions"
        )


def origin(
    command: str, values: flags.FlagValues, texts: Mapping[str, str] | None = None
) -> Origin:
    """What the flags say of how a picture is made.

    Args:
      command: Its name.
      values: Its flags.
      texts: Of those that are another for this picture.
    """
    pictures: dict[str, list[tuple[Any, float | None]]] = {}
    for flag in sorted(set(PICTURES).intersection(values)):
        text = (texts or {}).get(flag, values[flag].value)
        if flag == "style":
            weighted = weighted_sources(parse_styles(text))
            alone = len(weighted) == 1
            pictures[flag] = [(path, None if alone else w) for path, w in weighted]
        else:
            pictures[flag] = [(path, None) for path in picture_paths(text)]
    return origin_of(command, recorded_options(values), pictures)


def _run(
    values: flags.FlagValues,
    plan: Plan,
    signals: StopOnSignal,
    film: Animation | None,
) -> tuple[Result, BrokenRunError | None]:
    from tfstyle.monitoring.callbacks import (
        ProgressBar,
        Snapshots,
        TensorBoard,
        outliving,
    )
    from tfstyle.stylizer.run import BrokenRunError

    with contextlib.ExitStack() as stack:
        callbacks: list[Callback] = [stack.enter_context(ProgressBar()), signals]
        callbacks += [film] if film else []
        if folder := values["snapshot_dir"].value:
            snapshots = Snapshots(folder, values["snapshot_every"].value or 1)
            callbacks.append(outliving(snapshots, "snapshots"))
        if folder := values["log_dir"].value:
            callbacks.append(outliving(TensorBoard(folder), "TensorBoard"))
        try:
            return run_plan(
                plan,
                callbacks,
                values["checkpoint"].value,
                values["checkpoint_every"].value or 0.0,
            ), None
        except BrokenRunError as error:
            return error.result, error


def _write_reports(values: flags.FlagValues, result: Result, plan: Plan) -> None:
    from tfstyle.monitoring.reports import save_loss_plot, save_report

    if plot := values["loss_plot"].value:
        save_loss_plot(result.history, plot)
    if report := values["report"].value:
        save_report(result, report, _facts(values, plan))


def _facts(values: flags.FlagValues, plan: Plan) -> dict[str, Any]:
    from tfstyle.backbones.weights import sha256
    from tfstyle.cli.info import device, versions, weights_file

    weights: Any = plan.options.weights
    file = weights_file(plan.options.backbone) if weights == "imagenet" else weights
    return {
        "flags": {name: values[name].value for name in values},
        "versions": versions(),
        "weights_sha256": file and sha256(file),
        "device": device(),
    }
