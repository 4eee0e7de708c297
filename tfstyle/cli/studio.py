"""A page in the browser: drop pictures, watch the result form, keep it.

tfstyle studio

tfstyle studio --port=8080 --nobrowser --max_size=1024
"""

from __future__ import annotations

import os
import pathlib
import signal
import tempfile
import threading

from absl import flags

from tfstyle.backend import check_backend
from tfstyle.cli import run as runs
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries
from tfstyle.cli.signals import check_interrupts
from tfstyle.errors import UsageError
from tfstyle.studio.requests import Limits


def define_flags(values: flags.FlagValues) -> None:
    """Address and limits."""
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "Address to listen at; 0.0.0.0 lets the whole network in, without a password.",
        values,
    )
    flags.DEFINE_integer(
        "port",
        None,
        "Port. Default: the first free one from 7860.",
        1,
        65535,
        flag_values=values,
    )
    flags.DEFINE_bool("browser", True, "Open the page.", values)
    flags.DEFINE_integer(
        "max_size",
        Limits.size,
        "Longest side in pixels of pictures that the page may ask for.",
        64,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_upload", 50, "Megabytes of a picture file at most.", 1, flag_values=values
    )
    flags.DEFINE_float(
        "max_memory",
        Limits.memory,
        "Gigabytes of memory that a run may take. 0: a safe share of what there is.",
        0.0,
        flag_values=values,
    )


def run(values: flags.FlagValues) -> int:
    """Serves the page until a signal comes."""
    check_backend()
    limits = Limits(
        size=values["max_size"].value or Limits.size,
        memory=values["max_memory"].value or 0.0,
    )
    with tempfile.TemporaryDirectory(prefix="tfstyle-studio-") as folder:
        # Gradio reads these when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        try:
            import gradio  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"the studio needs Gradio ({error}): pip install 'tfstyle[studio]'"
            ) from error
        import_tensorflow()
        from tfstyle.studio.server import serving

        ended = threading.Event()
        received = []

        def end(number: int, _: object) -> None:
            received.append(number)
            ended.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, end)
        check_interrupts()
        with (
            quiet_libraries(),
            serving(
                runs.required(values, "host"),
                values["port"].value,
                limits,
                values["max_upload"].value or 50,
                pathlib.Path(folder),
                bool(values["browser"].value),
            ) as url,
        ):
            print(f"tfstyle studio: {url} (Ctrl-C ends it)", flush=True)
            ended.wait()
    return 128 + received[0]
