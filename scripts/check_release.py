"""Builds what a release uploads, and tries it as a stranger would.

The wheel and the sdist are built, and checked by twine. Each is installed into an empty
environment and makes a picture there, far from this folder and with an empty home. Uses
uv, which fetches build, twine and cffconvert.

Example:
  python scripts/check_release.py --output=dist
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "dist", "Folder for the wheel and the sdist.")

ROOT = pathlib.Path(__file__).resolve().parents[1]
UV = [sys.executable, "-m", "uv"]
PICTURE = "stylize sample:cat sample:nocturne out.png --size=128 --steps=2"
"""Words of the command that must work after the installation."""


def build(folder: pathlib.Path) -> list[pathlib.Path]:
    """Builds the sdist, and the wheel from it; both must pass twine's check.

    Raises:
      FileExistsError: If the folder has packages of another build.
      CalledProcessError: If a command failed.
    """
    if list(folder.glob("*")):
        raise FileExistsError(f"{folder} is not empty; delete what is in it")
    tool = [*UV, "tool", "run", "--quiet"]
    for command in (
        ["cffconvert", "--validate"],
        ["--from=build", "pyproject-build", f"--outdir={folder}"],
    ):
        subprocess.run([*tool, *command], cwd=ROOT, check=True)
    packages = sorted(folder.iterdir())
    subprocess.run([*tool, "twine", "check", "--strict", *packages], check=True)
    return packages


def try_package(package: pathlib.Path, folder: pathlib.Path) -> None:
    """Installs a package into an environment of its own, and makes a picture.

    Raises:
      CalledProcessError: If a command failed.
    """
    home, programs = folder / "home", folder / "environment" / "bin"
    home.mkdir()
    here = f"--python={programs.parent}"
    subprocess.run([*UV, "venv", "--quiet", programs.parent], check=True)
    subprocess.run([*UV, "pip", "install", "--quiet", here, package], check=True)
    bare = {"HOME": str(home), "PATH": os.defpath, "TF_CPP_MIN_LOG_LEVEL": "3"}
    for words in (["--version"], PICTURE.split()):
        program = [programs / "tfstyle", *words]
        subprocess.run(program, cwd=home, env=bare, check=True)


def main(_: list[str]) -> None:
    """Builds the packages and tries each."""
    for package in build(pathlib.Path(FLAGS.output).resolve()):
        with tempfile.TemporaryDirectory() as folder:
            try_package(package, pathlib.Path(folder))
        print(f"{package.name}: installed, and made a picture", flush=True)


if __name__ == "__main__":
    app.run(main)
