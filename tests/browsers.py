"""What tests of pages share: a real Chromium, and axe, which checks accessibility."""

import contextlib
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = Path(__file__).parents[1] / "web" / "node_modules" / "axe-core" / "axe.min.js"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="needs `npm ci` in the folder web"
)


@contextlib.contextmanager
def chromium(*words):
    """A browser, begun with these words."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *words]
        )
        yield browser
        browser.close()
