"""Files of this machine and of object stores such as S3, by paths and URLs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pathlib
import random
import secrets
import shutil
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tfstyle import files
from tfstyle.errors import UsageError, one_line
from tfstyle.extras import import_extra
from tfstyle.images.decoders import MAX_BYTES

SECONDS_BETWEEN_TRIES = (1, 2, 4, 8, 16)
_FINAL = ("ACCESS_DENIED", "NO_SUCH", "INVALID_ACCESS", "SIGNATURE_DOES_NOT_MATCH")

T = TypeVar("T")


def _when_written(entry: os.DirEntry[str]) -> int:
    """When a file was written, in nanoseconds; of a link, what it leads to."""
    try:
        return entry.stat().st_mtime_ns
    except OSError:  # it leads nowhere
        return entry.stat(follow_symlinks=False).st_mtime_ns


class Store:
    """The files of this machine, or of a server that pyarrow knows.

    What a server fails to do is tried again for half a minute and longer.
    """

    def __init__(self, server: str):
        self._files: Any = None
        if server:
            self._fs = import_extra("pyarrow.fs", extra="batch")
            try:
                self._files, _ = _patiently(self._fs.FileSystem.from_uri, server)
            except (OSError, ValueError) as error:
                raise UsageError(f"{server}: {one_line(error)}") from error

    def is_folder(self, path: str) -> bool:
        """Whether a path is that of a folder."""
        if not self._files:
            return pathlib.Path(path).is_dir()
        info = _patiently(self._files.get_file_info, _key(path))
        return info.type.name == "Directory"

    def list(self, folder: str) -> dict[str, int | None]:
        """When each file of a folder was written, in nanoseconds; None for folders.

        Raises:
          OSError: If the folder does not exist, or may not be read.
        """
        if self._files:
            inside = self._fs.FileSelector(_key(folder))
            entries = _patiently(self._files.get_file_info, inside)
            return {e.base_name: e.mtime_ns if e.is_file else None for e in entries}
        found: dict[str, int | None] = {}
        with os.scandir(folder or "/") as scan:
            for entry in scan:
                if entry.is_dir(follow_symlinks=False):
                    found[entry.name] = None
                elif not os.path.isdir(entry):  # noqa: PTH112 - never raises
                    # Another process may delete a file before it is looked at.
                    with contextlib.suppress(FileNotFoundError):
                        found[entry.name] = _when_written(entry)
        return found

    def picture(self, path: str) -> str | io.BytesIO:
        """A picture for ``load_image``, which opens no pipe by its path."""
        return io.BytesIO(self.read(path)) if self._files else path

    def read(self, path: str) -> bytes:
        """The content of a file; of a server's, no more than a picture may have.

        Raises:
          OSError: If the file does not exist, or cannot be read.
        """
        if not self._files:
            return pathlib.Path(path).read_bytes()
        return _patiently(self._read, _key(path))

    def _read(self, key: str) -> bytes:
        with self._files.open_input_file(key) as file:
            return file.read(min(file.size(), MAX_BYTES + 1))  # is refused if decoded

    def write(self, path: str, content: bytes, scratch: str) -> None:
        """Writes a file, which appears whole or not at all.

        Args:
          path: The file.
          content: Its content.
          scratch: A folder of the same file system for unfinished files.

        Raises:
          OSError: If the file cannot be written.
        """
        if self._files:
            temporary = _key(f"{scratch}/.tfstyle-{secrets.token_hex(8)}")
            _patiently(self._write, _key(path), content, temporary)
            return
        target, folder = pathlib.Path(path), pathlib.Path(scratch)
        for parent in (target.parent, folder):
            parent.mkdir(parents=True, exist_ok=True)
        with files.beside(target, folder=folder) as unfinished:
            unfinished.write_bytes(content)

    def _write(self, path: str, content: bytes, temporary: str) -> None:
        # An object appears when it is complete; a file of HDFS when it is begun.
        whole = self._files.type_name in ("s3", "gcs", "abfs")
        for file in () if whole else (path, temporary):
            self._files.create_dir(file.rpartition("/")[0])
        stream = self._files.open_output_stream(path if whole else temporary)
        stream.write(content)
        stream.close()
        if not whole:
            self._files.move(temporary, path)

    def delete_folder(self, folder: str) -> None:
        """Removes a folder and all in it, if it exists."""
        if not self._files:
            shutil.rmtree(folder, ignore_errors=True)
        elif self.is_folder(folder):
            _patiently(self._files.delete_dir, _key(folder))


def store_of(path: str) -> Store:
    """The store of a path or a URL; one for each server.

    Raises:
      UsageError: If there is no such store.
    """
    return _connected("/".join(path.split("/")[:3]) if "://" in path else "")


_connected = functools.lru_cache(Store)


def _key(url: str) -> str:
    """A URL for pyarrow: ``bucket/name``, or ``/name`` on HDFS."""
    scheme, _, place = url.partition("://")
    return place if scheme != "hdfs" else "/" + place.partition("/")[2]


def _patiently(act: Callable[..., T], *arguments: Any) -> T:
    """Tries again what a server may do better next time."""
    for seconds in SECONDS_BETWEEN_TRIES:
        try:
            return act(*arguments)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if any(reason in str(error) for reason in _FINAL):
                raise
            time.sleep(seconds * random.uniform(0.5, 1.5))
    return act(*arguments)
