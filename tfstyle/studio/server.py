"""Serves the page of the studio."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterator

import numpy as np
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfstyle.errors import UsageError
from tfstyle.images.samples import SAMPLES
from tfstyle.networks.style_net import apply_style, load_network
from tfstyle.studio.page import Page
from tfstyle.studio.requests import Limits
from tfstyle.studio.sessions import MOST_SESSIONS
from tfstyle.studio.theme import CSS, theme
from tfstyle.studio.watch import shown

_MOST_WAITING = 64  # runs, before the page says that the queue is full
_KEPT_FOR = 24 * 3600.0  # seconds, of files that visitors have brought or got
_LOOKS_BETWEEN = 3600.0
_THUMBNAIL = 160  # pixels

_POLICY = "; ".join(
    (
        "default-src 'self'",
        # Gradio's page has inline scripts, and its parts compile expressions.
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
    )
)


@contextlib.contextmanager
def serving(
    host: str,
    port: int | None,
    limits: Limits,
    max_upload: int,
    folder: pathlib.Path,
    browser: bool = False,
) -> Iterator[str]:
    """Serves the studio while the block runs.

    Args:
      host: The address to listen at.
      port: The port; None for the first free one from 7860.
      limits: What may be asked for.
      max_upload: Megabytes of a picture file at most.
      folder: Gradio's own, as ``GRADIO_TEMP_DIR`` has it; what is a day old is deleted.
      browser: Whether to open the page.

    Yields:
      The page's address.

    Raises:
      UsageError: If the port is taken, or the address is not this machine's.
    """
    page = Page(limits, _learned_styles())
    blocks = page.build()
    samples = set(folder.rglob("*"))
    blocks.queue(max_size=_MOST_WAITING, api_open=False)
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            inbrowser=browser,
            quiet=True,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=[],
            max_file_size=f"{max_upload}mb",
            allowed_paths=[str(SAMPLES)],
            # Of every tab, open or closed, Gradio keeps what each part shows.
            state_session_capacity=MOST_SESSIONS,
            theme=theme(),
            css=CSS,
            app_kwargs={"middleware": [Middleware(_OwnServerOnly)]},
        )
    except OSError as error:
        raise UsageError(
            f"--host={host} --port={port or 7860}: the studio cannot listen there "
            f"({error}); choose another port"
        ) from error
    ended = threading.Event()
    watch = [folder, samples, ended]
    threading.Thread(target=_forget_files, args=watch, daemon=True).start()
    try:
        yield url
    finally:
        ended.set()
        page.sessions.end_all()
        blocks.close(verbose=False)


def _learned_styles() -> dict[str, np.ndarray]:
    """The styles of the bundled network, each with a small picture in it."""
    photo = SAMPLES / "content" / "cat.jpg"
    return {
        name: shown(apply_style(photo, name, size=_THUMBNAIL))
        for name in load_network().style_names
    }


def _forget_files(
    folder: pathlib.Path, samples: set[pathlib.Path], ended: threading.Event
) -> None:
    """Deletes old files until the studio ends; Gradio's own deletion misses some."""
    while not ended.wait(_LOOKS_BETWEEN):
        _delete_old(folder, samples, time.time() - _KEPT_FOR)


def _delete_old(folder: pathlib.Path, kept: set[pathlib.Path], oldest: float) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):  # files before their folders
        with contextlib.suppress(OSError):  # gone, or a folder with newer files
            if path in kept or path.lstat().st_ctime >= oldest:
                continue
            path.rmdir() if path.is_dir() else path.unlink()


class _OwnServerOnly:
    """Tells browsers to ask no other server for anything on behalf of the page."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = _POLICY
            await send(message)

        await self._app(scope, receive, send_with_policy)
