"""A network stylizes a picture in one pass: in any style, or in a trained one.

tfstyle apply photo.jpg out.png --style=painting.jpg

tfstyle apply photo.jpg out.png --style_name=starry_night

tfstyle apply folder results --style_name=waves:0.5,the_scream:0.5
"""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Literal

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import OUTPUT, argument, define, required
from tfstyle.cli.outputs import (
    check_folder_name,
    check_names_differ,
    check_originals,
    check_output,
    origin,
    pictures_read,
    result_folder,
)
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.errors import ImageError, TfstyleError, UsageError
from tfstyle.files import make_folder
from tfstyle.images import SAVE_FORMATS, save_image
from tfstyle.images.folder import picture_files, saved_as
from tfstyle.images.masks import LABELS
from tfstyle.monitoring.progress_bar import ProgressBar, print_message
from tfstyle.networks.blends import MOST_SCALE
from tfstyle.options import APPLY_COLORS, fields_of
from tfstyle.options.fields import COLOR
from tfstyle.options.fields import STYLE as STYLE_GROUP
from tfstyle.options.options import MemoryOptions

POSITIONAL = ("content", "output")

Jobs = list[tuple[pathlib.Path, pathlib.Path]]


def define_flags(values: flags.FlagValues) -> None:
    """Pictures, style, network and size."""
    define(
        values,
        [
            argument(
                "content", "A picture, several with commas between them, or a folder."
            ),
            arguments.STYLE,
            arguments.STYLE_NAME,
            arguments.STRENGTH,
            argument(
                "style_scale",
                "With --style: scale of the strokes; 2 makes them coarser. Several "
                "numbers for several styles.",
                STYLE_GROUP,
                hint=Sequence[float],
                default=(1.0,),
                above=0,
                at_most=MOST_SCALE,
            ),
            argument(
                "content_mask",
                "With several styles: a picture that divides the content picture into "
                f"regions, from white to black or in the colours {', '.join(LABELS)}. "
                "In that order, the first region takes the first style, and so on.",
            ),
            arguments.PROTECT,
            arguments.FROM_IMAGE,
            arguments.MODEL,
            argument(
                "output",
                "Picture to write. For several pictures or a folder: a folder, where "
                "each result is named like its picture. It refuses results of other "
                "settings.",
                OUTPUT,
            ),
            argument(
                "color",
                "Whose colours the result has; 'content' stylizes the luminance only.",
                COLOR,
                hint=Literal[APPLY_COLORS],
                default="style",
            ),
            arguments.size("the picture's own"),
            *fields_of(MemoryOptions),
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Stylizes every picture; those that cannot be read are skipped with a message."""
    model, how = arguments.one_pass(values)
    jobs = find_jobs(values)
    results = [str(target) for _, target in jobs]
    kept = None
    if results != [str(pathlib.Path(values.output))]:
        kept = result_folder("apply", values, results)
    import_tensorflow()
    from tfstyle.networks.apply import stylized
    from tfstyle.networks.style_net import load_network

    failed = 0
    with quiet_libraries(), ProgressBar("picture", total=len(jobs), lines=True) as bar:
        paint = load_network(model).painter(**how, max_memory=values.max_memory)
        for finished, (source, target) in enumerate(jobs):
            if len(jobs) > 1:
                bar.move_to(finished)
            try:
                picture = stylized(
                    paint,
                    source,
                    size=values.size,
                    color=values.color,
                    protect=values.protect,
                )
            except (ImageError, UsageError) as error:
                if len(jobs) == 1:
                    raise
                print_message(f"tfstyle: skipped: {error}")
                failed += 1
                continue
            made = origin("apply", values, {"content": str(source)})
            if kept:
                kept.remember()
            save_image(picture, target, metadata=made.metadata())
    if failed:
        raise TfstyleError(f"{failed} of {len(jobs)} pictures could not be stylized")
    where = jobs[0][1] if len(jobs) == 1 else values.output
    count = f"{len(jobs)} picture{'s' * (len(jobs) > 1)}"
    style = "" if values.style else arguments.unnamed_style(values)
    print(f"{where}: {count}{style}")
    return 0


def find_jobs(values: flags.FlagValues) -> Jobs:
    """Every picture with the file for its result; makes the folders of these files.

    Raises:
      UsageError: If there is nothing to read or nowhere to write, if two results would
        have one name, or if one would overwrite a picture.
    """
    source, output = required(values, "content", "output")
    path, folder = pathlib.Path(source), pathlib.Path(output)
    if path.is_dir():
        pictures = [(file, file.relative_to(path)) for file in picture_files(path)]
    else:
        files = [pathlib.Path(file) for file in arguments.picture_paths(source)]
        if not files:
            raise UsageError(f"--content={source}: names no picture")
        if len(files) == 1:
            check_output("output", output, tuple(SAVE_FORMATS), pictures_read(values))
            return [(files[0], folder)]
        pictures = [(file, pathlib.Path(file.name)) for file in files]
    check_folder_name(output, f"{len(pictures)} pictures")
    jobs = [(file, folder / saved_as(str(name))) for file, name in pictures]
    results = [str(result) for _, result in jobs]
    read = [*pictures_read(values), *(str(file) for file, _ in pictures)]
    check_originals("output", results, read)
    check_names_differ("content", results, "be written as")
    for parent in sorted({result.parent for _, result in jobs}):
        make_folder(parent, "--output=")
    return jobs
