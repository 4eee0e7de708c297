"""What ``tfstyle web`` serves and what it refuses."""

import json
import urllib.error
import urllib.request

import pytest

from tfstyle.cli.web import serving

pytestmark = pytest.mark.fast


@pytest.fixture
def page(tmp_path):
    (tmp_path / "headers.json").write_text(json.dumps({"Content-Security-Policy": "x"}))
    (tmp_path / "index.html").write_text("<p>the page")
    (tmp_path / "ort").mkdir()
    (tmp_path / "ort" / "a.mjs").write_text("export {}")
    (tmp_path / "ort" / "a.wasm").write_bytes(b"\0asm")
    return tmp_path


def test_files_have_their_types_and_the_headers_of_the_page(page):
    with serving(page) as url:
        for path, kind in (
            *(("", "text/html"), ("ort/a.mjs", "text/javascript")),
            ("ort/a.wasm", "application/wasm"),
        ):
            with urllib.request.urlopen(url + path) as answer:
                assert answer.headers["Content-Type"].startswith(kind)
                assert answer.headers["Content-Security-Policy"] == "x"


@pytest.mark.parametrize("path", ["ort/", "..%2f..%2fetc/passwd", "no.js"])
def test_nothing_else_is_served(page, path):
    with serving(page) as url, pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(url + path)


def test_a_page_that_is_not_built_is_told(refused, tmp_path):
    code, said = refused("web", "--nobrowser", f"--page={tmp_path}")
    assert code == 2
    assert str(tmp_path) in said and "--page" in said and "npm run build" in said


def test_a_port_that_is_taken_is_told(refused, page):
    with serving(page) as url:
        port = url.split(":")[-1].strip("/")
        code, said = refused("web", "--nobrowser", f"--page={page}", f"--port={port}")
    assert code == 2 and f"--port={port}" in said
