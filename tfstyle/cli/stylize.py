"""The content picture keeps its shapes and takes the style picture's strokes.

tfstyle stylize --content=photo.jpg --style=painting.jpg --output=out.png

tfstyle stylize --content=a.jpg,b.jpg --style=painting.jpg --output=folder

tfstyle stylize --content=photo.jpg --style=a.jpg:0.7,b.jpg:0.3 --output=out.png

tfstyle stylize --content=photo.jpg --content_mask=sky.png --style=a.jpg,b.jpg
--output=out.png
"""

from __future__ import annotations

import pathlib

from absl import flags

from tfstyle.cli import run as runs
from tfstyle.cli.flags import define_recipe_flags, options_from
from tfstyle.errors import UsageError
from tfstyle.stylizer.pictures import plan_stylize


def define_flags(values: flags.FlagValues) -> None:
    """Content, style, outputs and every option."""
    flags.DEFINE_string(
        "content",
        None,
        "Content picture; or several of one size with commas between them, which are "
        "optimised as one batch (each as if alone with --optimizer=adam) and written "
        "to the folder --output as .png.",
        values,
    )
    runs.define_style_flag(values)
    runs.define_mask_flags(values)
    runs.define_output_flags(values)
    define_recipe_flags(values, "stylize")


def run(values: flags.FlagValues) -> int:
    """Stylizes the content picture or pictures."""
    runs.require_pictures(values)
    contents = runs.picture_paths(values["content"].value)
    several = len(contents) > 1
    return runs.carry_out(
        "stylize",
        values,
        lambda: plan_stylize(
            contents if several else values["content"].value,
            runs.parse_styles(values["style"].value),
            **runs.masks(values),
            **options_from(values),
        ),
        outputs=output_files(runs.required(values, "output"), contents)
        if several
        else None,
    )


def output_files(folder: str, contents: list[str]) -> list[str]:
    """Where the pictures of a batch go; the folder is made.

    Raises:
      UsageError: The folder's name is a picture's, or two would have one name.
    """
    runs.check_folder_name(folder, f"{len(contents)} content pictures")
    names = [f"{pathlib.Path(content).stem}.png" for content in contents]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(
            f"--content: two pictures would both be written as {twice[0]}; rename one"
        )
    runs.make_folder("output", pathlib.Path(folder))
    return [str(pathlib.Path(folder) / name) for name in names]
