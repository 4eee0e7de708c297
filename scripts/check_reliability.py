"""Tries all that docs/reliability.md tells of, one thing after another.

All of it takes hours on two cores; each part can be run alone. What a part
prints goes to the screen, and at the end a table says what each came to.

Example:
  python scripts/check_reliability.py
  python scripts/check_reliability.py --parts=load,batch
"""

from __future__ import annotations

import pathlib
import subprocess
import sys
import time

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = {
    "tests": "-m pytest",
    "slow": "-m pytest -m slow",
    "fuzz": "scripts/fuzz_images.py --minutes=31",
    "load": "scripts/load_studio.py --users=20 --minutes=10 --runs_per_tab=1",
    "batch": "scripts/measure_batch.py --pictures=10000 --side=64 --repeats=1",
    "versions": "scripts/check_versions.py",
    "mutants": "scripts/check_mutants.py",
    "audit": "-m pip_audit --requirement=requirements.lock",
}
"""Arguments of Python by the name of the part."""

FLAGS = flags.FLAGS
flags.DEFINE_list("parts", list(PARTS), "What to try.")
flags.register_validator(
    "parts",
    lambda parts: set(parts) <= set(PARTS),
    f"give some of {','.join(PARTS)}",
)


def main(_: list[str]) -> None:
    """Runs the parts; exits with 1 if one fails."""
    rows, failed = [], False
    for part in FLAGS.parts:
        print(f"== {part}: python {PARTS[part]}", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, *PARTS[part].split()], cwd=ROOT)
        minutes = (time.monotonic() - began) / 60
        failed |= done.returncode != 0
        outcome = (
            f"failed with exit code {done.returncode}" if done.returncode else "ok"
        )
        rows.append(f"| {part} | {outcome} | {minutes:.1f} min |")
    print("\n| part | outcome | time |\n|---|---|---|", *rows, sep="\n")
    sys.exit(failed)


if __name__ == "__main__":
    app.run(main)
