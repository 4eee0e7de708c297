"""The content picture keeps its shapes and takes the style picture's strokes.

tfstyle stylize photo.jpg painting.jpg out.png

tfstyle stylize sample:cat sample:nocturne out.png

tfstyle stylize --content=a.jpg,b.jpg --style=painting.jpg --output=folder

tfstyle stylize --content=photo.jpg --style=a.jpg:0.7,b.jpg:0.3 --output=out.png

tfstyle stylize --content=photo.jpg --content_mask=sky.png --style=a.jpg,b.jpg
--output=out.png
"""

from __future__ import annotations

import pathlib

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import argument, define, required, values_of
from tfstyle.cli.outputs import (
    RUN_OUTPUTS,
    check_folder_name,
    check_names_differ,
)
from tfstyle.cli.run import carry_out
from tfstyle.files import make_folder
from tfstyle.options import STYLIZE
from tfstyle.stylizer import Stylizer

POSITIONAL = ("content", "style", "output")

CONTENT = argument(
    "content",
    "The picture that keeps its shapes. Several of one size, with commas between them, "
    "are optimised as one batch and written to the folder --output as .png; it refuses "
    "results of other settings. With "
    "--optimizer=adam, each comes out as if it were alone.",
)


def define_flags(values: flags.FlagValues) -> None:
    """Content, style, outputs and every option."""
    pictures = (CONTENT, arguments.STYLE, *arguments.MASKS)
    define(values, [*pictures, arguments.PRESET, arguments.FROM_IMAGE, *RUN_OUTPUTS])
    define(values, STYLIZE.fields)


def run(values: flags.FlagValues) -> int:
    """Stylizes the content picture or pictures."""
    stylizer = Stylizer(**values_of(values, STYLIZE.fields))
    options = stylizer.options
    needed = ["content"] * options.needs_content + ["style"] * options.needs_style
    output = required(values, *needed, "output")[-1]
    contents = arguments.picture_paths(values.content)
    several = len(contents) > 1
    return carry_out(
        "stylize",
        values,
        stylizer,
        lambda: stylizer.read(
            contents if several else values.content,
            arguments.parse_styles(values.style),
            **arguments.masks(values),
        ),
        outputs=output_files(output, contents) if several else None,
    )


def output_files(folder: str, contents: list[str]) -> list[str]:
    """Makes the folder for the pictures of a batch, and names their files.

    Raises:
      UsageError: If the folder's name is a picture's, or two results would have one
        name.
    """
    check_folder_name(folder, f"{len(contents)} content pictures")
    names = [f"{pathlib.Path(content).stem}.png" for content in contents]
    check_names_differ("content", names, "be written as")
    make_folder(folder, "--output=")
    return [str(pathlib.Path(folder) / name) for name in names]
