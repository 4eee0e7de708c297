"""The documentation as a site, in a real browser.

``TFSTYLE_SITE`` names the folder that ``mkdocs build`` has written.
"""

import functools
import http.server
import os
import threading
from pathlib import Path

import pytest
from browsers import AXE, chromium, needs_axe, needs_chromium

pytest.importorskip("playwright.sync_api")
SITE = Path(os.environ.get("TFSTYLE_SITE", "site"))
pytestmark = [
    needs_chromium,
    needs_axe,
    pytest.mark.skipif(
        not (SITE / "index.html").is_file(), reason="needs TFSTYLE_SITE, a built site"
    ),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *_):
        """Says nothing."""


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=SITE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_every_page_is_accessible_fits_and_asks_no_other_host(
    browser, address, scheme, width
):
    pages = sorted(page.relative_to(SITE) for page in SITE.rglob("index.html"))
    assert len(pages) > 30
    foreign, found = [], {}
    viewport = {"width": width, "height": 900}
    with browser.new_context(viewport=viewport, color_scheme=scheme) as context:
        page = context.new_page()
        own = (address, "data:", "blob:")
        page.on("request", lambda r: r.url.startswith(own) or foreign.append(r.url))
        for path in pages:
            page.goto(f"{address}{path.parent}/")
            page.wait_for_selector("[data-md-component=content]")
            page.wait_for_timeout(200)  # the theme adds buttons and scroll bars
            page.evaluate(AXE.read_text(encoding="utf-8"))
            wrong = page.evaluate(
                "axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))"
            )
            if page.evaluate("document.documentElement.scrollWidth") > width:
                wrong.append("wider than the window")
            if wrong:
                found[str(path)] = wrong
    assert not found
    assert not foreign
