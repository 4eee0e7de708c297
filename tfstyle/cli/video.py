"""A film in a style, without flicker and with its sound.

tfstyle video --style_name=starry_night --input=film.mp4 --output=out.mp4

tfstyle video --style=painting.jpg --size=480 --input=film.mp4 --output=out.mp4

With --style_name, a trained network makes each frame in one pass; with --style, each is
optimised from the one before, with the flags of tfstyle stylize.

Ctrl-C keeps the frames so far, and the same command goes on.
"""

from __future__ import annotations

import hashlib
import pathlib
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

from absl import flags

from tfstyle.backend import check_backend
from tfstyle.cli import run as runs
from tfstyle.cli.flags import define_option_flags, options_from
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.networks.photos import picture_files
from tfstyle.stylizer.pictures import make_options
from tfstyle.stylizer.recipes import make_repeatable
from tfstyle.video.stylize import (
    FRAME_STEPS,
    TEMPORAL,
    TEMPORAL_WEIGHT,
    FrameProgress,
    check_video,
    follow_motion,
    stylize_video,
)

if TYPE_CHECKING:
    from tfstyle.video.stylize import Film, StylizeFrame

PICTURE_OPTIONS = ("size", "size_of", "allow_upscale", "init")
"""Options that a film's frames leave no choice of."""


def define_flags(values: flags.FlagValues) -> None:
    """Films, style, network, size and steadiness."""
    text = flags.DEFINE_string
    text("input", None, "A film, of whatever kind ffmpeg reads.", values)
    text("output", None, "Film to write: .mp4, .mov or .mkv.", values)
    runs.define_style_name_flag(values)
    runs.define_style_flag(values)
    runs.define_model_flag(values)
    define_option_flags(values)
    for name in PICTURE_OPTIONS:
        delattr(values, name)
    flags.DEFINE_integer(
        "size",
        None,
        "Longest side of the result in pixels. Default: as the film.",
        1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "temporal",
        TEMPORAL,
        "Of a trained style: how much of a frame comes from the one before, where the "
        "motion is known: 0 flickers as the network does, near 1 textures fade.",
        0.0,
        1.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "temporal_weight",
        TEMPORAL_WEIGHT,
        "With --style: weight of the difference to the frame before.",
        0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "frame_steps",
        FRAME_STEPS,
        "With --style: evaluations of the loss at each frame but the first, which has "
        "'steps'.",
        1,
        flag_values=values,
    )


def run(values: flags.FlagValues) -> int:
    """Stylizes the film, or goes on with it."""
    check_backend()
    source, output = runs.required(values, "input"), runs.required(values, "output")
    check_video(source, output)
    if values["style"].value and values["style_name"].value:
        raise UsageError("--style and --style_name: give one of them")
    options = make_options(_options(values))
    _check_styles(values)
    import_tensorflow()
    make_repeatable(options)  # else going on would show
    with quiet_libraries(), StopOnSignal() as signals, closing(FrameBar()) as bar:
        stylize_frame, settings = _stylizer(values)
        film = stylize_video(
            source,
            output,
            stylize_frame,
            size=values["size"].value,
            settings=settings,
            callbacks=[bar, lambda _: bool(signals.received)],
        )
    if film.stopped:
        print(
            f"tfstyle: stopped after {_frames(film)}, which {output}.frames keeps; the "
            "same command goes on",
            file=sys.stderr,
        )
        return 128 + signals.received
    height, width = film.size
    print(
        f"{output}: {_frames(film)}, {width}×{height}, flicker {film.flicker:.3f}, "
        f"{film.seconds:.1f} s"
    )
    return 0


def _frames(film: Film) -> str:
    return f"{film.frames} frame{'s' * (film.frames != 1)}"


def _stylizer(values: flags.FlagValues) -> tuple[StylizeFrame, dict[str, Any]]:
    """What stylizes frames, and what decides how they look, by the names of flags."""
    if values["style"].value:
        return _optimizer(values)
    from tfstyle.networks.style_net import load_network

    network = load_network(runs.required(values, "model"))
    digest = hashlib.sha256()
    for weights in network.get_weights():
        digest.update(weights.tobytes())
    temporal = values["temporal"].value or 0.0
    stylize_frame = follow_motion(
        network,
        values["style_name"].value,
        temporal=temporal,
        max_memory=values["max_memory"].value or 0.0,
    )
    return stylize_frame, {
        "style_name": values["style_name"].value or network.style_names[0],
        "model": digest.hexdigest(),
        "temporal": temporal,
    }


def _optimizer(values: flags.FlagValues) -> tuple[StylizeFrame, dict[str, Any]]:
    from tfstyle.video.frames import FrameOptimizer

    styles = runs.parse_styles(values["style"].value) or []
    own: dict[str, Any] = {
        name: values[name].value for name in ("temporal_weight", "frame_steps")
    }
    stylize_frame = FrameOptimizer(styles, **own, **_options(values))
    settings = {name: str(value) for name, value in _options(values).items()}
    return stylize_frame, {**settings, **own, "style": _digests(styles)}


def _check_styles(values: flags.FlagValues) -> None:
    """Refuses style pictures that cannot be read."""
    for picture, _ in runs.parse_styles(values["style"].value) or []:
        if not pathlib.Path(picture).is_dir():
            load_image(picture)


def _digests(styles: list[tuple[str, float]]) -> list[str]:
    """Digests and weights of style pictures, those of folders too."""
    found = []
    for picture, weight in styles:
        path = pathlib.Path(picture)
        for file in picture_files(path) if path.is_dir() else [path]:
            found.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}:{weight:g}")
    return found


def _options(values: flags.FlagValues) -> dict[str, Any]:
    options = options_from(values)
    options.pop("size", None)  # frames have it already
    return options


class FrameBar:
    """A bar on standard error with the frames and the time left.

    It keeps silent where standard error is no terminal.
    """

    def __init__(self) -> None:
        self._bar: Any = None

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()

    def __call__(self, progress: FrameProgress) -> None:
        """Moves the bar."""
        if self._bar is None:
            self._bar = self._started(progress)
        self._bar.update(progress.frame - self._bar.n)

    @staticmethod
    def _started(progress: FrameProgress) -> Any:
        import tqdm

        # Begun only now, the bar does not count the first frame, which traces the graph
        # and says nothing about the time left.
        return tqdm.tqdm(
            total=progress.frames,
            initial=progress.frame,
            unit="frame",
            dynamic_ncols=True,
            leave=False,
            disable=None,
        )
