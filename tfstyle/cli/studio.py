"""A page in the browser: drop pictures, watch the result form, keep it.

tfstyle studio

tfstyle studio --port=8080 --nobrowser --max_size=1024
"""

from __future__ import annotations

import os
import pathlib
import tempfile

from absl import flags

from tfstyle.cli import arguments
from tfstyle.cli.flags import ADDRESS, argument, define
from tfstyle.cli.quiet import announce_loading, import_tensorflow, quiet_libraries
from tfstyle.cli.signals import signal_awaited
from tfstyle.extras import import_extra
from tfstyle.options import fields_of
from tfstyle.options.fields import MEMORY
from tfstyle.options.options import MemoryOptions
from tfstyle.studio.requests import Limits


def define_flags(values: flags.FlagValues) -> None:
    """Address and limits."""
    define(
        values,
        [
            argument(
                "host",
                "Address to listen at; 0.0.0.0 lets the whole network in, without a "
                "password.",
                ADDRESS,
                default="127.0.0.1",
            ),
            arguments.port("Port. Default: the first free one from 7860."),
            arguments.BROWSER,
            argument(
                "max_size",
                "Largest size that the page offers: the longest side in pixels.",
                MEMORY,
                hint=int,
                default=Limits.size,
                at_least=64,
            ),
            argument(
                "max_upload",
                "Megabytes of the largest picture file that it takes.",
                MEMORY,
                hint=int,
                default=50,
                at_least=1,
            ),
            *fields_of(MemoryOptions),
        ],
    )


def run(values: flags.FlagValues) -> int:
    """Serves the page until a signal comes."""
    limits = Limits(
        size=values.max_size,
        memory=values.max_memory,
    )
    with tempfile.TemporaryDirectory(prefix="tfstyle-studio-") as folder:
        # Gradio reads these when it is imported.
        os.environ["GRADIO_TEMP_DIR"] = folder
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["HF_HUB_OFFLINE"] = "1"
        announce_loading("Gradio", "gradio")
        import_extra("gradio", extra="studio")
        import_tensorflow()
        from tfstyle.studio.server import serving

        wait = signal_awaited()
        with (
            quiet_libraries(),
            serving(
                values.host,
                values.port,
                limits,
                values.max_upload,
                pathlib.Path(folder),
                values.browser,
            ) as url,
        ):
            print(f"tfstyle studio: {url} (Ctrl-C ends it)", flush=True)
            return wait()
