"""Gives a film a style, without flicker, and keeps its sound.

tfstyle video film.mp4 out.mp4 --style_name=starry_night

tfstyle video film.mp4 out.mp4 --style=painting.jpg --size=480

tfstyle video film.mp4 out.mp4 --model=any --style=painting.jpg

With --style_name or --model=any, a network makes each frame in one pass; with --style
alone, each is optimised from the one before, with the flags of tfstyle stylize.

Ctrl-C keeps the frames so far, and the same command goes on.
"""

from __future__ import annotations

import pathlib
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required, values_of
from tfstyle.cli.outputs import check_output, content_of
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import StopOnSignal
from tfstyle.files import sha256
from tfstyle.images import load_image
from tfstyle.images.folder import picture_files
from tfstyle.monitoring.progress_bar import ProgressBar
from tfstyle.networks.blends import read_style_names
from tfstyle.options import FRAMES
from tfstyle.options.fields import OPTIMIZATION
from tfstyle.options.identity import digest
from tfstyle.options.text import to_text
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer.film import FRAME_STEPS, TEMPORAL_WEIGHT
from tfstyle.video.film_files import EXTENSIONS
from tfstyle.video.stylize import (
    TEMPORAL,
    check_video,
    follow_motion,
    stylize_video,
)

if TYPE_CHECKING:
    from tfstyle.video.stylize import FilmResult, StylizeFrame

POSITIONAL = ("content", "output")
TRAINED_OPTIONS = ("style_name", "model", "temporal", "strength")
"""What only networks have."""
FILM_OPTIONS = ("temporal_weight", "frame_steps")
"""What only the optimisation of a film has."""


def define_flags(values: flags.FlagValues) -> None:
    """Films, style, network, size and steadiness."""
    define(
        values,
        [
            argument("content", "A film in any format that ffmpeg reads."),
            argument("output", "Film to write: .mp4, .mov or .mkv.", OUTPUT),
            arguments.STYLE_NAME,
            arguments.STYLE,
            arguments.MODEL,
            arguments.STRENGTH,
            arguments.size("the film's own"),
            argument(
                "temporal",
                "With a network: how much of a frame comes from the one before, "
                "where the motion is known. 0 flickers as the network does; near 1, "
                "textures fade.",
                OPTIMIZATION,
                hint=float,
                default=TEMPORAL,
                at_least=0,
                at_most=1,
            ),
            argument(
                "temporal_weight",
                "With --style: weight of the difference to the frame before. More is "
                "steadier.",
                OPTIMIZATION,
                hint=float,
                default=TEMPORAL_WEIGHT,
                at_least=0,
            ),
            argument(
                "frame_steps",
                "With --style: steps at each size of each frame after the first, which "
                "has 'steps'.",
                OPTIMIZATION,
                hint=int,
                default=FRAME_STEPS,
                at_least=1,
            ),
            *FRAMES.fields,
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Stylizes the film, or goes on with a run that was interrupted."""
    content, output = required(values, "content", "output")
    check_output("output", output, EXTENSIONS, [content])
    check_video(content, output)
    optimized = {*FRAMES.names, *FILM_OPTIONS} - {"max_memory", "style_scale"}
    arguments.check_style_flags(values, TRAINED_OPTIONS, sorted(optimized))
    stylizer = Stylizer.for_recipe(FRAMES, values_of(values, FRAMES.fields))
    _check_styles(values)
    import_tensorflow()
    bar = ProgressBar("frame", lines=True)
    with quiet_libraries(), StopOnSignal() as signals, bar:
        stylize_frame, settings = _stylizer(values, stylizer)
        film = stylize_video(
            content,
            output,
            stylize_frame,
            size=values.size,
            settings=settings,
            callbacks=[bar, signals],
        )
    if film.stopped:
        print(
            f"tfstyle: stopped after {_frames(film)}, which {output}.frames keeps; the "
            "same command goes on",
            file=sys.stderr,
        )
        return 128 + signals.received
    height, width = film.size
    style = "" if values.style else arguments.unnamed_style(values)
    print(
        f"{output}: {_frames(film)}, {width}×{height}, flicker {film.flicker:.3f}, "
        f"{film.seconds:.1f} s{style}"
    )
    return 0


def _frames(film: FilmResult) -> str:
    return f"{film.frames} frame{'s' * (film.frames != 1)}"


def _stylizer(
    values: flags.FlagValues, stylizer: Stylizer
) -> tuple[StylizeFrame, dict[str, Any]]:
    """What stylizes frames, and the settings that decide how they look."""
    if arguments.optimizes(values):
        return _optimizer(values, stylizer)
    from tfstyle.networks.style_net import load_network

    model, how = arguments.one_pass(values)
    network = load_network(model)
    stylize_frame = follow_motion(
        network, **how, temporal=values.temporal, max_memory=values.max_memory
    )
    styles = how.pop("style") or read_style_names(model)[0]
    return stylize_frame, {
        **how,
        "style_name": styles if isinstance(styles, str) else _digests(styles),
        "model": digest(network.get_weights()),
        "temporal": values.temporal,
    }


def _optimizer(
    values: flags.FlagValues, stylizer: Stylizer
) -> tuple[StylizeFrame, dict[str, Any]]:
    styles = arguments.parse_styles(values.style) or []
    own: dict[str, Any] = {name: values[name].value for name in FILM_OPTIONS}
    texts = {name: to_text(getattr(stylizer.options, name)) for name in FRAMES.names}
    del texts["max_memory"]  # tiles give the same result
    texts["weights"] = content_of(texts["weights"])
    return stylizer.film(styles, **own), {**texts, **own, "style": _digests(styles)}


def _check_styles(values: flags.FlagValues) -> None:
    """Refuses style pictures that cannot be read."""
    for picture, _ in arguments.parse_styles(values.style) or []:
        if not pathlib.Path(picture).is_dir():
            load_image(picture)


def _digests(styles: list[tuple[str, float]]) -> list[str]:
    """Digests and weights of style pictures, including those in folders."""
    found = []
    for picture, weight in styles:
        path = pathlib.Path(picture)
        for file in picture_files(path) if path.is_dir() else [path]:
            found.append(f"{sha256(file)}:{weight:g}")
    return found
