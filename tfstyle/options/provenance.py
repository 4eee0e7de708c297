"""How a picture was made, kept in the picture, so that it can be made again."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tfstyle.errors import UsageError
from tfstyle.files import sha256
from tfstyle.images import read_metadata
from tfstyle.images.samples import SAMPLES
from tfstyle.options.fields import fields_of
from tfstyle.options.options import Options
from tfstyle.version import __version__

RECORDED = {field.name for field in fields_of(Options)} | {
    *("width", "height"),
    *("style_name", "model", "strength"),
}
"""Options that decide what a picture becomes, besides the pictures it is made from.

Nothing else is read from a picture, which may come from a stranger: no option that
names a file to write.
"""
PICTURES = ("content", "style", "content_mask", "style_mask", "protect")
"""Arguments that name pictures."""

_KEY = "tfstyle"
FILES = ("weights", "init", "model")
"""Options that name files to read."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A picture that another was made from.

    Attributes:
      file: Its path as it was given; only its name if that path was absolute or left
        the working folder, so that it tells nothing about the machine.
      sha256: SHA-256 of the file, in hexadecimal.
      weight: Its share as one of several styles, or None.
    """

    file: str
    sha256: str
    weight: float | None = None


@dataclasses.dataclass(frozen=True)
class Origin:
    """The command that made a picture.

    Attributes:
      command: A command of ``tfstyle``.
      options: Texts of the options that were not at their defaults.
      pictures: The pictures of each argument that names some.
      version: The version of tfstyle.
    """

    command: str
    options: dict[str, str]
    pictures: dict[str, tuple[Source, ...]]
    version: str = __version__

    def words(self, command: str | None = None) -> list[str]:
        """The flags, as words of a command line.

        Args:
          command: The command that is to have them; None for any.

        Raises:
          UsageError: If another command made the picture.
        """
        if command not in (None, self.command):
            raise UsageError(
                f"--from_image: the picture was made by tfstyle {self.command}; give "
                "the flag to that command"
            )
        words = [f"--{name}={text}" for name, text in self.options.items()]
        for flag, sources in self.pictures.items():
            words.append(f"--{flag}={','.join(map(_with_weight, sources))}")
        return words

    def stopped(self, step: int) -> Origin:
        """The same for a run that was stopped at a step, to end there again."""
        options = {**self.options, "stop_at": str(step)}
        return dataclasses.replace(self, options=dict(sorted(options.items())))

    def metadata(self) -> dict[str, str]:
        """What ``save_image`` puts into the picture."""
        record = json.dumps(dataclasses.asdict(self), ensure_ascii=False)
        return {"Software": "tfstyle", _KEY: record}

    def located(
        self, image: str | os.PathLike[str], given: Collection[str] = ()
    ) -> Origin:
        """The same with the pictures where they are now.

        They are looked for by the recorded path, then by name in the working folder,
        beside the picture, and among tfstyle's samples.

        Args:
          image: The picture that this is the origin of.
          given: Arguments whose pictures are not needed.

        Raises:
          UsageError: If there is no file of that name, or only one that holds another
            picture.
        """
        folders = [pathlib.Path(), pathlib.Path(image).parent]
        folders += [SAMPLES / kind for kind in ("content", "style", "mask")]
        pictures = {
            flag: tuple(_located(source, folders, flag, image) for source in sources)
            for flag, sources in self.pictures.items()
            if flag not in given
        }
        return dataclasses.replace(self, pictures=pictures)


def origin_of(
    command: str,
    options: Mapping[str, str],
    pictures: Mapping[str, Iterable[tuple[str | os.PathLike[str], float | None]]],
) -> Origin:
    """Describes a run.

    Raises:
      UsageError: If a picture can no longer be read.
    """
    texts = {
        name: _portable(text) if name in FILES else text
        for name, text in sorted(options.items())
    }
    sources = {
        flag: tuple(Source(_portable(path), sha256(path), w) for path, w in listed)
        for flag, listed in pictures.items()
    }
    return Origin(command, texts, {f: s for f, s in sources.items() if s})


def read_origin(path: str | os.PathLike[str]) -> Origin:
    """Reads how a picture was made.

    Raises:
      UsageError: If the picture does not say how it was made, or not in a form that
        this version can follow.
      ImageError: If the file is not a picture, or is damaged.
    """
    text = read_metadata(path).get(_KEY)
    if text is None:
        raise UsageError(
            f"{path}: does not say how it was made; give a picture that tfstyle wrote "
            "and that no other program has changed since"
        )
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(
            f"{path}: says how it was made in a form that cannot be read; perhaps a "
            "newer tfstyle wrote it"
        ) from None


def _parsed(record: Any) -> Origin:
    options = {name: _line(text) for name, text in record["options"].items()}
    pictures = {
        str(flag): tuple(
            Source(
                _line(source["file"]),
                _line(source["sha256"]),
                None if source["weight"] is None else float(source["weight"]),
            )
            for source in sources
        )
        for flag, sources in record["pictures"].items()
    }
    if not (RECORDED.issuperset(options) and set(PICTURES).issuperset(pictures)):
        raise ValueError("an option that is never recorded")
    command, version = _line(record["command"]), _line(record["version"])
    return Origin(command, options, pictures, version)


def _line(text: Any) -> str:
    """A text from a file, which a terminal or a file of flags can hold in a line.

    Raises:
      ValueError: If it has control characters or line breaks.
    """
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in str(text)):
        raise ValueError("not a line")
    return str(text)


def _with_weight(source: Source) -> str:
    return source.file if source.weight is None else f"{source.file}:{source.weight!r}"


def _located(
    source: Source,
    folders: Iterable[pathlib.Path],
    flag: str,
    image: str | os.PathLike[str],
) -> Source:
    recorded = pathlib.Path(source.file)
    places = [recorded, *(folder / recorded.name for folder in folders)]
    files = [place for place in places if place.is_file()]
    for file in files:
        if sha256(file) == source.sha256:
            return dataclasses.replace(source, file=os.fspath(file))
    if files:
        raise UsageError(
            f"{files[0]} is not the picture that {image} was made from; give "
            f"--{flag}=FILE"
        )
    raise UsageError(
        f"{image} was made from a picture {source.file}, which is neither here nor "
        f"beside it; give --{flag}=FILE"
    )


def _portable(path: str | os.PathLike[str]) -> str:
    """A path without what it tells about the machine."""
    path = pathlib.Path(path)
    inside = not path.is_absolute() and ".." not in path.parts
    return path.as_posix() if inside else path.name
