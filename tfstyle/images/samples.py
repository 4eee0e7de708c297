"""The sample pictures that come with the package, and their names."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from tfstyle.errors import UsageError
from tfstyle.files import shown

SAMPLES = pathlib.Path(__file__).parents[1] / "data"
"""The folder of the sample pictures: ``content``, ``style`` and ``mask``."""

PREFIX = "sample:"
"""What stands before the name of a sample where a path may stand."""


def sample_files() -> dict[str, pathlib.Path]:
    """The file of each sample picture by its name, such as ``cat``."""
    photos, paintings, masks = (
        sorted((SAMPLES / kind).glob("*.*")) for kind in ("content", "style", "mask")
    )
    files = {file.stem: file for file in (*photos, *paintings)}
    return files | {f"{file.stem}_mask": file for file in masks}


def resolve_sample(source: Any) -> Any:
    """The file of a sample for ``sample:NAME``; anything else as it is.

    Raises:
      UsageError: If there is no such sample; the message lists all of them.
    """
    if not isinstance(source, str) or not source.startswith(PREFIX):
        return source
    files, name = sample_files(), source.removeprefix(PREFIX)
    if name not in files:
        known = ", ".join(files)
        raise UsageError(f"{shown(source)}: no such sample; there are {known}")
    return files[name]


def resolve_samples(text: str) -> str:
    """Puts the paths of samples into a text that names pictures.

    Args:
      text: Pictures with commas between them, each perhaps with ``:`` and a weight.

    Raises:
      UsageError: Same as in ``resolve_sample``.
    """
    pattern = rf"(?:(?<=,)|^)(\s*)({PREFIX}[^,:]*)"
    return re.sub(pattern, lambda m: f"{m[1]}{resolve_sample(m[2])}", text)
