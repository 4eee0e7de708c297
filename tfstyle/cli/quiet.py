"""Hides what TensorFlow, Keras and matplotlib print of their own."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import sys
import types
from collections.abc import Iterator

from tfstyle.cli.signals import check_interrupts
from tfstyle.extras import silent_stderr

_X86 = ("x86_64", "amd64")


def import_tensorflow(*, find_devices: bool = True) -> types.ModuleType:
    """Imports TensorFlow and looks for devices, without their messages.

    Convolutions are computed by oneDNN, unless the environment says otherwise.

    Args:
      find_devices: Whether to look for devices. Several machines must be connected
        first.

    Returns:
      TensorFlow.

    Raises:
      KeyboardInterrupt: If Ctrl-C came meanwhile.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine().lower() in _X86:
        # TensorFlow by itself uses oneDNN only where there is AVX-512.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    announce_loading("TensorFlow", "tensorflow")
    with silent_stderr():
        import tensorflow as tf

        # Its warnings are for programmers.
        tf.get_logger().setLevel("ERROR")
        for gpu in tf.config.list_physical_devices("GPU"):
            with contextlib.suppress(RuntimeError):  # it is in use already
                tf.config.experimental.set_memory_growth(gpu, True)
        if find_devices:
            tf.zeros([1])  # the first tensor makes the devices, and their messages
    check_interrupts()
    return tf


def announce_loading(name: str, module: str) -> None:
    """Tells a person at a terminal what takes the next seconds.

    Args:
      name: The library, for the message.
      module: Its module; nothing is printed if it is imported already.
    """
    if module not in sys.modules and sys.stderr.isatty():
        print(f"tfstyle: loading {name} …", file=sys.stderr, flush=True)


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
