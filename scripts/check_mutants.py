"""Breaks tfstyle in one place at a time and counts how often the tests notice.

Needs cosmic-ray (``pip install cosmic-ray``), which makes the mutants: another
operator, number, condition or exception, a decorator less, a loop that ends at once.
Places are drawn at random, and one mutant of each. Left out are annotations, the texts
of messages, and operators that the operands do not have, such as ``<<`` for the ``/``
of floats: any test would notice those. The tests run in a copy of the repository; a
mutant is killed where one fails or takes far longer than usual.

Example:
  python scripts/check_mutants.py
  python scripts/check_mutants.py --modules=losses/functions --per_module=200 --seed=1
"""

from __future__ import annotations

import collections
import contextlib
import difflib
import importlib.util
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags

FLAGS = flags.FLAGS
# Of each module, the arguments of pytest: tests that may notice, the quickest first.
TESTS = {
    "losses/functions": ["tests/test_losses.py", "tests/test_loss_properties.py"],
    "losses/perceptual": ["tests/test_losses.py"],
    "losses/tiled": [
        "tests/test_tiled.py",
        "-k=tiny or middle or time or guides or targets or entries or equals",
    ],
    "images/loading": ["tests/test_load_image.py", "tests/test_load_errors.py"],
    "images/decoders": [
        "tests/test_hostile_images.py",
        "-k=not process and not command and not crash",
    ],
    "optimizers/loop": ["tests/test_optimizers.py"],
}
flags.DEFINE_multi_enum(
    "modules", list(TESTS), list(TESTS), "Modules to break; repeat the flag for more."
)
flags.DEFINE_integer("per_module", 60, "Mutants of each module.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the choice of mutants.")

ROOT = pathlib.Path(__file__).resolve().parents[1]
_SWAPS = {
    *("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "Pow_Mul", "Mod_FloorDiv"),
    *("FloorDiv_Mul", "FloorDiv_Div", "BitOr_BitAnd", "BitAnd_BitOr"),
}


def find_places(source: str) -> list[list[tuple[str, int]]]:
    """Finds what can be broken.

    Args:
      source: Python code.

    Returns:
      Of each place, its mutants: an operator of cosmic-ray's and its occurrence.
    """
    from cosmic_ray import ast, plugins

    nodes = list(ast.ast_nodes(ast.get_ast(source)))
    places = collections.defaultdict(list)
    for name in sorted(plugins.operator_names()):
        operator_class = plugins.get_operator(name)
        if operator_class.arguments() or not _is_apt(name):
            continue
        positions = (
            (node, position)
            for node in nodes
            for position in operator_class().mutation_positions(node)
        )
        for occurrence, (node, position) in enumerate(positions):
            if not _is_idle(node):
                places[position].append((name, occurrence))
    return [places[position] for position in sorted(places)]


def _is_apt(operator: str) -> bool:
    """Whether operands of what an operator replaces mostly have what replaces it."""
    kind, _, swap = operator.partition("Operator_")
    if kind.endswith("ReplaceBinary"):
        return swap in _SWAPS
    if kind.endswith("ReplaceComparison"):
        old, new = swap.split("_")
        return old.startswith("Is") == new.startswith("Is")
    return True


def _is_idle(node: Any) -> bool:
    """Whether code is in an annotation or a text, or the ``*`` before keywords."""
    while parent := node.parent:
        if parent.type in ("fstring", "tfpdef"):
            return True
        if parent.type == "parameters" and node.type == "operator":
            return True
        if parent.type == "annassign" and node is parent.children[1]:
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        node = parent
    return False


def tests_pass(copy: pathlib.Path, tests: list[str], seconds: float | None) -> bool:
    """Whether the tests of a copy of the repository pass within so many seconds."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0"]
    process = subprocess.Popen(
        [*words, "-p", "no:cacheprovider", *tests],
        cwd=copy,
        env=_environment(copy),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(copy: pathlib.Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(copy)}


def check_module(copy: pathlib.Path, module: str) -> list[str | None]:
    """Tries the mutants of a module.

    Args:
      copy: Copy of the repository, which is left as it was.
      module: Name within tfstyle.

    Returns:
      Of each mutant, its difference if it survived, else None.
    """
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    began = time.monotonic()
    if not tests_pass(copy, TESTS[module], None):
        sys.exit(f"the tests of {module} fail as it is")
    seconds = 30 + 3 * (time.monotonic() - began)
    path = copy / "tfstyle" / f"{module}.py"
    bytecode = pathlib.Path(importlib.util.cache_from_source(str(path)))
    source = path.read_text()
    places = find_places(source)
    rng = random.Random(FLAGS.seed)
    results: list[str | None] = []
    for place in rng.sample(places, min(FLAGS.per_module, len(places))):
        name, occurrence = rng.choice(place)
        mutant = mutate_code(source, get_operator(name)(), occurrence)
        path.write_text(mutant)
        # That of one mutant could be taken for that of the next.
        bytecode.unlink(missing_ok=True)
        survived = tests_pass(copy, TESTS[module], seconds)
        results.append(_difference(source, mutant) if survived else None)
        if survived:
            print(f"{module}.py, {name} survived\n{results[-1]}", flush=True)
    path.write_text(source)
    return results


def _difference(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0)
    return "\n".join(line for line in lines if not re.match(r"(---|\+\+\+) ", line))


def main(argv: list[str]) -> None:
    """Tries the mutants of every module and prints a table."""
    del argv
    table = []
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder).resolve() / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.log")
        )
        where = subprocess.run(
            [sys.executable, "-c", "import tfstyle; print(tfstyle.__file__)"],
            check=True,
            cwd=copy,
            env=_environment(copy),
            capture_output=True,
            text=True,
        ).stdout.strip()
        if not pathlib.Path(where).is_relative_to(copy):
            sys.exit(f"{where} would be tested, not {copy}")
        for module in FLAGS.modules:
            results = check_module(copy, module)
            survived = sum(result is not None for result in results)
            table.append((module, len(results), len(results) - survived, survived))
    print(f"{'module':<18}{'mutants':>9}{'killed':>9}{'survived':>9}{'score':>9}")
    for module, count, killed, survived in table:
        score = f"{killed / count:.0%}"
        print(f"{module:<18}{count:>9}{killed:>9}{survived:>9}{score:>9}")


if __name__ == "__main__":
    app.run(main)
