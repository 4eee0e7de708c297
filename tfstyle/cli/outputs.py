"""Files that a command writes: checked before any work, and never lost."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfstyle.cli.arguments import parse_styles, picture_paths
from tfstyle.cli.flags import OUTPUT, argument, recorded_texts
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.extras import import_extra
from tfstyle.images import SAVE_FORMATS, check_writable, save_image
from tfstyle.options.provenance import PICTURES, Origin, origin_of
from tfstyle.stylizer.pictures import weighted_sources
from tfstyle.stylizer.stylizer import SECONDS_BETWEEN_CHECKPOINTS

PLOT_EXTENSIONS = (".png", ".svg", ".pdf")

RUN_OUTPUTS = (
    argument("output", "Picture to write: .png, .jpg or .webp.", OUTPUT),
    argument("loss_plot", "Loss curves to draw: .png, .svg or .pdf.", OUTPUT),
    argument(
        "report", "JSON to write: flags, versions, the loss of every step.", OUTPUT
    ),
    argument("log_dir", "Folder for TensorBoard: every term, and pictures.", OUTPUT),
    argument(
        "checkpoint",
        "Folder that keeps the state of the run: the same command goes on after Ctrl-C "
        "or a power loss and ends with the same picture.",
        OUTPUT,
    ),
    argument(
        "checkpoint_every",
        "Seconds between checkpoints.",
        OUTPUT,
        hint=float,
        default=SECONDS_BETWEEN_CHECKPOINTS,
        at_least=0,
    ),
    argument(
        "animate",
        "Film of the run: .gif, .webp, or .mp4 (pip install 'tfstyle[video]').",
        OUTPUT,
    ),
    argument("snapshot_dir", "Folder for pictures of the run so far.", OUTPUT),
    argument(
        "snapshot_every",
        "Steps between snapshots.",
        OUTPUT,
        hint=int,
        default=50,
        at_least=1,
    ),
)


def check_files(values: flags.FlagValues, outputs: Sequence[str]) -> None:
    """Refuses files that cannot be read or written, and makes the folders.

    Args:
      values: The flags of a run.
      outputs: The pictures that it writes.

    Raises:
      UsageError: If a file cannot be read or written, or would be overwritten though
        it is read.
    """
    read = pictures_read(values)
    for output in outputs:
        check_writable(output)
        check_original(output, read)
    if plot := values.loss_plot:
        check_writable(plot, extensions=PLOT_EXTENSIONS)
    if report := values.report:
        check_writable(report, extensions=())
    if values.log_dir:
        import_extra("tensorboard", extra="tensorboard")
    for name in ("log_dir", "snapshot_dir", "checkpoint"):
        if folder := values[name].value:
            make_folder(name, pathlib.Path(folder))
    check_weights(values)


def pictures_read(values: flags.FlagValues) -> list[str]:
    """The paths of all pictures that the flags name."""
    paths: list[str] = []
    for name in set(PICTURES).intersection(values):
        if name == "style":
            paths += [path for path, _ in parse_styles(values[name].value) or []]
        else:
            paths += picture_paths(values[name].value)
    return paths


def check_original(output: str, read: Iterable[str]) -> None:
    """Refuses to overwrite a picture that is read.

    Args:
      output: The picture to write.
      read: The pictures that are read.

    Raises:
      UsageError: If the output is one of them.
    """
    real = os.path.realpath(output)
    # A name with a null character is refused where it is read.
    if any(os.path.realpath(path) == real for path in read if "\0" not in path):
        raise UsageError(
            f"--output={output}: is a picture that is read; give another name, so that "
            "the original is kept"
        )


def check_folder_name(output: str, pictures: str) -> None:
    """Refuses a picture's name for the folder of several.

    Args:
      output: The value of ``--output``.
      pictures: How many pictures there are, for the message.

    Raises:
      UsageError: If the name has a picture's extension.
    """
    if pathlib.Path(output).suffix.lower() in SAVE_FORMATS:
        raise UsageError(
            f"--output={output}: {pictures} need a folder; give a name without "
            "extension"
        )


def check_weights(values: flags.FlagValues) -> None:
    """Refuses weights that do not exist.

    Raises:
      UsageError: If the file does not exist.
    """
    weights = str(values.weights)
    if weights != "imagenet" and not pathlib.Path(weights).is_file():
        raise UsageError(
            f"--weights={weights}: no such file; check the path, or give 'imagenet' "
            "for the published weights"
        )


def make_folder(name: str, folder: pathlib.Path) -> None:
    """Makes the folder that a flag names.

    Args:
      name: The flag.
      folder: Its value.

    Raises:
      UsageError: If it cannot be made, or not written to.
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
    """How a picture is made, according to the flags.

    Args:
      command: The command.
      values: Its flags.
      texts: Texts of flags that are different for this picture.

    Raises:
      UsageError: If a picture can no longer be read.
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
    return origin_of(command, recorded_texts(values), pictures)


def save_or_rescue(picture: np.ndarray, file: str, metadata: Mapping[str, str]) -> None:
    """Saves a picture, elsewhere if need be: it may have taken a night.

    Args:
      picture: Float32 ``[H, W, 3]`` in [0, 1].
      file: Where to.
      metadata: See ``save_image``.

    Raises:
      TfstyleError: If the file cannot be written; the message says where the picture
        is instead.
    """
    try:
        save_image(picture, file, metadata=metadata)
    except TfstyleError as error:
        rescued = pathlib.Path(tempfile.mkdtemp(prefix="tfstyle-")) / "rescued.png"
        try:
            save_image(picture, rescued, metadata=metadata)
        except TfstyleError:
            raise error from None
        raise ImageError(f"{error}; meanwhile the picture is {rescued}") from error
