"""Published experiments as flagfiles: ``tfstyle stylize --preset=NAME``."""

from __future__ import annotations

import difflib
import pathlib

from tfstyle.errors import UsageError

FOLDER = pathlib.Path(__file__).parent


def preset_names(command: str = "") -> list[str]:
    """The names of all presets of a command."""
    return sorted(path.stem for path in _folder(command).glob("*.cfg"))


def preset_path(name: str, command: str = "") -> pathlib.Path:
    """The flagfile of a preset.

    Args:
      name: Of the preset.
      command: Which is to use it; those that optimise pictures share theirs.

    Returns:
      The file.

    Raises:
      UsageError: There is no such preset; the message offers the nearest ones.
    """
    names = preset_names(command)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names
        raise UsageError(
            f"there is no preset {name!r}; did you mean {' or '.join(nearest)}?"
        )
    return _folder(command) / f"{name}.cfg"


def preset_source(name: str, command: str = "") -> str:
    """What a preset reproduces: the comment at the top of its flagfile."""
    lines = preset_path(name, command).read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment)


def _folder(command: str) -> pathlib.Path:
    return FOLDER / "train" if command == "train" else FOLDER
