"""Tests of scripts/check_mutants.py."""

import pytest
from conftest import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("check_mutants")


def test_modules_and_their_tests_exist(script):
    for module, words in script.TESTS.items():
        assert (script.ROOT / "tfstyle" / f"{module}.py").is_file()
        files = [word for word in words if not word.startswith("-k")]
        assert files and all((script.ROOT / file).is_file() for file in files)


def mutants_of(script, source):
    mutating = pytest.importorskip("cosmic_ray.mutating")
    from cosmic_ray.plugins import get_operator

    return [
        sorted(
            mutating.mutate_code(source, get_operator(name)(), occurrence).strip()
            for name, occurrence in place
        )
        for place in script.find_places(source)
    ]


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("a + b", [["a - b"]]),
        ("a / b + b / c", [["a * b + b / c"], ["a / b - b / c"], ["a / b + b * c"]]),
        ("a is None", [["a is not None"]]),
        ("x = 2", [["x = 1", "x = 3"]]),
        ("f'{a + 1}'", []),
        ("def f(a: b | 1, *, c: d | 1) -> e | 1: pass", []),
        ("a: b[c | d] = e + f", [["a: b[c | d] = e - f"]]),
    ],
)
def test_mutants_are_of_behaviour(script, source, mutants):
    assert mutants_of(script, source) == mutants


@pytest.mark.parametrize(
    ("body", "seconds", "passes"),
    [
        ("pass", 60.0, True),
        ("assert False", 60.0, False),
        ("import time; time.sleep(60)", 1.0, False),
    ],
)
def test_what_fails_or_hangs_does_not_pass(script, tmp_path, body, seconds, passes):
    (tmp_path / "test_a.py").write_text(f"def test_a(): {body}\n")
    assert script.tests_pass(tmp_path, ["test_a.py"], seconds) == passes


def test_the_code_of_the_copy_is_tested(script, tmp_path):
    (tmp_path / "tfstyle.py").write_text("here = True\n")
    (tmp_path / "test_a.py").write_text(
        "import tfstyle\ndef test_a(): assert tfstyle.here\n"
    )
    assert script.tests_pass(tmp_path, ["test_a.py"], 60.0)
