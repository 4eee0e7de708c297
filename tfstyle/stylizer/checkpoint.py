"""Runs that go on where they were interrupted."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import make_folder, replaced
from tfstyle.options import Options
from tfstyle.options.identity import check_same, digest
from tfstyle.options.text import to_text
from tfstyle.stylizer.pictures import Pictures
from tfstyle.version import __version__

_FORMAT = 6
_MOST_TIME = 0.1  # of a run that may go into writing checkpoints


@dataclasses.dataclass
class State:
    """Everything that a run needs to go on bit for bit.

    Attributes:
      scale: The current scale.
      finished: Whether that scale is finished.
      seconds: How long the run has taken.
      rows: The history, ``[steps, columns]``, float64.
      variables: The optimizer's variables, the picture first.
      neighbors: The style's cell for each cell of the picture at this scale, int32
        ``[N, h, w, 1]``; empty with other style losses.
    """

    scale: int
    finished: bool
    seconds: float
    rows: np.ndarray
    variables: list[np.ndarray]
    neighbors: np.ndarray


class Checkpoint:
    """The folder in which a run keeps its state: one file, written whole or not at all.

    The file has no code in it: it is read without ``pickle``.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        options: Options,
        pictures: Pictures,
        every: float,
    ):
        """Makes the folder if it does not exist.

        Args:
          folder: The folder.
          options: The options of the run.
          pictures: Its pictures; a checkpoint of another run is refused.
          every: Seconds between checkpoints; more where writing takes long.

        Raises:
          UsageError: If the folder cannot be made.
        """
        self.file = make_folder(folder, "checkpoint=") / "run.npz"
        self._identity, self._every = identity(options, pictures), every
        self._due, self._warned = time.monotonic() + every, False

    def load(self) -> State | None:
        """The state of the run when it was interrupted, or None if it is new.

        Raises:
          UsageError: If the file is of another run, or of another version.
          TfstyleError: If the file is damaged.
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
                    seconds=facts["seconds"],
                    rows=arrays["rows"],
                    variables=[arrays[f"variable_{i}"] for i in range(count)],
                    neighbors=arrays["neighbors"],
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
            "seconds": state.seconds,
            "variables": len(state.variables),
        }
        arrays: dict[str, Any] = {
            f"variable_{i}": array for i, array in enumerate(state.variables)
        }
        arrays |= {"rows": state.rows, "neighbors": state.neighbors}
        try:
            with replaced(self.file) as temporary, temporary.open("wb") as file:
                np.savez(file, facts=np.array(json.dumps(facts)), **arrays)
                file.flush()
                os.fsync(file.fileno())  # a power loss must not leave an empty file
        except TfstyleError as error:
            self._warn(error)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(self._every, took / _MOST_TIME)

    def _warn(self, error: TfstyleError) -> None:
        if not self._warned:
            logging.getLogger("tfstyle").warning(
                "%s; the run goes on without checkpoints until that is fixed", error
            )
        self._warned = True


def _check_kinds(state: State) -> None:
    """Refuses what is not the state of a run, whoever wrote it.

    Raises:
      ValueError: If it is not one.
    """
    arrays = [*state.variables, state.rows, state.neighbors]
    if not (
        type(state.scale) is int
        and state.scale >= 0
        and isinstance(state.finished, bool)
        and isinstance(state.seconds, int | float)
        and 0 <= state.seconds < math.inf
        and state.variables
        and state.rows.ndim == 2
        and state.neighbors.ndim == 4
        and state.neighbors.dtype == np.int32
        and (state.neighbors >= 0).all()
        and all(array.dtype.kind in "fiub" for array in arrays)
        and np.isfinite(arrays[0]).all()  # an optimizer's own may be infinite
    ):
        raise ValueError("no state of a run")


def identity(options: Options, pictures: Pictures) -> dict[str, Any]:
    """What decides the result of a run: versions, options and digests of pictures.

    Values are of JSON's types.
    """
    import tensorflow as tf

    arrays = {
        "content": pictures.content,
        "style": [style.picture for style in pictures.styles],
        "style weights": pictures.shares,
        "first picture": None if pictures.start is pictures.content else pictures.start,
        "content_mask": pictures.regions,
        "style_mask": [style.regions for style in pictures.styles],
        "protect": pictures.protect,
        "original": pictures.original,
    }
    return {
        "format": _FORMAT,
        "tfstyle": __version__,
        "tensorflow": tf.__version__,
        **{name: to_text(value) for name, value in vars(options).items()},
        "size of the result": list(pictures.size),
        **{name: digest(array) for name, array in arrays.items()},
    }


def _check_identity(
    file: pathlib.Path, saved: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    versions = {name: now[name] for name in ("format", "tfstyle", "tensorflow")}
    check_same(file, saved, versions, "go on with those, or choose another folder")
    check_same(file, saved, now, "give the same ones, or choose another folder")
