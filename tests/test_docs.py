"""What README.md and docs/ show: their commands, snippets, links and lists of names."""

import ast
import importlib
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

import tfstyle
from tfstyle.cli.flags import parse
from tfstyle.cli.main import COMMANDS
from tfstyle.errors import TfstyleError, UsageError

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for kind, text in found if kind == language]


def commands() -> list[list[str]]:
    """The words of each command that a page shows, without ``tfstyle``."""
    lines = [
        shlex.split(part, comments=True)
        for page in PAGES
        for block in blocks(page, "sh")
        for part in re.split(r"\n|&&", block.replace("\\\n", ""))
    ]
    for line in lines:
        if "exec" in line:  # on a cluster; the command is one word or the rest
            rest = line[line.index("--") + 1 :] if "--" in line else line[-1].split()
            line[:] = rest
    return [line[1:] for line in lines if line[:1] == ["tfstyle"] and line[1:]]


def slug(heading: str) -> str:
    text = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
    return re.sub(r"[\s-]+", "-", text)


@pytest.mark.fast
def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.fast
def test_readme_has_the_test_command_that_ci_runs():
    (command,) = [b.strip() for b in blocks(README, "sh") if "pytest" in b]
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.fast
def test_readme_lists_all_commands():
    listed = re.findall(r"^\| `tfstyle (\w+)`", README.read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.fast
@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_that_pages_show_have_flags_that_exist(words):
    name = words[0]
    module = importlib.import_module(f"tfstyle.cli.{name}")
    values = flags.FlagValues()
    module.define_flags(values)
    words = [word for word in words if not word.startswith("--from_image")]
    kind = getattr(module, "PRESETS", "run")
    parse(values, words, getattr(module, "POSITIONAL", ()), kind)


@pytest.mark.fast
def test_pages_show_every_command():
    assert {words[0] for words in commands()} == set(COMMANDS)


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_use_names_that_exist(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.value.id != "tfstyle" or node.attr in dir(tfstyle)


@pytest.mark.fast
@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.stem)
def test_links_lead_to_files_of_the_repository(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = link.partition("#")
        if "://" in link or path == "mailto":
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_file() and target.is_relative_to(ROOT), link
        # The reference of functions is generated: its anchors are on the site alone.
        if anchor and target.name != "api.md":
            text = target.read_text(encoding="utf-8")
            assert anchor in [slug(h) for h in re.findall(r"^#+ (.+)", text, re.M)]


@pytest.mark.fast
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_column_of_a_table_has_a_name(page):
    text = page.read_text(encoding="utf-8")
    for header in re.findall(r"^(\|.*\|)\n\|[-| :]+\|$", text, re.M):
        assert all(cell.strip() for cell in header.strip("|").split("|")), header


@pytest.mark.fast
def test_faq_has_every_exit_code():
    faq = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", faq, re.M)}
    signals = {128 + number for number in (signal.SIGINT, signal.SIGTERM)}
    errors = {TfstyleError.exit_code, UsageError.exit_code}
    assert listed == {0, *errors, *signals, 128 + signal.SIGPIPE}


@pytest.mark.fast
def test_reference_has_every_public_name():
    reference = (ROOT / "docs" / "reference" / "api.md").read_text()
    names = set(re.findall(r"^::: tfstyle\.(\w+)", reference, re.M))
    public = {name for name in tfstyle.__all__ if not name.startswith("_")}
    assert public <= names


def test_first_command_of_the_readme_makes_a_picture(tmp_path):
    words = next(words for words in commands() if words[0] == "stylize")
    small = ["--size=48", "--steps=1", "--scales=1"]
    out = tmp_path / words.pop()
    subprocess.run(
        [sys.executable, "-m", "tfstyle", *words, str(out), *small],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    assert tfstyle.load_image(out).shape == (1, 32, 48, 3)
