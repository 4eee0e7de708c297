"""Published experiments as flagfiles: ``tfstyle stylize --preset=NAME``."""

from __future__ import annotations

import difflib
import pathlib

from tfstyle.errors import UsageError

FOLDER = pathlib.Path(__file__).parent


def preset_names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in FOLDER.glob("*.cfg"))


def preset_path(name: str) -> pathlib.Path:
    """The flagfile of a preset.

    Raises:
      UsageError: There is no such preset; the message offers the nearest ones.
    """
    names = preset_names()
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise UsageError(
            f"there is no preset {name!r}; did you mean {' or '.join(nearest)}?"
        )
    return FOLDER / f"{name}.cfg"


def preset_source(name: str) -> str:
    """What a preset reproduces: the comment at the top of its flagfile."""
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)
