"""One network learns one or several styles, or any style, from a folder of photographs.

tfstyle train --photos=photos --style=a.jpg,b.jpg --output=run

tfstyle apply photo.jpg out.png --model=run --style_name=a

tfstyle train --preset=any-style --photos=photos --style_folder=paintings --output=run

A style of your own in two minutes, learned by the network of the bundled styles:

tfstyle train --preset=own-style --from=bundled --style=a.jpg --minutes=2 --output=run

The same command goes on with a run that was interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required, values_of
from tfstyle.cli.outputs import check_names_differ, check_weights
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import UsageError
from tfstyle.extras import import_extra
from tfstyle.files import make_folder
from tfstyle.images.folder import picture_files
from tfstyle.images.samples import SAMPLES
from tfstyle.monitoring.progress_bar import ProgressBar
from tfstyle.networks.blends import read_style_names, takes_any_style
from tfstyle.options import TrainingOptions, fields_of
from tfstyle.options.fields import NETWORK, TRAINING

if TYPE_CHECKING:
    from tfstyle.monitoring.best_effort import BestEffort

PRESETS = "training"


def define_flags(values: flags.FlagValues) -> None:
    """Photographs, styles, where to, devices and every option."""
    define(
        values,
        [
            argument(
                "photos",
                "Folder of photographs, with all folders in it. With --from, the "
                "samples by default.",
            ),
            argument(
                "style",
                "Style pictures with commas between them. Each style is named like its "
                "file, without the extension.",
            ),
            argument(
                "style_folder",
                "In place of style: a folder of paintings, with all folders in it. A "
                "network for any style learns from them.",
            ),
            argument(
                "from",
                "The network to begin with: 'bundled' or 'any', which come with "
                "tfstyle, or what an earlier training made. Default: random weights "
                "with --style, 'any' with --style_folder.",
                NETWORK,
            ),
            argument(
                "test_photo",
                "Photograph that shows the progress. Default: the first one of the "
                "folder, which is then not trained on.",
            ),
            argument("preset", "A published training, see tfstyle presets."),
            argument(
                "output",
                "Folder of the run: model.keras, checkpoints, samples, loss curve.",
                OUTPUT,
            ),
            arguments.LOG_DIR,
            argument(
                "minutes",
                "Stop after this many minutes. The same command goes on from there.",
                TRAINING,
                hint=float,
                above=0,
            ),
            argument(
                "strategy",
                "One device, all GPUs of this machine, or the machines in TF_CONFIG.",
                TRAINING,
                hint=Literal["one", "mirrored", "multiworker"],
                default="one",
            ),
            *fields_of(TrainingOptions),
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Trains a network, or goes on with a run that was interrupted."""
    photos, styles, output = _given(values)
    options = values_of(values, fields_of(TrainingOptions))
    TrainingOptions(**options)  # refuses what cannot be used
    check_weights(values)
    for folder in ("output", "log_dir"):
        if path := values[folder].value:
            make_folder(path, f"--{folder}=")
    if values.log_dir:
        import_extra("tensorboard", extra="tensorboard")
    strategy = make_strategy(values.strategy)
    from tfstyle.monitoring.reports import save_loss_plot
    from tfstyle.networks.training import is_chief, train

    with quiet_libraries(), StopOnSignal() as signals, contextlib.ExitStack() as stack:
        callbacks: list[Any] = [stack.enter_context(ProgressBar(lines=True)), signals]
        if minutes := values.minutes:
            callbacks.append(lambda progress: progress.seconds >= 60 * minutes)
        if is_chief(strategy):
            callbacks += [
                stack.enter_context(view) for view in views(values, photos, styles)
            ]
        result = train(
            photos,
            styles,
            output,
            start=values["from"].value,
            test_photo=values.test_photo,
            strategy=strategy,
            callbacks=callbacks,
            **options,
        )
    if result.unreadable:
        print(f"skipped {len(result.unreadable)} unreadable files", file=sys.stderr)
    if not is_chief(strategy):
        return 128 + signals.received if signals.received else 0
    save_loss_plot(result.history, pathlib.Path(output) / "loss.png")
    step = int(result.history["step"][-1])
    if result.stopped:
        said = f"stopped at step {step}; the same command goes on from there"
        print(f"tfstyle: {said}", file=sys.stderr)
        return 128 + signals.received if signals.received else 0
    print(f"{output}: {step} steps, loss {result.history['total'][-1]:.4g}")
    return 0


def _given(values: flags.FlagValues) -> tuple[str, Any, str]:
    """Photographs, styles as ``train`` takes them, and where to.

    Raises:
      UsageError: If a flag is missing, or would have no effect.
    """
    if values.style and values.style_folder:
        raise UsageError("--style and --style_folder: give one of them")
    first = values["from"].value
    needed = [] if first else ["photos"]
    needed += [] if values.style_folder else ["style"]
    required(values, *needed, "output")
    photos = values.photos or str(SAMPLES / "content")
    if values.style_folder:
        if first and read_style_names(first):
            raise UsageError(
                f"--from={first}: has styles of its own; with --style_folder, give "
                "'any', or a network that was trained with --style_folder"
            )
        return photos, values.style_folder, values.output
    files = style_files(values.style)
    any_style = first and takes_any_style(first)
    return photos, list(files.values()) if any_style else files, values.output


def views(values: flags.FlagValues, photos: str, styles: Any) -> list[BestEffort]:
    """Callbacks that show the training in files; it goes on where they cannot.

    Raises:
      UsageError: If no photograph can be read.
    """
    from tfstyle.monitoring.best_effort import BestEffort
    from tfstyle.monitoring.snapshots import SampleFigure
    from tfstyle.monitoring.tensorboard import TensorBoard
    from tfstyle.networks.training_data import sample_photo
    from tfstyle.networks.training_subjects import shown_paintings

    photo, _ = sample_photo(picture_files(photos), values.test_photo)
    names = (
        list(styles)
        if isinstance(styles, Mapping)
        else [file.stem for file in shown_paintings(styles)]
    )
    figure = SampleFigure(values.output, photo, names, values.sample_steps)
    found = [BestEffort(figure, "progress.png")]
    if values.log_dir:
        board = TensorBoard(values.log_dir, image_every=500)
        found.append(BestEffort(board, "TensorBoard"))
    return found


def style_files(text: str) -> dict[str, str]:
    """Style pictures by name.

    Raises:
      UsageError: If two pictures would have one name.
    """
    files = arguments.picture_paths(text)
    names = [pathlib.Path(file).stem for file in files]
    check_names_differ("style", names, "be called")
    return dict(zip(names, files, strict=True))


def make_strategy(name: str) -> Any:
    """The strategy of a flag, or None for one device.

    Raises:
      UsageError: If TF_CONFIG does not name the machines.
    """
    tf = import_tensorflow(find_devices=name != "multiworker")
    if name == "one":
        return None
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    config: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        config = json.loads(os.environ.get("TF_CONFIG", "{}"))
    if not isinstance(config, dict) or not {"cluster", "task"} <= set(config):
        raise UsageError(
            "--strategy=multiworker: the environment variable TF_CONFIG must be JSON "
            "with 'cluster' and 'task', on each machine; see "
            "tensorflow.org/guide/distributed_training"
        )
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (ValueError, KeyError) as error:
        raise UsageError(f"TF_CONFIG: {error}") from error
