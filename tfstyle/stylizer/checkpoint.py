"""Runs that go on where they were interrupted."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import replaced
from tfstyle.stylizer.pictures import Plan

SECONDS_BETWEEN = 30.0
"""Between checkpoints, unless told otherwise."""
_FORMAT = 3
_MOST_TIME = 0.1  # of a run that may go into writing checkpoints


@dataclasses.dataclass
class State:
    """All that a run needs to go on bit for bit.

    Attributes:
      scale: The current scale.
      finished: Whether that scale is finished.
      exact: Whether that scale was in float32, see ``objective.Encoder.exact``.
      seconds: How long the run has taken.
      rows: The history, ``[steps, columns]``, float64.
      variables: The optimizer's variables, the picture first.
    """

    scale: int
    finished: bool
    exact: bool
    seconds: float
    rows: np.ndarray
    variables: list[np.ndarray]


class Checkpoint:
    """The folder in which a run keeps its state: one file, written whole or not at all.

    The file has no code in it: it is read without ``pickle``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        plan: Plan,
        every: float = SECONDS_BETWEEN,
    ):
        """Finds out what the run is.

        Args:
          folder: Made if need be.
          plan: The run; a checkpoint of another one is refused.
          every: Seconds between checkpoints; more where writing takes long.

        Raises:
          UsageError: The folder cannot be made.
        """
        self.file = pathlib.Path(folder) / "run.npz"
        self._identity, self._every = identity(plan), every
        self._due, self._warned = time.monotonic() + every, False
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"checkpoint={folder}: the folder cannot be made ({error.strerror}); "
                "choose another"
            ) from error

    def load(self) -> State | None:
        """The state of the run when it was interrupted, or None if it is new.

        Raises:
          UsageError: The file is of another run, or of another version.
          TfstyleError: The file is damaged.
        """
        if not self.file.exists():
            return None
        if not self.file.is_file():  # opening a pipe would wait for its other end
            raise UsageError(f"{self.file}: is no file; choose another folder")
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                # Then nothing unpacks to more than the file has.
                if any(part.compress_type for part in arrays.zip.infolist()):
                    raise ValueError("compressed, which `save` does not do")
                facts = json.loads(str(arrays["facts"]))
                _check_identity(self.file, facts["identity"], self._identity)
                count = facts["variables"]
                state = State(
                    scale=facts["scale"],
                    finished=facts["finished"],
                    exact=facts["exact"],
                    seconds=facts["seconds"],
                    rows=arrays["rows"],
                    variables=[arrays[f"variable_{i}"] for i in range(count)],
                )
                _check_kinds(state)
                return state
        except UsageError:
            raise
        except Exception as error:  # NumPy, zipfile and json raise whatever comes along
            raise TfstyleError(
                f"{self.file}: the checkpoint is damaged; delete it to start afresh"
            ) from error

    @property
    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._due

    def save(self, state: State) -> None:
        """Writes a state in the place of the last one.

        Where that fails, a warning says so and the run goes on.
        """
        began = time.monotonic()
        facts = {
            "identity": self._identity,
            "scale": state.scale,
            "finished": state.finished,
            "exact": state.exact,
            "seconds": state.seconds,
            "variables": len(state.variables),
        }
        arrays: dict[str, Any] = {
            f"variable_{i}": array for i, array in enumerate(state.variables)
        }
        try:
            with replaced(self.file) as temporary, temporary.open("wb") as file:
                np.savez(
                    file, facts=np.array(json.dumps(facts)), rows=state.rows, **arrays
                )
                file.flush()
                os.fsync(file.fileno())  # a power loss must not leave an empty file
        except TfstyleError as error:
            self._warn(error)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(self._every, took / _MOST_TIME)

    def _warn(self, error: TfstyleError) -> None:
        if not self._warned:
            logging.getLogger("tfstyle").warning(
                "%s; the run goes on without checkpoints until that is mended", error
            )
        self._warned = True


def _check_kinds(state: State) -> None:
    """Refuses what is no state of a run, whoever wrote it.

    Raises:
      ValueError: It is none.
    """
    arrays = [*state.variables, state.rows]
    if not (
        type(state.scale) is int
        and state.scale >= 0
        and isinstance(state.finished, bool)
        and isinstance(state.exact, bool)
        and isinstance(state.seconds, int | float)
        and 0 <= state.seconds < math.inf
        and state.variables
        and state.rows.ndim == 2
        and all(array.dtype.kind in "fiub" for array in arrays)
        and np.isfinite(arrays[0]).all()  # an optimizer's own may be infinite
    ):
        raise ValueError("no state of a run")


def identity(plan: Plan) -> dict[str, Any]:
    """What decides the result of a run: versions, options and digests of pictures."""
    import tensorflow as tf

    pictures = {
        "content": plan.content,
        "style": [style.picture for style in plan.styles],
        "style weights": plan.shares,
        "first picture": None if plan.start is plan.content else plan.start,
        "content_mask": plan.regions,
        "style_mask": [style.regions for style in plan.styles],
        "protect": plan.protect,
        "original": plan.original,
    }
    options = {
        name: str(value) for name, value in dataclasses.asdict(plan.options).items()
    }
    return {
        "format": _FORMAT,
        "tfstyle": tfstyle.__version__,
        "tensorflow": tf.__version__,
        **options,
        "size of the result": list(plan.size),
        **{name: _digest(picture) for name, picture in pictures.items()},
    }


def _digest(value: Any) -> str:
    if isinstance(value, np.ndarray):
        content = np.ascontiguousarray(value)
        return hashlib.sha256(repr(value.shape).encode() + content.data).hexdigest()
    if isinstance(value, list):
        return hashlib.sha256("".join(map(_digest, value)).encode()).hexdigest()
    return str(value)


def _check_identity(
    file: pathlib.Path, saved: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    for name in ("format", "tfstyle", "tensorflow"):
        if saved.get(name) != now[name]:
            raise UsageError(
                f"{file}: the checkpoint is of {name} {_shown(saved.get(name))}, and "
                f"this is {now[name]}; go on with that version, or choose another "
                "folder"
            )
    differing = [name for name in now if saved.get(name) != now[name]]
    if differing:
        raise UsageError(
            f"{file}: the checkpoint is of a run with other flags: "
            f"{', '.join(_difference(name, saved, now) for name in differing)}; give "
            "the same ones, or choose another folder"
        )


def _difference(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = str(saved.get(name)), str(now[name])
    if max(len(before), len(after)) > 40:  # a digest says nothing
        return name
    return f"{name} ({_shown(before)}, now {after})"


def _shown(value: Any) -> str:
    """What a file says, for a line of a message."""
    text = str(value)[:40]
    return text if text.isprintable() else ascii(text)


def rows_of(history: Mapping[str, Sequence[float]]) -> np.ndarray:
    """A history as rows, ``[steps, columns]``."""
    return np.array(list(history.values()), "float64").T
