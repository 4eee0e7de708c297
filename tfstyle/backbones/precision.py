"""The precision that networks are computed in, and what the CPU is good at."""

from __future__ import annotations

import functools
import os
import pathlib

import tensorflow as tf

CPUINFO = pathlib.Path("/proc/cpuinfo")
_INSTRUCTIONS = {"avx512_bf16", "amx_bf16"}


def dtype_policy(precision: str) -> str:
    """Keras's dtype policy for a precision.

    Args:
      precision: ``float32``; ``bfloat16`` with weights in float32; ``auto`` for
        ``bfloat16`` where ``multiplies_bfloat16``, else ``float32``; or any policy of
        Keras.

    Returns:
      The name of the policy.
    """
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16() else "float32"
    return {"bfloat16": "mixed_bfloat16"}.get(precision, precision)


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this is a CPU with instructions that multiply bfloat16.

    TensorFlow then has products of twice the speed, which oneDNN adds up in float32.
    Elsewhere it may emulate them, or add up in bfloat16, which has 8 bits and stands
    still after 256 equal parts of a sum. Of GPUs nothing is known here.
    """
    one_dnn = os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0"
    if not one_dnn or not CPUINFO.exists() or tf.config.list_physical_devices("GPU"):
        return False
    return not _INSTRUCTIONS.isdisjoint(CPUINFO.read_text().split())
