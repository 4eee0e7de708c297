"""What ``benchmark.py --against`` measures, in a process that has one commit's package.

It reads the name of a row from each line of its input, and answers with a line of JSON:
``seconds``, or ``error`` where this commit cannot do it. Both commits are measured by
this file, so it uses only names that stay from release to release. The arguments are
the content picture, the style picture, and flags of ``benchmark_timing.py``.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable

from absl import flags
from benchmark_timing import clocked, loop_seconds, seconds_of

Measure = Callable[[], float]

STEP_SIZE = 512
WHOLE_SIZE = 256
CALL_SIZE = 128
_PROGRAM = "import sys; from tfstyle.cli.main import main; sys.exit(main())"


def step(content: str, style: str, **options: str) -> Measure:
    """Seconds per step at full size."""
    import tfstyle

    size = {"size": STEP_SIZE, "allow_upscale": True, "scales": 1}
    stylizer = tfstyle.Stylizer(**size, steps=100_000, **options)

    return lambda: clocked(lambda c: stylizer(content, style, callbacks=[c]))


def gram(content: str, style: str) -> Measure:
    """The same with Gram matrices."""
    return step(content, style, style_loss="gram")


def whole(content: str, style: str, size: int, **options: str) -> Measure:
    """Seconds of a call of an engine that has traced its graphs."""
    import tfstyle

    stylizer = tfstyle.Stylizer(size=size, allow_upscale=True, **options)
    return lambda: seconds_of(lambda: stylizer(content, style))


def neighbors(content: str, style: str) -> Measure:
    """A whole picture by neural neighbours."""
    return whole(content, style, WHOLE_SIZE, style_loss="neighbors")


def call(content: str, style: str) -> Measure:
    """A whole small picture, where what surrounds the steps counts."""
    return whole(content, style, CALL_SIZE)


def apply(content: str, style: str) -> Measure:
    """Seconds per picture of the bundled feed-forward network."""
    import tfstyle

    network = tfstyle.StyleNet.from_preset("bundled")
    picture = tfstyle.load_image(content, STEP_SIZE, allow_upscale=True)
    return lambda: loop_seconds(lambda: network.stylize(picture))


def start(content: str, style: str) -> Measure:
    """From the command to the file."""
    pictures = [f"--content={content}", f"--style={style}"]
    command = [sys.executable, "-c", _PROGRAM, "stylize", *pictures]

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            output = pathlib.Path(folder) / "out.png"
            words = [*command, f"--size={CALL_SIZE}", f"--output={output}"]
            done = subprocess.run(words, capture_output=True, text=True)
            if not output.exists():
                raise RuntimeError(done.stderr.strip().splitlines()[-1:] or "no file")

    return lambda: seconds_of(run)


ROWS = {
    "step": (f"a step, default, {STEP_SIZE} pixels", step),
    "neighbors": (f"a picture, neighbors, {WHOLE_SIZE} pixels", neighbors),
    "gram": (f"a step, gram, {STEP_SIZE} pixels", gram),
    "apply": (f"feed-forward, {STEP_SIZE} pixels", apply),
    "call": (f"a further call of an engine, {CALL_SIZE} pixels", call),
    "start": (f"from the command to the file, {CALL_SIZE} pixels", start),
}
"""By name, what it is called in the table, and what prepares it."""


def main() -> None:
    """Answers until its input ends."""
    content, style = flags.FLAGS(sys.argv)[1:]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    import tfstyle

    print(json.dumps({"package": tfstyle.__file__}), file=answers)
    current, measure = "", lambda: 0.0
    for line in sys.stdin:
        try:
            if line != current:
                current = line
                measure = ROWS[line.strip()][1](content, style)
                measure()  # traces, and fills caches
            answer = {"seconds": measure()}
        except Exception as error:
            answer = {
                "error": f"{type(error).__name__}: {' '.join(str(error).split())}"
            }
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
