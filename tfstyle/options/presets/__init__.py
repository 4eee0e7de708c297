"""Published experiments as options: ``Stylizer.from_preset(name)``, ``--preset=NAME``.

A preset is a text file with one ``name=value`` a line, after a comment of two
paragraphs: the experiment that it reproduces, and which part of it.
"""

from __future__ import annotations

import pathlib
from typing import Any, Literal

from tfstyle.errors import UsageError, did_you_mean
from tfstyle.options.fields import fields_of
from tfstyle.options.options import Options, TrainingOptions
from tfstyle.options.text import from_text

Kind = Literal["run", "training"]

_FOLDERS: dict[Kind, pathlib.Path] = {
    "run": pathlib.Path(__file__).parent,
    "training": pathlib.Path(__file__).parent / "train",
}


def preset_names(kind: Kind = "run") -> list[str]:
    """The names of all presets, of optimised pictures or of trainings."""
    return sorted(path.stem for path in _FOLDERS[kind].glob("*.cfg"))


def preset_texts(name: str, kind: Kind = "run") -> dict[str, str]:
    """The options of a preset as texts.

    Raises:
      UsageError: If there is no such preset; the message offers the nearest ones.
    """
    lines = [line for line in _lines(name, kind) if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)  # type: ignore[misc]


def preset_options(name: str, kind: Kind = "run") -> dict[str, Any]:
    """The options of a preset as keywords.

    Raises:
      UsageError: If there is no such preset; the message offers the nearest ones.
    """
    options = Options if kind == "run" else TrainingOptions
    fields = {field.name: field for field in fields_of(options)}
    texts = preset_texts(name, kind)
    return {option: from_text(fields[option], text) for option, text in texts.items()}


def preset_source(name: str, kind: Kind = "run") -> tuple[str, str]:
    """What a preset reproduces: the comment at the top of its file.

    Returns:
      The experiment, which several presets may have in common, and this one's part.

    Raises:
      UsageError: If there is no such preset; the message offers the nearest ones.
    """
    comment = [line for line in _lines(name, kind) if line.startswith("#")]
    lines = [line.removeprefix("#").strip() for line in comment]
    between = lines.index("")
    return " ".join(lines[:between]), " ".join(lines[between + 1 :])


def _lines(name: str, kind: Kind) -> list[str]:
    names = preset_names(kind)
    if name not in names:
        if name in preset_names("training" if kind == "run" else "run"):
            use = "tfstyle train" if kind == "run" else "tfstyle stylize"
            raise UsageError(f"the preset {name} is for {use}")
        all_of_them = f"the presets are {', '.join(names)}"
        hint = did_you_mean(name, names, all_of_them, most=3, cutoff=0.4)
        raise UsageError(f"there is no preset {name!r}; {hint}")
    file = _FOLDERS[kind] / f"{name}.cfg"
    return file.read_text(encoding="utf-8").splitlines()
