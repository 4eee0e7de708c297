"""What the documentation needs beside MkDocs; ``mkdocs.yml`` names it as a hook.

* The pages of the command line and of the options are generated from the options.
* ``CHANGELOG.md`` and ``SECURITY.md`` are pages of the site, too.
* Links to files that are pages here, under other names, lead to these pages. In the
  repository they lead to the files.
* Formulas, in fences that are called ``math``, become MathML, which browsers show
  without a script.
* A page that loads anything from another host is refused.
"""

from __future__ import annotations

import importlib
import pathlib
import posixpath
import re
import textwrap
from collections.abc import Iterable
from typing import Any

from absl import flags
from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from tfstyle.cli.flags import OUTPUT, argument, define, grouped
from tfstyle.cli.main import COMMANDS
from tfstyle.options import Options, TrainingOptions
from tfstyle.options.fields import OptionField, fields_of
from tfstyle.options.text import default_text

ROOT = pathlib.Path(__file__).resolve().parents[1]
COPIED = {"changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
LINKED = {**COPIED, "reference/options.md": "tfstyle/options/options.py"}
"""Files of the repository by the pages that links to them lead to."""

COMMAND_LINE = """
# Command line

`tfstyle COMMAND --flag=value …`. These pages show what `tfstyle COMMAND --help` shows.

| command | what it does |
|---|---|
{rows}

- Flags may be written `--flag=value` or `--flag value`, in any order. Switches are
  `--flag` or `--noflag`.
- `--flagfile=FILE` reads flags from a file, one on a line.
- What the [exit codes](../../faq.md#what-do-the-exit-codes-mean) mean.
"""
OPTIONS = """
# Options

Keywords of `Stylizer`, `stylize`, `invert_features`, `synthesize_texture` and `sweep`,
and fields of [`tfstyle.Options`](api.md#tfstyle.Options). On the command line,
`size=768` is `--size=768`.
"""
OF_TRAINING = """
## Training

Keywords of `train`, and fields of
[`tfstyle.TrainingOptions`](api.md#tfstyle.TrainingOptions). The options above that are
about the network, style and content apply, too.
"""

_MATH = re.compile(r"^```math\n(.*?)^```\n", re.M | re.S)
_SEARCH = '<div class="md-search" data-md-component="search"'
_FLAG = re.compile(r"(?<!\w)(--\w+(?:=\w+)?)")
_LOADS = re.compile(
    r"<(?:script|img|source|iframe|video|link(?=[^>]*rel=\"?(?:stylesheet|preconnect"
    r"|preload|icon)))[^>]*?\b(?:src|href)=\"?(?:https?:)?//[^>]*>"
)


def on_files(files: Files, config: Any) -> Files:
    """Adds the generated pages and the copied ones."""
    pages = {"reference/commands/index.md": index(), "reference/options.md": options()}
    pages |= {f"reference/commands/{name}.md": command(name) for name in COMMANDS}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    for path, source in COPIED.items():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turns formulas into MathML, and links to files into links to pages."""
    folder = posixpath.dirname(page.file.src_uri)
    for target, file in LINKED.items():
        in_repository = posixpath.relpath(file, f"docs/{folder}")
        here = posixpath.relpath(target, folder)
        markdown = markdown.replace(f"]({in_repository}", f"]({here}")
    return _MATH.sub(lambda found: convert(found[1], display="block") + "\n", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuses pages that load something from elsewhere, and names the search."""
    if found := _LOADS.search(output):
        raise PluginError(f"{page.file.src_uri} loads from another host: {found[0]}")
    return output.replace(_SEARCH, f'{_SEARCH} aria-label="Search"')


def index() -> str:
    """The page that lists all commands."""
    rows = [f"| [`{name}`]({name}.md) | {text} |" for name, text in COMMANDS.items()]
    return COMMAND_LINE.format(rows="\n".join(rows))


def command(name: str) -> str:
    """The page of a command."""
    module = importlib.import_module(f"tfstyle.cli.{name}")
    values = flags.FlagValues()
    module.define_flags(values)
    debug = "Show where in the code an error came from."
    define(values, [argument("debug", debug, OUTPUT, hint=bool, default=False)])
    parts = [f"# tfstyle {name}", ""]
    for text in (module.__doc__ or "").strip().split("\n\n"):
        is_example = text.startswith("tfstyle ")
        parts += [f"```sh\n{wrapped(text)}\n```" if is_example else text, ""]
    if positional := getattr(module, "POSITIONAL", ()):
        named = ", ".join(f"`--{flag}`" for flag in positional)
        parts += [f"May be given without their names, in this order: {named}.", ""]
    for group, fields in grouped(values).items():
        parts += [f"## {group}", "", *entries(fields, "--")]
    return "\n".join(parts)


def wrapped(line: str) -> str:
    """A command on as many lines as it needs."""
    return " \\\n    ".join(textwrap.wrap(line, 72, break_on_hyphens=False))


def options() -> str:
    """The page of the options that Python and the command line have in common."""
    parts = [OPTIONS]
    groups: dict[str, list[OptionField]] = {}
    for field in fields_of(Options):
        groups.setdefault(field.group, []).append(field)
    for group, fields in groups.items():
        parts += [f"## {group}", "", *entries(fields, "")]
    known = {field.name: field for field in fields_of(Options)}
    own = [
        field for field in fields_of(TrainingOptions) if known.get(field.name) != field
    ]
    return "\n".join([*parts, OF_TRAINING, *entries(own, "")])


def entries(fields: Iterable[OptionField], dashes: str) -> list[str]:
    """A list of options: name, what values it takes, default, what it does."""
    lines = []
    for field in fields:
        facts = [text] if (text := accepted(field)) else []
        if default := default_text(field):
            facts.append(f"default {default}" if field.by else f"default `{default}`")
        text = _FLAG.sub(r"`\1`", field.help)
        told = f" *{'; '.join(facts)}*" if facts else ""
        lines += [f"`{dashes}{field.name}`{told}", f":   {text}", ""]
    return lines


def accepted(field: OptionField) -> str:
    """What values an option takes; empty where that is plain."""
    if field.choices:
        return ", ".join(f"`{choice}`" for choice in field.choices)
    nouns = {
        "bool": "yes or no",
        "int": "whole number",
        "float": "number",
        "ints": "whole numbers",
        "floats": "numbers",
        "layers": "layers",
        "text": "",
    }
    return ", ".join(filter(None, [nouns[field.kind], field.range]))
