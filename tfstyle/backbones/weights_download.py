"""Published weights: downloaded once, into Keras's cache."""

from __future__ import annotations

import os
import pathlib

import keras

from tfstyle.errors import TfstyleError


def keras_models_folder() -> pathlib.Path:
    """The folder in which ``keras.utils.get_file`` keeps weights.

    Keras falls back to ``/tmp`` if it may not write to the usual folder, and has no
    public name for the result.
    """
    home = pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    if not os.access(home, os.W_OK):
        home = pathlib.Path("/tmp/.keras")
    return home / "models"


def download(url: str, digest: str) -> pathlib.Path:
    """Returns a weights file from Keras's cache, downloading it if it is not there.

    Args:
      url: Address of the file; the name in the cache is its last part.
      digest: MD5 or SHA-256 of the file, in hexadecimal. A file in the cache with
        another digest is downloaded again.

    Raises:
      TfstyleError: If the file cannot be downloaded, or has another digest. The message
        says how to go on without a download.
    """
    name = url.rpartition("/")[2]
    folder = keras_models_folder()
    try:
        path = keras.utils.get_file(
            name, url, cache_subdir=str(folder), file_hash=digest
        )
    # `keras.utils.get_file` raises plain Exceptions.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.removeprefix(f"URL fetch failure on {url}: ")
        raise TfstyleError(
            f"{name}: could not be downloaded ({reason.removeprefix('None -- ')}); "
            f"download it from {url} and put it into {folder}, or give it as "
            "--weights=PATH; or use --backbone=slim19, which comes with tfstyle"
        ) from error
    return pathlib.Path(path)
