"""Style transfer inside the browser: no server computes, no picture leaves the device.

tfstyle web

The page is static files, which any host can serve. In a checkout, npm builds it:

cd web && npm ci && npm run build
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import pathlib
import threading
import webbrowser
from collections.abc import Iterator

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import ADDRESS, argument, define
from tfstyle.cli.signals import signal_awaited
from tfstyle.errors import UsageError

PAGE = pathlib.Path(__file__).parents[2] / "web" / "dist"
"""Where the page is in a checkout, once it is built."""

_PORTS = range(8000, 8100)


def define_flags(values: flags.FlagValues) -> None:
    """The page, and where it is served."""
    define(
        values,
        [
            argument(
                "page",
                "Folder of the built page. Default: web/dist of the checkout.",
                ADDRESS,
            ),
            arguments.port(
                f"Port on this machine. Default: the first free one from {_PORTS[0]}."
            ),
            arguments.BROWSER,
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Serves the page until a signal comes."""
    wait = signal_awaited()
    with serving(pathlib.Path(values.page or PAGE), values.port) as url:
        print(f"tfstyle web: {url} (Ctrl-C ends it)", flush=True)
        if values.browser:
            webbrowser.open(url)
        return wait()


@contextlib.contextmanager
def serving(page: pathlib.Path, port: int | None = None) -> Iterator[str]:
    """Serves the page on this machine while the block runs.

    Args:
      page: The folder of the built page.
      port: The port; None for the first free one from 8000.

    Yields:
      The page's address.

    Raises:
      UsageError: If the folder has no built page, or the port is taken.
    """
    if not (page / "headers.json").is_file():
        raise UsageError(
            f"there is no built page in {page}; run 'npm ci && npm run build' in the "
            "folder web of a checkout of tfstyle, and name web/dist by --page"
        )
    headers = json.loads((page / "headers.json").read_text(encoding="utf-8"))
    handler = functools.partial(_Handler, headers, directory=str(page))
    with _listening(port, handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def _listening(
    port: int | None, handler: functools.partial
) -> http.server.ThreadingHTTPServer:
    problem: OSError | None = None
    for number in [port] if port else _PORTS:
        try:
            return http.server.ThreadingHTTPServer(("127.0.0.1", number), handler)
        except OSError as error:
            problem = error
    raise UsageError(
        f"port={port or _PORTS[0]}: cannot listen there ({problem}); choose another"
    )


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Static files with the page's headers, and no lists of folders."""

    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        # Some systems know them by other types, which browsers refuse.
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wasm": "application/wasm",
        ".webmanifest": "application/manifest+json",
    }

    def __init__(self, headers: dict[str, str], *args: object, directory: str):
        self._headers = headers
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def end_headers(self) -> None:
        for name, value in self._headers.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> io.BytesIO | None:
        self.send_error(http.HTTPStatus.NOT_FOUND)
        return None

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""
