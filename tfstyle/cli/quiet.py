"""Keeps to itself what TensorFlow, Keras and matplotlib print of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import types
from collections.abc import Iterator

from tfstyle.backend import check_backend
from tfstyle.cli.signals import check_interrupts
from tfstyle.extras import silent_stderr


def import_tensorflow(*, find_devices: bool = True) -> types.ModuleType:
    """Imports TensorFlow and looks for devices, without their messages.

    At a terminal, a line says what takes these seconds.

    Args:
      find_devices: Whether to; several machines must know of each other before that.

    Returns:
      TensorFlow.

    Raises:
      UsageError: If Keras is told to use another backend.
      KeyboardInterrupt: If Ctrl-C came meanwhile.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    check_backend()
    if "tensorflow" not in sys.modules and sys.stderr.isatty():
        print("tfstyle: loading TensorFlow …", file=sys.stderr, flush=True)
    with silent_stderr():
        import tensorflow as tf

        # Each run has a graph of its own, of which TensorFlow would warn.
        tf.get_logger().setLevel("ERROR")
        for gpu in tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # it is in use already
                tf.config.experimental.set_memory_growth(gpu, True)
        if find_devices:
            tf.zeros([1])  # the first tensor makes the devices, and their messages
    check_interrupts()
    return tf


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Leaves standard output to tfstyle while a run goes on.

    Keras reports its downloads there. A person at a terminal sees them on standard
    error, and a script does not.
    """
    import keras

    # Its first plot on a machine announces that it looks for fonts.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    if sys.stderr.isatty():
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    interactive = keras.utils.is_interactive_logging_enabled()
    keras.utils.disable_interactive_logging()
    try:
        yield
    finally:
        if interactive:
            keras.utils.enable_interactive_logging()
