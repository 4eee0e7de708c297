"""The precision of networks, and whether this CPU multiplies bfloat16."""

from __future__ import annotations

import functools
import os
import pathlib

import tensorflow as tf

from tfstyle.errors import UsageError

CPUINFO = pathlib.Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}
_POLICIES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float64": "float64",
}


def dtype_policy(precision: str) -> str:
    """Returns the name of Keras's dtype policy for a precision.

    Args:
      precision: ``float32``; ``bfloat16``, which keeps weights in float32; ``float64``;
        or ``auto``: ``bfloat16`` if ``multiplies_bfloat16()``, else ``float32``.
        float16 is not offered, because products of Gram matrices overflow in it.

    Raises:
      UsageError: If there is no such precision.
    """
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16() else "float32"
    if precision not in _POLICIES:
        names = ", ".join(_POLICIES)
        raise UsageError(f"precision={precision!r}: give auto, {names}")
    return _POLICIES[precision]


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions that multiply bfloat16.

    With them, products take half the time and oneDNN sums them in float32. Without
    them, TensorFlow may emulate the products or sum them in bfloat16; its 8 bits lose
    each summand that is below 1/256 of the sum. Not known for GPUs.
    """
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    if not one_dnn or not CPUINFO.exists() or tf.config.list_physical_devices("GPU"):
        return False
    return not _INSTRUCTIONS.isdisjoint(CPUINFO.read_text().split())
