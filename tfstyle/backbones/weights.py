"""Weights files: reads them safely, and writes them."""

from __future__ import annotations

import os
import pathlib
import stat
import zipfile

import numpy as np

from tfstyle.backbones.base import PREPROCESSING, Backbone, Weights
from tfstyle.backbones.weights_hdf5 import check_bytes, read_hdf5
from tfstyle.errors import UsageError
from tfstyle.files import replaced

IMAGENET = "imagenet"
"""Stands for the published weights of a backbone."""

_FORMATS = "a .npz, .h5 or .weights.h5 file"
_MOST_BYTES = 2**31
"""The most that weights may unpack to; VGG-19 with its classifier has a quarter."""


def load_weights(
    backbone: Backbone, weights: str | os.PathLike[str]
) -> tuple[Weights, str]:
    """Reads the weights of a backbone: all that a network reads, in one call.

    Args:
      backbone: The backbone.
      weights: ``imagenet`` for the published weights, or a file.

    Returns:
      The arrays, and the preprocessing that they need, ``caffe`` or ``torch``.

    Raises:
      UsageError: Same as in ``read_weights``.
      TfstyleError: If the published weights cannot be downloaded.
    """
    if str(weights) == IMAGENET:
        return backbone.published_weights(), backbone.preprocessing
    arrays, preprocessing = read_weights(weights)
    return arrays, preprocessing or backbone.preprocessing


def read_weights(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], str | None]:
    """Reads the convolutions of a weights file.

    Args:
      path: A ``.npz`` with arrays ``layer/kernel`` and ``layer/bias``; an ``.h5`` that
        Keras 1 or 2 wrote, of weights or of a whole model; or a ``.weights.h5`` of
        Keras 3.

    Returns:
      The arrays, float32, by ``layer/kernel`` (HWIO) and ``layer/bias``, in the order
      of the file, without layers other than convolutions; and the preprocessing that
      the file asks for, ``caffe`` or ``torch``, or None if it does not say. A
      ``.weights.h5`` of Keras before 3.6 has automatic layer names only (``conv2d``,
      ``conv2d_1``), see ``assign_weights``.

    Raises:
      UsageError: If the file cannot be read, has another format, contains pickled
        objects (which could run code and are not loaded) or something other than
        weights, takes data from another file, is larger than any network, or has no
        convolution.
    """
    path = pathlib.Path(path)
    _check_readable(path)
    suffix, preprocessing = path.suffix.lower(), None
    if suffix == ".npz":
        arrays, preprocessing = _read_npz(path)
    elif suffix in (".h5", ".hdf5"):
        arrays = read_hdf5(path, _MOST_BYTES)
    else:
        raise UsageError(
            f"{path}: not a format that tfstyle reads weights from; give {_FORMATS}, "
            "which model.save_weights('name.weights.h5') writes"
        )
    if not any(a.ndim == 4 for name, a in arrays.items() if name.endswith("/kernel")):
        raise UsageError(
            f"{path}: there is no convolution inside; give the weights of a network, "
            "in .npz as layer/kernel and layer/bias"
        )
    return {name: _numbers(path, name, a) for name, a in arrays.items()}, preprocessing


def _check_readable(path: pathlib.Path) -> None:
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            # Opening a pipe would wait for its other end.
            raise UsageError(f"{path}: is not a regular file; give {_FORMATS}")
        path.open("rb").close()
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be read ({error.strerror}); give {_FORMATS}"
        ) from error


def _numbers(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    """An array of a file as float32; refused if it is not one of finite numbers."""
    if not name.isprintable() or len(name) > 200:
        wrong = "is not a layer name"
    elif array.dtype.kind not in "fiu":
        wrong = f"holds {array.dtype}, not numbers"
    else:
        with np.errstate(over="ignore"):
            array = array.astype("float32")
        if np.isfinite(array).all():
            return array
        wrong = "holds NaN or infinity"
    raise UsageError(f"{path}: {name!a:.60} {wrong}; give the weights of a network")


def _read_npz(path: pathlib.Path) -> tuple[dict[str, np.ndarray], str | None]:
    if not zipfile.is_zipfile(path):
        raise UsageError(f"{path}: not an .npz file, or a damaged one; fetch it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            size = sum(part.file_size for part in file.zip.infolist())
            check_bytes(str(path), size, _MOST_BYTES)
            entries = {name: file[name] for name in file.files}
    except UsageError:
        raise
    except Exception as error:  # NumPy and zipfile raise errors of many types
        if "allow_pickle" in str(error):
            raise UsageError(
                f"{path}: holds pickled objects, which could run code and are not "
                "loaded; save plain arrays with numpy.savez"
            ) from error
        raise UsageError(f"{path}: a damaged .npz file; fetch it again") from error
    asked = entries.pop("preprocessing", None)
    preprocessing = None if asked is None else str(asked)
    if preprocessing not in (*PREPROCESSING, None):
        raise UsageError(
            f"{path}: asks for the preprocessing {preprocessing!a:.40}; "
            f"save it with {' or '.join(PREPROCESSING)}"
        )
    # NumPy returns members that are not arrays as bytes.
    arrays = {
        name: array
        for name, array in entries.items()
        if name.endswith(("/kernel", "/bias")) and getattr(array, "dtype", "O") != "O"
    }
    return arrays, preprocessing


def save_weights(
    path: str | os.PathLike[str], weights: Weights, preprocessing: str | None = None
) -> None:
    """Writes a ``.npz`` for ``read_weights``, whole or not at all.

    Args:
      path: The file, ``.npz``.
      weights: Arrays by ``layer/kernel`` (HWIO) and ``layer/bias``.
      preprocessing: The preprocessing that they need, ``caffe`` or ``torch``; None for
        that of the published weights.

    Raises:
      UsageError: If the extension or the preprocessing is not one of these.
      TfstyleError: If the file cannot be written.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != ".npz":
        raise UsageError(f"{path}: weights are written as .npz; give such a name")
    if preprocessing not in (*PREPROCESSING, None):
        raise UsageError(
            f"{path}: unknown preprocessing {preprocessing!r}; "
            f"give {' or '.join(PREPROCESSING)}"
        )
    entries = dict(weights)
    if preprocessing is not None:
        entries["preprocessing"] = np.array(preprocessing)
    with replaced(path) as temporary:
        np.savez(temporary, **entries)  # type: ignore[arg-type]
