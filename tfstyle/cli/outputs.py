"""The files that a command writes, which are checked before any work begins."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from tfstyle import files
from tfstyle.cli.arguments import LOG_DIR, parse_styles, picture_paths
from tfstyle.cli.flags import OUTPUT, argument, recorded_texts
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.extras import import_extra
from tfstyle.images import SAVE_FORMATS, check_writable, save_image
from tfstyle.images.folder import picture_files
from tfstyle.networks.blends import files_of_network
from tfstyle.options.identity import SETTINGS, check_results, settings_text
from tfstyle.options.provenance import FILES, PICTURES, Origin, origin_of
from tfstyle.stylizer.pictures import weighted_sources
from tfstyle.stylizer.stylizer import SECONDS_BETWEEN_CHECKPOINTS

SNAPSHOTS = "step_*.png"
PLOT_EXTENSIONS = (".png", ".svg", ".pdf")

RUN_OUTPUTS = (
    argument("output", "Picture to write: .png, .jpg or .webp.", OUTPUT),
    argument("loss_plot", "Loss curves to draw: .png, .svg or .pdf.", OUTPUT),
    argument(
        "report", "JSON to write: flags, versions, the loss of every step.", OUTPUT
    ),
    LOG_DIR,
    argument(
        "checkpoint",
        "Folder that keeps the state of the run. After Ctrl-C or a power loss, the "
        "same command goes on from there and ends with the same picture.",
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
    argument("snapshot_dir", "Folder for pictures of the run as it goes on.", OUTPUT),
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
    """Refuses files that cannot be written, and makes the folders.

    Raises:
      UsageError: If a file cannot be written, or is also read or written by another
        flag, or if the weights do not exist.
    """
    read = pictures_read(values)
    written = [
        *(("output", output, tuple(SAVE_FORMATS)) for output in outputs),
        ("loss_plot", values.loss_plot, PLOT_EXTENSIONS),
        ("report", values.report, ()),
        ("animate", values.animate, ()),  # `RunFilm` knows which extensions it may have
    ]
    paths: list[str] = []
    for name, path, extensions in written:
        if path:
            check_output(name, path, extensions, [*read, *paths])
            paths.append(path)
    if folder := values.snapshot_dir:
        inside = [p for p in read if pathlib.Path(p).match(SNAPSHOTS)]
        taken = [str(pathlib.Path(folder) / pathlib.Path(p).name) for p in inside]
        check_originals("snapshot_dir", taken, inside)
    if values.log_dir:
        import_extra("tensorboard", extra="tensorboard")
    for name in ("log_dir", "snapshot_dir", "checkpoint"):
        if folder := values[name].value:
            files.make_folder(folder, f"--{name}=")
    check_weights(values)


def pictures_read(values: flags.FlagValues) -> list[str]:
    """The paths of all pictures that the flags name, also those in style folders."""
    paths: list[str] = []
    for name in {*PICTURES, "init"}.intersection(values):
        value = values[name].value
        if name == "style":
            found = [path for path, _ in parse_styles(value) or []]
        elif isinstance(value, list):  # in a sweep, over several starts
            found = value
        else:
            found = picture_paths(value)
        for path in found:
            folder = name == "style" and pathlib.Path(path).is_dir()
            paths += map(str, picture_files(path)) if folder else [path]
    return paths


def check_output(
    name: str, path: str, extensions: Sequence[str], read: Iterable[str]
) -> None:
    """Refuses a file that cannot be written, or is one of those that are ``read``.

    Where ``extensions`` is empty, the file may have any.

    Raises:
      UsageError: If the file cannot be written, or is one of them.
    """
    try:
        check_writable(path, extensions=extensions)
    except UsageError as error:
        raise UsageError(f"--{name}={error}") from None
    check_originals(name, [path], read)


def check_originals(name: str, outputs: Iterable[str], read: Iterable[str]) -> None:
    """Refuses to overwrite inputs, or other outputs, of the same command.

    Raises:
      UsageError: If an output is one of them.
    """
    # A name with a null character is refused where it is read.
    originals = {os.path.realpath(path) for path in read if "\0" not in path}
    for output in outputs:
        if os.path.realpath(output) in originals:
            raise UsageError(
                f"--{name}: {output} is an input or another output of this command; "
                "choose another name, so that nothing is lost"
            )


def check_folder_name(output: str, pictures: str) -> None:
    """Refuses a picture's name for the folder of several.

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


def check_names_differ(flag: str, names: Sequence[str], fate: str) -> None:
    """Refuses pictures whose results would have one name.

    Args:
      flag: The flag that names the pictures.
      names: The names of their results.
      fate: What happens to a name, such as "be written as".

    Raises:
      UsageError: If a name stands twice.
    """
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise UsageError(
            f"--{flag}: two pictures would both {fate} {twice[0]}; rename one"
        )


def origin(
    command: str, values: flags.FlagValues, texts: Mapping[str, str] | None = None
) -> Origin:
    """How a picture is made, by the flags; ``texts`` are what differs for this picture.

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


@dataclasses.dataclass(frozen=True)
class ResultFolder:
    """A folder of results, all of which have the same settings.

    Attributes:
      path: The folder.
      settings: What decides the results.
    """

    path: pathlib.Path
    settings: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        folder: str,
        results: Iterable[str],
        command: str,
        values: flags.FlagValues,
        made: Origin,
        **more: Any,
    ) -> ResultFolder:
        """Refuses a folder that has other results, or files that are none.

        Args:
          folder: The folder, which may not exist yet.
          results: The files that are to be written in it.
          command: The command that writes them.
          values: Its flags.
          made: The pictures that all results are made from.
          **more: Further settings.

        Raises:
          UsageError: If the folder's results have other settings, or a file that is to
            be written is there in a folder that has no results.
        """
        path, texts = pathlib.Path(folder), recorded_texts(values)
        settings: dict[str, Any] = {"command": command, **texts, **more}
        settings.pop("max_memory", None)  # tiles give the same result
        for name in set(FILES).intersection(texts):
            settings[name] = content_of(texts[name])
        for flag, sources in made.pictures.items():
            settings[flag] = [[source.sha256, source.weight] for source in sources]
        try:
            saved = (path / SETTINGS).read_bytes()
        except OSError:
            if taken := [file for file in results if os.path.lexists(file)]:
                raise UsageError(
                    f"{taken[0]}: is there already, but not from tfstyle {command}; "
                    "give another folder, so that nothing is lost"
                ) from None
        else:
            way_out = "give another folder, or delete this one"
            check_results(path, saved, settings, way_out)
        return cls(path, settings)

    def remember(self) -> None:
        """Writes the settings, once there is a result.

        Raises:
          TfstyleError: If the file cannot be written.
        """
        with files.replaced(self.path / SETTINGS) as temporary:
            temporary.write_text(settings_text(self.settings), encoding="utf-8")


def result_folder(
    command: str, values: flags.FlagValues, results: Iterable[str]
) -> ResultFolder:
    """The folder of the results of several content pictures.

    Raises:
      UsageError: If ``ResultFolder.of`` refuses it.
    """
    content = [pathlib.Path(path).resolve() for path in picture_paths(values.content)]
    folders = {
        str(path if path.is_dir() else path.parent)
        for path in content
        if path.exists()  # others are skipped
    }
    made = origin(command, values, {"content": ""})
    pictures = ", ".join(sorted(folders))
    return ResultFolder.of(
        values.output, results, command, values, made, pictures=pictures
    )


def content_of(path: str) -> str:
    """The SHA-256 of what an option names; a text that names no file, as it is."""
    found = files_of_network(path) if pathlib.Path(path).exists() else []
    if not found or not all(file.is_file() for file in found):
        return path
    return "".join(map(files.sha256, found))


def save_or_rescue(picture: np.ndarray, file: str, metadata: Mapping[str, str]) -> None:
    """Saves a picture, in a temporary folder if its own file cannot be written.

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
