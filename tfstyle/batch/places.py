"""Which pictures there are, and what their results are called."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import glob
import itertools
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfstyle.batch.stores import store_of
from tfstyle.errors import TfstyleError, UsageError, one_line, user_error
from tfstyle.files import PathLike, make_folder
from tfstyle.images.folder import SUFFIXES, saved_as
from tfstyle.options.identity import SETTINGS, check_results, settings_text

DEAD_LETTER = "unreadable.jsonl"
"""The file in the output folder that lists what could not be stylized."""

Pattern = tuple[str, ...]
"""What the parts of a path match."""

_ANY = "**"
"""Matches any number of folders."""
_PICTURE = "/picture"
"""Matches the names of pictures; no part of a path has a slash."""
_MAGIC = re.compile(r"[*?\[]")


@dataclasses.dataclass(frozen=True)
class Failure:
    """A picture that has no result, and why, in one line."""

    path: str
    reason: str

    @classmethod
    def of(cls, path: str, error: BaseException) -> Failure:
        """What an error says about a picture."""
        text = " ".join(str(told(error)).split())
        for name in (path, "the picture"):
            text = text.removeprefix(f"{name}: ")
        return cls(path, text)


@dataclasses.dataclass(frozen=True)
class Part:
    """Some pictures of one folder.

    Attributes:
      folder: The folder below that of all pictures; "" for that one.
      names: Pictures to stylize.
      done: How many of them have results by now.
      skipped: How many others have results of earlier runs.
      failures: Pictures that cannot have results.
    """

    folder: str
    names: tuple[str, ...] = ()
    done: int = 0
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
    patterns: tuple[Pattern, ...]
    output: str
    dead_letter: str

    @classmethod
    def of(
        cls,
        source: PathLike | Sequence[PathLike],
        output: PathLike,
        dead_letter: PathLike | None = None,
    ) -> Places:
        """Reads paths and patterns, see ``stylize_folder``.

        Raises:
          UsageError: If results would be among the pictures, or a store is unknown.
        """
        several = [source] if isinstance(source, str | os.PathLike) else source
        given = [os.fspath(path) for path in several]
        if not given:
            raise UsageError("content: give at least one picture, folder or pattern")
        parsed = [_parsed(_absolute(text)) for text in given]
        levels = zip(*(head for head, _ in parsed), strict=False)
        common = [p[0] for p in itertools.takewhile(lambda p: len({*p}) == 1, levels)]
        if not common or (common[0] and len(common) < 3):
            raise UsageError(f"{', '.join(given)}: give pictures of one store")
        output = _absolute(os.fspath(output))
        for head, _ in parsed:
            if f"{_real('/'.join(head))}/".startswith(f"{_real(output)}/"):
                raise UsageError(
                    f"{output}: the pictures are in this folder; give the results "
                    "another, which may be inside it"
                )
        patterns = tuple(
            (*map(glob.escape, head[len(common) :]), *tail) for head, tail in parsed
        )
        dead_letter = _absolute(os.fspath(dead_letter or f"{output}/{DEAD_LETTER}"))
        return cls(tuple(given), "/".join(common), patterns, output, dead_letter)

    @property
    def scratch(self) -> str:
        """The folder of unfinished files in the output folder."""
        return f"{self.output}/.tfstyle-batch"

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
        for folder in (self.output, self.dead_letter.rpartition("/")[0]):
            if "://" not in folder:  # servers make theirs when they are needed
                make_folder(folder)
        store = store_of(self.output)
        settings = {"command": "batch", "pictures": self.pictures, **settings}
        with _told_of(self.output):
            with contextlib.suppress(FileNotFoundError):
                saved = store.read(f"{self.output}/{SETTINGS}")
                way_out = f"give another folder, or delete {SETTINGS} to have both here"
                check_results(self.output, saved, settings, way_out)
            store.delete_folder(self.scratch)
            self.write(f"{self.scratch}/begun", settings_text(settings).encode())
            begun = store.list(self.scratch)["begun"] or 0
        if begun % 10**9:
            return begun
        time.sleep(1)  # its clock counts seconds: results come in the next one
        return begun + 10**9

    def remember(self) -> None:
        """Keeps the settings for the runs to come, once they have proved to work."""
        settings = store_of(self.scratch).read(f"{self.scratch}/begun")
        self.write(f"{self.output}/{SETTINGS}", settings)

    def write(self, path: str, content: bytes) -> None:
        """Writes a file of the output folder, or the dead letter, whole or not at all.

        Raises:
          TfstyleError: If it cannot be written.
        """
        letter = path == self.dead_letter  # it may be on another disk
        scratch = path.rpartition("/")[0] if letter else self.scratch
        try:
            store_of(path).write(path, content, scratch)
        except OSError as error:
            reason = one_line(error)
            raise TfstyleError(f"{path}: could not be written: {reason}") from error

    def close(self) -> None:
        """Removes what is unfinished."""
        with contextlib.suppress(OSError):
            store_of(self.scratch).delete_folder(self.scratch)

    def written(self, folder: str) -> dict[str, int]:
        """When each result in a folder below the output was written, in nanoseconds."""
        target = f"{self.output}/{folder}".rstrip("/")
        with contextlib.suppress(FileNotFoundError):
            times = store_of(target).list(target)
            return {name: when for name, when in times.items() if when is not None}
        return {}

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
                    reason = f"has the same result as {folder}/{first}; rename it"
                    failures.append(Failure(f"{folder}/{name}", reason))
            todo = [
                name
                for result, name in sorted(chosen.items())
                if not (result in written and names[name] <= written[result] < begun)
            ]
            skipped = len(chosen) - len(todo)
            yield Part(inside, skipped=skipped, failures=tuple(failures))
            left = iter(todo)
            while part := tuple(itertools.islice(left, min(most, 1 + found // 64))):
                yield Part(inside, part)
                found += len(part)

    def walk(self) -> Iterator[tuple[str, dict[str, int], Failure | None]]:
        """Each folder with the files in it that match, or why it cannot be read.

        Yields:
          The folder, when each file was written, by name, and the failure or None.
        """
        folders = [(self.pictures, {*self.patterns})]
        while folders:
            folder, patterns = folders.pop()
            # `**` may stand for no folder.
            alive = {
                p[i:] for p in patterns for i in range(len(p)) if {*p[:i]} <= {_ANY}
            }
            last = [p[0] for p in alive if len(p) == 1]
            deeper = [p for p in alive if len(p) > 1]
            entries: dict[str, int | None] = dict.fromkeys(p[0] for p in deeper)
            if last or any(_MAGIC.search(p[0]) for p in deeper):
                try:
                    entries = store_of(folder).list(folder)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as error:
                    yield folder, {}, Failure.of(folder, error)
                    continue
            for own in (self.output, self.dead_letter):
                entries.pop(own.removeprefix(f"{folder}/"), None)
            names = {
                name: when
                for name, when in sorted(entries.items())
                if when is not None and any(_matches(part, name) for part in last)
            }
            yield folder, names, None
            inside = [name for name, when in entries.items() if when is None]
            for name in sorted(inside, reverse=True):
                matching = [p for p in deeper if _matches(p[0], name)]
                if below := {p if p[0] == _ANY else p[1:] for p in matching}:
                    folders.append((f"{folder}/{name}", below))


def told(error: BaseException) -> TfstyleError:
    """An error in one of our own, which processes can give to each other."""
    return user_error(error) or TfstyleError(f"{type(error).__name__}: {error}")


@contextlib.contextmanager
def _told_of(path: str) -> Iterator[None]:
    """Makes what a store could not do with a path one line that names it."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{path}: {one_line(error)}") from error


def _absolute(path: str) -> str:
    return path.rstrip("/") if "://" in path else os.path.abspath(path)  # noqa: PTH100


def _real(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def _parsed(path: str) -> tuple[list[str], list[str]]:
    """The parts of the folder that a pattern begins with, and of what is below it."""
    parts = path.split("/")
    if os.path.lexists(path) or not _MAGIC.search(path):
        with _told_of(path):
            folder = store_of(path).is_folder(path)
        if folder:
            return parts, [_ANY, _PICTURE]
        return parts[:-1], [glob.escape(parts[-1])]
    if parts[-1].startswith(_ANY):  # as `**.jpg`: files in all folders
        parts[-1:] = [_ANY, parts[-1][1:]]
    first = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    return parts[:first], parts[first:]


def _matches(part: str, name: str) -> bool:
    # As in Python and bash, wildcards do not match a dot at the beginning.
    if name.startswith(".") and not part.startswith("."):
        return False
    if part == _PICTURE:
        return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122
    return fnmatch.fnmatchcase(name, part)
