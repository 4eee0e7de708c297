"""Runs the tests on the oldest and newest versions that setup.cfg claims.

Each row has an environment of its own, made by uv with a Python that is on this machine
or that uv can fetch. A row is a Python version and how uv chooses everything else:
``lowest-direct`` (the lower bounds of setup.cfg), ``highest``, or ``prereleases`` (the
latest of everything, for a weekly look at what is to come).

Example:
  python scripts/check_versions.py
  python scripts/check_versions.py --rows=3.13:prereleases
"""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "rows",
    ["3.10:lowest-direct", "3.11:highest", "3.13:highest"],
    "Python version and choice of the rest: lowest-direct, highest or prereleases.",
)
flags.DEFINE_list("pytest_flags", [], "Further flags of pytest.")
flags.DEFINE_string("output", None, "JSON to write.")

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHOICES = {
    "lowest-direct": ["--resolution=lowest-direct"],
    "highest": [],
    "prereleases": ["--prerelease=allow"],
}
SHOWN = ("tensorflow", "keras", "numpy", "pillow", "gradio", "ray")


def run_row(row: str, folder: pathlib.Path, pytest_flags: list[str]) -> dict:
    """Tests one row; gives its versions and what pytest said.

    Args:
      row: Same as in ``--rows``.
      folder: Where its environment goes.
      pytest_flags: Further flags of pytest.

    Returns:
      ``row``, ``versions``, ``passed``, ``summary`` and ``seconds``.
    """
    version, choice = row.split(":")
    uv = [sys.executable, "-m", "uv"]
    here = f"--python={folder}"  # uv would prefer the environment that it runs in
    began = time.monotonic()
    for command in (
        [*uv, "venv", "--quiet", f"--python={version}", str(folder)],
        [*uv, "pip", "install", "--quiet", here, *CHOICES[choice], f"{ROOT}[test]"],
    ):
        subprocess.run(command, check=True)
    listed = subprocess.run(
        [*uv, "pip", "list", "--quiet", here, "--format=json"],
        check=True,
        capture_output=True,
        text=True,
    )
    versions = {each["name"]: each["version"] for each in json.loads(listed.stdout)}
    tests = subprocess.run(
        [folder / "bin" / "pytest", "-q", *pytest_flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    *_, summary = tests.stdout.strip().splitlines() or [tests.stderr.strip()[-200:]]
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", tests.stdout, re.MULTILINE)
    return {
        "row": row,
        "versions": {name: versions.get(name) for name in SHOWN},
        "passed": tests.returncode == 0,
        "summary": summary.strip("= "),
        "failed": failed,
        "seconds": round(time.monotonic() - began),
    }


def main(argv: list[str]) -> None:
    """Tests every row and prints a line for each."""
    del argv
    results = []
    for row in FLAGS.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "environment"
            results.append(run_row(row, path, FLAGS.pytest_flags))
        result = results[-1]
        versions = ", ".join(f"{k} {v}" for k, v in result["versions"].items())
        print(f"{row}: {result['summary']} ({versions})", flush=True)
        for name in result["failed"]:
            print(f"  {name}", flush=True)
        if FLAGS.output:
            pathlib.Path(FLAGS.output).write_text(json.dumps(results, indent=2) + "\n")
    if not all(result["passed"] for result in results):
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
