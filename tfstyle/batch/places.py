"""Which pictures there are, and what their results are called."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import itertools
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tfstyle.batch.stores import store_of
from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.images.folder import SUFFIXES, saved_as
from tfstyle.options.identity import SETTINGS, check_results, settings_text

DEAD_LETTER = "unreadable.jsonl"
"""The file in the output folder that lists what could not be stylized."""

_SCRATCH = ".tfstyle-batch"

Segment = str | re.Pattern | None
"""What a part of a path matches; None is any number of folders."""

_PICTURE = re.compile(rf"(?!\.).*({'|'.join(map(re.escape, SUFFIXES))})\Z", re.I | re.S)
_MAGIC = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture that has no result, and why, in one line."""

    path: str
    reason: str

    @classmethod
    def of(cls, path: str, error: BaseException) -> Failure:
        """What an error says about a picture."""
        told = user_error(error) or f"{type(error).__name__}: {error}"
        text = " ".join(str(told).split())
        for name in (path, "the picture"):
            text = text.removeprefix(f"{name}: ")
        return cls(path, text)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some pictures of one folder.

    Attributes:
      folder: The folder below that of all pictures; "" for that one.
      names: Pictures to stylize.
      skipped: How many others have results of earlier runs.
      failures: Pictures that cannot have results.
    """

    folder: str
    names: tuple[str, ...] = ()
    skipped: int = 0
    failures: tuple[Failure, ...] = ()


@dataclasses.dataclass(frozen=True)
class Places:
    """Where pictures are and where results go, as absolute paths or URLs.

    Attributes:
      source: The patterns as they were given.
      pictures: The deepest folder that all patterns begin with; "" for ``/``.
      patterns: What the parts of a path below that folder match, for each pattern.
      output: The folder of the results.
      dead_letter: The file that lists what could not be stylized.
    """

    source: tuple[str, ...]
    pictures: str
    patterns: tuple[tuple[Segment, ...], ...]
    output: str
    dead_letter: str

    @classmethod
    def of(
        cls, source: str | Sequence[str], output: str, dead_letter: str | None = None
    ) -> Places:
        """Reads paths and patterns, see ``stylize_folder``.

        Raises:
          UsageError: If results would be among the pictures, or a store is unknown.
        """
        given = [source] if isinstance(source, str) else list(source)
        patterns = [_parsed(_absolute(text)) for text in given]
        heads = [
            tuple(itertools.takewhile(lambda part: isinstance(part, str), pattern[:-1]))
            for pattern in patterns
        ]
        levels = zip(*heads, strict=False)
        common = [p[0] for p in itertools.takewhile(lambda p: len({*p}) == 1, levels)]
        if not common or (common[0] and len(common) < 3):
            raise UsageError(f"{', '.join(given)}: give pictures of one store")
        output = _absolute(output)
        for head in heads:
            if f"{_real('/'.join(map(str, head)))}/".startswith(f"{_real(output)}/"):
                raise UsageError(
                    f"{output}: the pictures are in this folder; give the results "
                    "another, which may be inside it"
                )
        below = tuple(pattern[len(common) :] for pattern in patterns)
        dead_letter = _absolute(dead_letter or f"{output}/{DEAD_LETTER}")
        return cls(tuple(given), "/".join(map(str, common)), below, output, dead_letter)

    @property
    def scratch(self) -> str:
        """The folder of unfinished files in the output folder."""
        return f"{self.output}/{_SCRATCH}"

    @property
    def _letters(self) -> str:
        """The folder of the dead letter."""
        return self.dead_letter.rpartition("/")[0]

    def check(self) -> None:
        """Looks for a picture.

        Raises:
          UsageError: If there is none, or the first folder cannot be read.
        """
        for _, names, problem in self.walk():
            if problem:
                raise UsageError(f"{problem.path}: {problem.reason}")
            if names:
                return
        raise UsageError(
            f"{', '.join(self.source)}: no picture matches; check the path"
        )

    def begin(self, settings: Mapping[str, Any]) -> int:
        """Begins a run, whose results must have the settings of those that are there.

        Args:
          settings: What decides the results.

        Returns:
          When the run began, by the clock of the store, in nanoseconds.

        Raises:
          UsageError: If results of other settings are there, or a folder cannot be
            written to.
        """
        for folder in (self.output, self._letters):
            store_of(folder).make_folder(folder)
        file = f"{self.output}/{SETTINGS}"
        with contextlib.suppress(FileNotFoundError):
            saved, now = store_of(file).read(file), self._with_pictures(settings)
            way_out = f"give another folder, or delete {SETTINGS} to have both here"
            check_results(self.output, saved, now, way_out)
        store_of(file).delete_folder(self.scratch)
        self.write(f"{self.scratch}/begun", b"")
        begun = store_of(file).list(self.scratch)["begun"] or 0
        if begun % 10**9:
            return begun
        time.sleep(1)  # its clock counts seconds: results come in the next one
        return begun + 10**9

    def remember(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings for the runs to come, once they have proved to work."""
        text = settings_text(self._with_pictures(settings))
        self.write(f"{self.output}/{SETTINGS}", text.encode())

    def _with_pictures(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {"command": "batch", "pictures": self.pictures, **settings}

    def write(self, path: str, content: bytes) -> None:
        """Writes a file of the output folder, whole or not at all.

        Raises:
          TfstyleError: If it cannot be written.
        """
        folder = self._letters if path == self.dead_letter else self.output
        try:
            store_of(path).write(path, content, f"{folder}/{_SCRATCH}")
        except OSError as error:
            reason = " ".join(str(error).split())[:200]
            raise TfstyleError(f"{path}: could not be written: {reason}") from error

    def close(self) -> None:
        """Removes what is unfinished."""
        for folder in {self.output, self._letters}:
            with contextlib.suppress(OSError):
                store_of(folder).delete_folder(f"{folder}/{_SCRATCH}")

    def written(self, folder: str) -> dict[str, int]:
        """When each result in a folder below the output was written, in nanoseconds."""
        target = f"{self.output}/{folder}".rstrip("/")
        try:
            times = store_of(target).list(target)
        except FileNotFoundError:
            return {}
        return {name: when for name, when in times.items() if when is not None}

    def parts(self, begun: int, most: int) -> Iterator[Part]:
        """All pictures, in an order that depends on their names only.

        Ray lists them again if it loses some, and must find each at the same place.

        Args:
          begun: When this run began. What was written before is done, unless the
            picture is newer.
          most: The most pictures of a part. The first parts have fewer, so that few
            pictures occupy many workers.
        """
        found = 0
        for folder, names, problem in self.walk():
            if problem:
                yield Part("", failures=(problem,))
            if not names:
                continue
            inside = folder.removeprefix(self.pictures).strip("/")
            written = self.written(inside)
            chosen: dict[str, str] = {}
            failures = []
            # A picture that keeps its name goes before one that does not.
            for name in sorted(names, key=lambda name: (saved_as(name) != name, name)):
                first = chosen.setdefault(saved_as(name), name)
                if first != name:
                    told = f"has the same result as {folder}/{first}; rename it"
                    failures.append(Failure(f"{folder}/{name}", told))
            todo = [
                name
                for result, name in sorted(chosen.items())
                if not (result in written and names[name] <= written[result] < begun)
            ]
            yield Part(inside, (), len(chosen) - len(todo), tuple(failures))
            begin = 0
            while begin < len(todo):
                count = min(most, 1 + found // 64, len(todo) - begin)
                yield Part(inside, tuple(todo[begin : begin + count]))
                begin, found = begin + count, found + count

    def walk(self) -> Iterator[tuple[str, dict[str, int], Failure | None]]:
        """Each folder with the files in it that match, or why it cannot be read.

        Yields:
          The folder, when each file was written, by name, and the failure or None.
        """
        return self._walk(self.pictures, self.patterns)

    def _walk(
        self, folder: str, patterns: Iterable[tuple[Segment, ...]]
    ) -> Iterator[tuple[str, dict[str, int], Failure | None]]:
        # `**` may stand for no folder.
        alive = {p[i:] for p in patterns for i in range(1 + _deep(p))}
        last = [pattern[0] for pattern in alive if len(pattern) == 1]
        entries: dict[str, int | None]
        if not last and all(isinstance(pattern[0], str) for pattern in alive):
            entries = dict.fromkeys((str(p[0]) for p in alive), None)
        else:
            try:
                entries = store_of(folder).list(folder)
            except (FileNotFoundError, NotADirectoryError):
                return
            except OSError as error:
                yield folder, {}, Failure.of(folder, error)
                return
        yield (
            folder,
            {
                name: when
                for name, when in sorted(entries.items())
                if when is not None
                and any(_matches(part, name) for part in last)
                and f"{folder}/{name}" != self.dead_letter
            },
            None,
        )
        for name in sorted(name for name, when in entries.items() if when is None):
            below = {
                pattern if pattern[0] is None else pattern[1:]
                for pattern in alive
                if len(pattern) > 1 and _matches(pattern[0], name)
            }
            if below and f"{folder}/{name}" != self.output:
                yield from self._walk(f"{folder}/{name}", below)


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)  # noqa: PTH100


def _real(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def _parsed(path: str) -> tuple[Segment, ...]:
    """What the parts of a path match; of a folder, all pictures in it."""
    parts = path.split("/")
    plain = os.path.lexists(path) or not _MAGIC.search(path)
    if plain:
        return (*parts, None, _PICTURE) if store_of(path).is_folder(path) else (*parts,)
    # `**` at the end, and `**.jpg`, mean files in all folders.
    parts[-1:] = ["**", parts[-1][1:]] if parts[-1].startswith("**") else parts[-1:]
    return tuple(_segment(part) for part in parts)


def _segment(part: str) -> Segment:
    if part == "**" or not _MAGIC.search(part):
        return None if part == "**" else part
    # As in Python and bash, wildcards do not match a dot at the beginning.
    return re.compile(("" if part[0] == "." else r"(?!\.)") + fnmatch.translate(part))


def _deep(pattern: tuple[Segment, ...]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda part: part is None, pattern))


def _matches(part: Segment, name: str) -> bool:
    if isinstance(part, str):
        return part == name
    return not name.startswith(".") if part is None else bool(part.match(name))
