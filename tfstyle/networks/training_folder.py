"""The folder of a training: what the run is, its checkpoints and its history."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfstyle.errors import TfstyleError, UsageError, one_line
from tfstyle.files import make_folder, replaced
from tfstyle.options.identity import check_same, parse_settings


class TrainingFolder:
    """The files of a run, which only the chief of several workers writes.

    Attributes:
      path: The folder.
      checkpoints: The folder of this worker's checkpoints: all workers must save, but
        only the chief's checkpoints are kept.
    """

    def __init__(self, path: str | os.PathLike[str], chief: bool):
        """Makes the folder if there is none.

        Args:
          path: The folder.
          chief: Whether this process is the chief.

        Raises:
          UsageError: If the folder cannot be made.
        """
        self.path, self._chief = pathlib.Path(path), chief
        self.checkpoints = self.path / "checkpoint"
        self._history: Any = None
        if chief:
            make_folder(path)
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="tfstyle-")
            self.checkpoints = pathlib.Path(self._temporary.name)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Refuses a folder with another run, and notes the settings of a new one.

        Args:
          settings: What must be the same for a run to go on, in types that JSON has.

        Raises:
          UsageError: If the folder has a run with other settings.
        """
        file = self.path / "training.json"
        if file.is_file():
            afresh = "give another output, or delete the folder to start afresh"
            try:
                saved = file.read_bytes()
            except OSError as error:
                raise UsageError(
                    f"{file}: cannot be read ({one_line(error)}); {afresh}"
                ) from error
            earlier = parse_settings(saved, file, afresh)
            way_out = "give the same ones, or another output"
            check_same(self.path, earlier, settings, way_out)
        elif self._chief:
            with replaced(file) as temporary:
                temporary.write_text(json.dumps(settings, indent=2) + "\n")

    def open_history(self, columns: Sequence[str], step: int) -> None:
        """Opens the history for further rows.

        Args:
          columns: Names of its columns, ``step`` first.
          step: The step of the checkpoint that the run goes on from. Later rows are
            dropped, because their steps come again.
        """
        if not self._chief:
            return
        file, rows = self.path / "history.csv", []
        if file.is_file():
            with file.open(newline="") as lines:
                # The last line may be cut off.
                rows = [row for row in csv.reader(lines) if len(row) == len(columns)]
                rows = [row for row in rows[1:] if int(row[0]) <= step]
        with replaced(file) as temporary, temporary.open("w", newline="") as lines:
            csv.writer(lines).writerows([columns, *rows])
        self._history = file.open("a", newline="")

    def add_history(self, steps: np.ndarray, rows: np.ndarray) -> None:
        """Adds rows to the history.

        Raises:
          TfstyleError: If they cannot be written.
        """
        if not self._history:
            return
        try:
            csv.writer(self._history).writerows(
                [step, 0, *row] for step, row in zip(steps, rows.tolist(), strict=True)
            )
        except OSError as error:
            reason = f"could not be written: {one_line(error)}"
            raise TfstyleError(f"{self.path / 'history.csv'}: {reason}") from error

    def sync(self) -> None:
        """Writes the history to the disk: it must not be behind a checkpoint."""
        if self._history:
            self._history.flush()
            os.fsync(self._history.fileno())

    def close(self) -> None:
        """Closes the history."""
        if self._history:
            with contextlib.suppress(OSError):  # the last rows find no room
                self._history.close()


def read_history(folder: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The losses of a training.

    Returns:
      Columns ``step``, ``scale`` (always 0), ``total`` and one for each term; nothing
      where there is no history yet.
    """
    try:
        with (pathlib.Path(folder) / "history.csv").open(newline="") as lines:
            columns, *rows = csv.reader(lines)
    except (OSError, ValueError):
        return {}
    whole = [row for row in rows if len(row) == len(columns)]
    values = np.array(whole, "float64").reshape(-1, len(columns))
    return dict(zip(columns, values.T.tolist(), strict=True))
