"""What the server keeps of each tab of a browser: its run and its results."""

from __future__ import annotations

import collections
import dataclasses
import pathlib
import shutil
import tempfile
import threading

import gradio as gr
import numpy as np
from PIL import Image

from tfstyle.studio.watch import Update

MOST_SESSIONS = 256
"""Tabs that the server remembers."""

_MOST_RESULTS = 24  # that a session keeps


@dataclasses.dataclass(frozen=True)
class Entry:
    """A result of a session, as its history has it.

    Attributes:
      preview: File of the result, no larger than the page shows it.
      content: File of the content picture, if there is one to compare with.
      update: What the page was told at last.
    """

    preview: pathlib.Path
    content: str | None
    update: Update


@dataclasses.dataclass
class Session:
    """What the server keeps of one tab of a browser.

    Attributes:
      folder: Where its results are.
      stop: Ends its run.
      history: Its results.
      shown: The result on the page.
      comparing: Whether the page compares it with the content picture.
    """

    folder: tempfile.TemporaryDirectory[str]
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    history: collections.deque[Entry] = dataclasses.field(
        default_factory=collections.deque
    )
    shown: Entry | None = None
    comparing: bool = False

    def keep(self, preview: np.ndarray, content: str | None, update: Update) -> Entry:
        """Puts a result in the history, on disk, where the oldest makes room."""
        if len(self.history) == _MOST_RESULTS:
            shutil.rmtree(self.history.popleft().preview.parent, ignore_errors=True)
        file = update.files[0].with_name("preview.webp")
        Image.fromarray(preview).save(file, lossless=True)
        told = dataclasses.replace(update, preview=None, losses=None)
        self.history.append(Entry(file, content, told))
        return self.history[-1]

    def end(self) -> None:
        """Ends its run and forgets its results."""
        self.stop.set()
        self.folder.cleanup()


class Sessions:
    """The sessions of a server, of which those least in use are forgotten."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        """The session of a tab."""
        key = str(request.session_hash)
        with self._lock:
            session = self._sessions.pop(key, None)
            if session is None:
                session = Session(tempfile.TemporaryDirectory(prefix="tfstyle-studio-"))
            self._sessions[key] = session  # the last one in use
            if len(self._sessions) > MOST_SESSIONS:
                self._sessions.pop(next(iter(self._sessions))).end()
            return session

    def end(self, request: gr.Request) -> None:
        """Ends the run of a tab that was closed, and forgets its results."""
        with self._lock:
            session = self._sessions.pop(str(request.session_hash), None)
        if session:
            session.end()

    def end_all(self) -> None:
        """Ends every run."""
        with self._lock:
            sessions = list(self._sessions.values())
        for session in sessions:
            session.end()
