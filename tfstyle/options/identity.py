"""Tells whether a run that is to go on is the same as the one that was begun."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.files import PathLike

SETTINGS = ".tfstyle.json"
"""The file in a folder of results that tells how they were made."""

_LONGEST_SHOWN = 40  # a digest is longer, and says nothing to a reader


def check_same(
    place: str | os.PathLike[str],
    saved: Mapping[str, Any],
    now: Mapping[str, Any],
    way_out: str,
) -> None:
    """Refuses to go on with a run that was begun with other settings.

    Args:
      place: The file or folder that keeps the run, for the message.
      saved: Settings by name as they were when the run was begun. Names that ``now``
        lacks are ignored.
      now: The settings of this call, of the same types.
      way_out: What the user can do, for the end of the message.

    Raises:
      UsageError: If a setting differs; the message names each one.
    """
    different = [name for name, value in now.items() if saved.get(name) != value]
    if different:
        shown = ", ".join(_difference(name, saved, now) for name in different)
        raise UsageError(f"{place}: was begun with other settings: {shown}; {way_out}")


def settings_text(settings: Mapping[str, Any]) -> str:
    """What the file ``SETTINGS`` has in it; values must be of types that JSON has."""
    return json.dumps(dict(settings), indent=1)


def parse_settings(saved: str | bytes, file: PathLike, way_out: str) -> dict[str, Any]:
    """Reads settings that an earlier run has written.

    Args:
      saved: What the file has in it.
      file: The file, for the message.
      way_out: What the user can do, for the end of the message.

    Raises:
      UsageError: If the file is damaged.
    """
    try:
        return dict(json.loads(saved))
    except (ValueError, TypeError) as error:
        raise UsageError(f"{file}: is damaged ({error}); {way_out}") from error


def check_results(
    folder: str | os.PathLike[str],
    saved: str | bytes,
    settings: Mapping[str, Any],
    way_out: str,
) -> None:
    """Refuses a folder that has results of other settings.

    Args:
      folder: The folder, for the message.
      saved: What its file ``SETTINGS`` has in it.
      settings: The settings of this call; ``command`` is one of them.
      way_out: What the user can do, for the end of the message.

    Raises:
      UsageError: If a setting differs, or the file is damaged.
    """
    before = parse_settings(saved, f"{os.fspath(folder)}/{SETTINGS}", "delete it")
    now = json.loads(settings_text(settings))
    # The settings of two commands have little in common that could be compared.
    check_same(folder, before, {"command": now["command"]}, way_out)
    # A setting that this call does not have is a difference, too.
    check_same(folder, before, {**dict.fromkeys(before), **now}, way_out)


def digest(value: Any) -> str:
    """A short text that differs for different arrays, lists of arrays or None.

    Args:
      value: A NumPy array, a list of such values, or anything with a ``str``.

    Returns:
      A SHA-256 in hexadecimal for arrays and lists; otherwise ``str(value)``.
    """
    if isinstance(value, np.ndarray):
        found = hashlib.sha256(repr(value.shape).encode())
        found.update(np.ascontiguousarray(value).reshape(-1).data)  # copies no picture
        return found.hexdigest()
    if isinstance(value, list):
        return hashlib.sha256("".join(map(digest, value)).encode()).hexdigest()
    return str(value)


def _difference(name: str, saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    before, after = str(saved.get(name)), str(now[name])
    if max(len(before), len(after)) > _LONGEST_SHOWN:
        return name
    return f"{name} ({printable(before)}, now {after})"


def printable(value: Any) -> str:
    """The beginning of a value from a file, safe to show in a one-line message."""
    text = str(value)[:_LONGEST_SHOWN]
    return text if text.isprintable() else ascii(text)
