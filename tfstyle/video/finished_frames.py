"""The folder of stylized frames that wait for their film to be written."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import replaced
from tfstyle.images import load_image, save_image
from tfstyle.images.folder import is_readable
from tfstyle.options.identity import check_same
from tfstyle.video.film_files import FRAME_NAME
from tfstyle.video.flow import mean_flicker


class FinishedFrames:
    """The finished frames of a film, each a PNG file, beside the film to write.

    Attributes:
      folder: The folder, ``OUTPUT.frames``.
    """

    def __init__(self, output: pathlib.Path, settings: Mapping[str, Any]):
        """Makes the folder, or finds it as an interrupted run left it.

        Args:
          output: The film to write.
          settings: Everything that decides how frames look, in types that JSON has.

        Raises:
          UsageError: If the folder belongs to a run with other settings, or holds
            something else.
          TfstyleError: If the file with the settings is damaged.
        """
        self.folder = output.with_name(f"{output.name}.frames")
        self._settings_file = self.folder / "run.json"
        if self._settings_file.exists():
            self._check(settings)
        else:
            self._begin(settings)
        self._count = next(i for i in itertools.count() if not self._file(i).exists())
        # A power loss may leave pictures that cannot be read.
        while self._count and not is_readable(self._file(self._count - 1)):
            self._count -= 1

    def __len__(self) -> int:
        return self._count

    def append(self, picture: np.ndarray, flicker: float) -> None:
        """Saves the next frame.

        Args:
          picture: Float32 ``[1, H, W, 3]`` in [0, 1].
          flicker: Its ``frame_flicker``.

        Raises:
          TfstyleError: If the file cannot be written.
        """
        text = {"Software": "tfstyle", "flicker": str(flicker)}
        save_image(picture, self._file(self._count), metadata=text)
        self._count += 1

    def last(self) -> np.ndarray | None:
        """The last frame as the file has it, in 8 bits; None if there is none."""
        return load_image(self._file(self._count - 1)) if self._count else None

    def flicker(self) -> float:
        """The mean flicker of the frames."""
        return mean_flicker(_flicker_of(self._file(i)) for i in range(self._count))

    def remove(self) -> None:
        """Deletes the folder, once the film is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, index: int) -> pathlib.Path:
        return self.folder / (FRAME_NAME % index)

    def _begin(self, settings: Mapping[str, Any]) -> None:
        with contextlib.suppress(FileExistsError):
            self.folder.mkdir()
        if any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder}: is needed for frames, but holds something else; move "
                "it, or choose another output"
            )
        with replaced(self._settings_file) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2))

    def _check(self, settings: Mapping[str, Any]) -> None:
        try:
            saved = dict(json.loads(self._settings_file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise TfstyleError(
                f"{self._settings_file}: is damaged; delete the folder to start afresh"
            ) from error
        # A setting that this run does not have is a difference too.
        now = {**dict.fromkeys(saved), **json.loads(json.dumps(dict(settings)))}
        way_out = "give the same ones, delete the folder, or choose another output"
        check_same(self.folder, saved, now, way_out)


def _flicker_of(file: pathlib.Path) -> float:
    with Image.open(file) as picture:
        return float(picture.info["flicker"])
