"""Whether the package has become slower since a commit: ``benchmark.py --against``."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from benchmark_report import table
from benchmark_timing import FLAGS, note
from commit_rows import ROWS

from tfstyle.errors import UsageError

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHILD = pathlib.Path(__file__).with_name("commit_rows.py")


def compare(
    commit: str, rows: Sequence[str], pictures: Sequence[str], tolerance: float
) -> int:
    """Measures a commit and the working tree by turns, and prints a table.

    Args:
      commit: The commit, as git understands it.
      rows: Names of ``ROWS``.
      pictures: Paths of the content and style pictures.
      tolerance: How many times as slow is still well.

    Returns:
      Exit code: 1 if the working tree is slower than that, or cannot do a row that the
      commit can, or if the commit can do none.

    Raises:
      UsageError: If there is no such commit.
    """
    known = git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if known.returncode:
        raise UsageError(f"--against={commit}: {ROOT} has no such commit")
    paths = [str(pathlib.Path(path).resolve()) for path in pictures]
    with ending_by_signal(), checkout(known.stdout.strip()) as tree:
        sides = {"old": tree, "new": ROOT}
        answers = {row: measured(row, sides, paths) for row in rows}
    print(comparison(answers, {"old": commit, "new": "working tree"}))
    slow = [name for name, sides in answers.items() if is_slower(sides, tolerance)]
    for name in slow:
        print(f"slower than {tolerance:g} times, or not to be measured: {name}")
    if all("error" in sides["old"] for sides in answers.values()):
        print(f"{commit} can do none of this: nothing has been compared")
        return 1
    return int(bool(slow))


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Runs git, which a Ctrl-C at the terminal does not reach."""
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *words],
            capture_output=True,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise UsageError(f"--against needs git: {error.strerror}") from error


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[pathlib.Path]:
    """A git worktree of a commit, which is removed afterwards.

    Raises:
      UsageError: If git cannot make it.
    """
    with tempfile.TemporaryDirectory(prefix="tfstyle-against-") as folder:
        tree = pathlib.Path(folder).resolve() / "tree"
        try:
            made = git("worktree", "add", "--quiet", "--detach", str(tree), commit)
            if made.returncode:
                raise UsageError(f"--against: {' '.join(made.stderr.split())}")
            yield tree
        finally:
            # Twice: also where it has not been finished, and is locked.
            git("worktree", "remove", "--force", "--force", str(tree))


@contextlib.contextmanager
def ending_by_signal() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does, with what belongs after it."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def measured(
    row: str, sides: Mapping[str, pathlib.Path], pictures: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Seconds of a row by side, or the reason why there are none."""
    results: dict[str, dict[str, Any]] = {side: {"seconds": []} for side in sides}
    with contextlib.ExitStack() as stack:
        children = {
            side: stack.enter_context(Child(tree, pictures))
            for side, tree in sides.items()
        }
        for repeat in range(FLAGS.repeats):
            for side, child in children.items():
                if "error" in results[side]:
                    continue
                answer = child.ask(row)
                if "error" in answer:
                    results[side] = answer
                else:
                    results[side]["seconds"].append(answer["seconds"])
                shown = answer.get("error") or f"{answer['seconds']:.4f} s"
                note(f"{row}, {side}, {repeat + 1} of {FLAGS.repeats}: {shown}")
    return results


class Child:
    """A process with the package of one side; see ``commit_rows.py``."""

    def __init__(self, tree: pathlib.Path, pictures: Sequence[str]):
        """Names the side's folder and the pictures; begins nothing yet."""
        timing = {
            name: FLAGS[name].value for name in ("timing_steps", "timing_seconds")
        }
        words = [f"--{name}={value}" for name, value in timing.items()]
        self._command = [sys.executable, str(CHILD), *pictures, *words]
        self._tree = tree

    def __enter__(self) -> Child:
        self._said = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            env={**os.environ, "PYTHONPATH": str(self._tree)},
            cwd=tempfile.gettempdir(),  # no package lies there
            text=True,
        )
        self._broken = self._read(self._tree)
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()

    def ask(self, row: str) -> dict[str, Any]:
        """Its answer about a row."""
        if self._broken:
            return self._broken
        try:
            print(row, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return self._ended()
        return self._read()

    def _read(self, tree: pathlib.Path | None = None) -> dict[str, Any]:
        """An answer; nothing for the first one, if it has the package of ``tree``."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            return self._ended()
        answer = dict(json.loads(line))
        if tree is None:
            return answer
        found = pathlib.Path(answer["package"]).resolve()
        return {} if found.is_relative_to(tree) else {"error": f"it imports {found}"}

    def _ended(self) -> dict[str, Any]:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().strip().splitlines() or [""]
        return {"error": f"ended with {code}: {lines[-1]}"}


def comparison(
    answers: Mapping[str, Mapping[str, Mapping[str, Any]]], names: Mapping[str, str]
) -> str:
    """The table of all rows; what has no seconds is a dash, with the reason."""
    body = []
    for row, sides in answers.items():
        medians = [median(sides[side]) for side in names]
        reasons = [
            f"{name}: {sides[side]['error']}"
            for side, name in names.items()
            if "error" in sides[side]
        ]
        ratio = "–" if None in medians else f"{ratio_of(sides):.2f}"
        shown = ["–" if value is None else f"{value:.4g} s" for value in medians]
        body.append([ROWS[row][0] if row in ROWS else row, *shown, ratio])
        body[-1].append("; ".join(reasons))
    return table(["", *names.values(), "ratio", ""], body)


def median(answer: Mapping[str, Any]) -> float | None:
    """The median seconds of a side; None where there are none."""
    return float(np.median(answer["seconds"])) if "seconds" in answer else None


def ratio_of(sides: Mapping[str, Mapping[str, Any]]) -> float:
    """How many times the old side's seconds the new side takes."""
    new, old = (np.median(sides[side]["seconds"]) for side in ("new", "old"))
    return float(new / old)


def is_slower(sides: Mapping[str, Mapping[str, Any]], tolerance: float) -> bool:
    """Whether the new side is too slow, or has lost what the old one can do."""
    if "error" in sides["old"]:
        return "error" in sides["new"]
    return "error" in sides["new"] or ratio_of(sides) > tolerance
