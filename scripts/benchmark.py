"""Measures tfstyle beside what else there is, and writes tables for docs/benchmarks.md.

* ``step``: seconds of an optimisation step on each backbone, on a plain PyTorch loop
  and on the loop of TensorFlow's tutorial, beside what ``tf.matmul`` reaches.
* ``quality``: seconds until a run has the loss that the tutorial, or PyTorch's L-BFGS,
  has at its end.
* ``memory``: peak memory and seconds per step against pixels, whole and by tiles.
* ``apply``: pictures per second of a feed-forward network in several runtimes.
* ``any``: the same of the network for any style, which reads the painting each time,
  beside the same network in PyTorch.
* ``losses``: seconds per step and per picture of each style loss, beside the methods
  that others publish, in PyTorch on the same network.
* ``equal``: seconds until tfstyle and Crowson's method have the same Wasserstein loss.
* ``profile``: what the time of a step goes to, by kind of operation.
* ``startup``: seconds from the command to the first step, a picture, and the help, and
  of calls of one ``Stylizer`` beside calls of ``stylize``.

Contestants take turns, repeat by repeat, so that a noisy neighbour disturbs all of them
alike; tables have medians. Tracing is left out of seconds per step: the first step of
each scale and of each loop is not timed. ``--output`` gets ``benchmark.json`` with the
raw numbers, ``benchmark.md`` with the tables, and plots. Sections, pairs and sizes that
a run does not measure stay as an earlier run has left them.

``--against=COMMIT`` measures something else: whether six typical things have become
slower since a commit. It prints a table, and the exit code is 1 if one has.

Example:
  python scripts/benchmark.py --sections=step,quality --output=benchmark \
      --vgg19_weights=vgg19_to_block3_conv1.npz --squeezenet_weights=squeezenet.h5
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import itertools
import json
import math
import os
import pathlib
import platform
import resource
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

# Read when the libraries are loaded. PyTorch's threads would wait for each other in a
# loop, which takes a step three times as long where others want the cores as well.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import benchmark_timing
import numpy as np
import psutil
from absl import app, flags
from benchmark_timing import (
    Clock,
    clocked,
    in_turns,
    loop_seconds,
    note,
    timing_steps,
    with_median,
)
from commit_rows import ROWS
from compare_commits import compare

import tfstyle
from tfstyle.cli.quiet import import_tensorflow, quiet_libraries, silent_stderr

with silent_stderr():
    import keras
    import tensorflow as tf
    from baselines import Task, Torch, Tutorial, check_same_loss, has_torch
    from benchmark_losses import LOSSES, measure_equal, measure_losses
    from benchmark_profile import matmul_gflops, profile, step_gflop
    from benchmark_report import compared, write_report
    from runtimes import any_style_runtimes, runtimes

from tfstyle.backbones import get_backbone, vgg
from tfstyle.backbones.feature_extractor import IMAGENET
from tfstyle.backbones.precision import dtype_policy, multiplies_bfloat16
from tfstyle.backbones.weights import read_weights, save_weights
from tfstyle.cli import info
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.files import replaced
from tfstyle.networks.any_style import STYLE_SIZE
from tfstyle.networks.blends import ANY
from tfstyle.networks.formats import TOLERANCES
from tfstyle.networks.style_net import StyleNet, load_network
from tfstyle.options import Options, fields_of
from tfstyle.stylizer.run import Run
from tfstyle.stylizer.scales import scale_sizes

FLAGS = flags.FLAGS
DATA = pathlib.Path(__file__).resolve().parents[1] / "data"
CONTENT = [
    str(DATA / "content" / f"{name}.jpg") for name in ("cat", "coffee", "rocket")
]
STYLE = [str(DATA / "style" / f"{name}.jpg") for name in ("nocturne", "waves", "discs")]
SECTIONS = [
    *("step", "quality", "memory", "apply", "any"),
    *("losses", "equal", "profile", "startup"),
]
flags.adopt_module_key_flags(benchmark_timing)
flags.DEFINE_list("sections", SECTIONS, "What to measure; empty: write tables anew.")
flags.DEFINE_string("output", None, "Folder for numbers, tables and plots.")
flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "Where; cpu hides all GPUs.")
flags.DEFINE_list("content", CONTENT, "Pictures; all but quality take the first pair.")
flags.DEFINE_list("style", STYLE, "Style pictures, one per content picture.")
flags.DEFINE_string("vgg19_weights", IMAGENET, "VGG-19; may end at block3_conv1.")
flags.DEFINE_string("squeezenet_weights", IMAGENET, "SqueezeNet.")
flags.DEFINE_float("max_memory", 0.0, "tfstyle's option, for step and quality.")
PRECISION = next(field for field in fields_of(Options) if field.name == "precision")
flags.DEFINE_enum(
    "precision", PRECISION.default, PRECISION.choices, "tfstyle's option."
)
flags.DEFINE_bool("jit_compile", False, "tfstyle's option.")
flags.DEFINE_list(
    "sizes", ["256", "512", "1024"], "step, apply, any: longest sides, of 4:3."
)
flags.DEFINE_list("widths", ["16", "32"], "apply: widths of the network.")
BACKBONES = ["slim19", "vgg19", "squeezenet"]
flags.DEFINE_list("step_backbones", BACKBONES, "step: networks.")
flags.DEFINE_list("quality_backbones", ["vgg19", "slim19"], "quality: networks.")
flags.DEFINE_list("quality_sizes", ["512", "1024"], "quality: longest sides.")
flags.DEFINE_integer("tutorial_steps", 1000, "quality: the tutorial's.", lower_bound=1)
flags.DEFINE_integer("lbfgs_evaluations", 500, "quality: PyTorch's.", lower_bound=1)
flags.DEFINE_string(
    "our_steps",
    ",".join(map(str, tfstyle.Options().steps)),
    "quality, equal: --steps, tried until the others' losses are reached, as "
    "'100,60,40;60;250': as many scales as numbers.",
)
flags.DEFINE_bool("reuse_baselines", False, "quality: keep the baselines' loss curves.")
flags.DEFINE_list("memory_backbones", ["slim19", "vgg19"], "memory: networks.")
flags.DEFINE_list("megapixels", ["0.25", "1", "4", "16"], "memory: sizes, of 4:3.")
flags.DEFINE_float("tiled_gb", 4.0, "memory: largest max_memory of the tiled runs.")
flags.DEFINE_float("untiled_limit_gb", 16.0, "memory: the most expected of whole ones.")
flags.DEFINE_list("style_losses", LOSSES, "losses, profile: style losses.")
flags.DEFINE_list("loss_sizes", ["512", "1024", "2048"], "losses: longest sides.")
flags.DEFINE_float(
    "whole_limit",
    600.0,
    "losses: seconds above which a schedule in PyTorch is estimated from steps.",
)
flags.DEFINE_list("equal_sizes", ["256"], "equal: longest sides.")
flags.DEFINE_list("profile_sizes", ["512"], "profile: longest sides.")
flags.DEFINE_string("against", None, "Compare the working tree's speed with a commit.")
flags.DEFINE_float("tolerance", 1.15, "against: how many times as slow is still well.")
flags.DEFINE_list("rows", list(ROWS), "against: what to measure.")
flags.DEFINE_string("child", None, "One measurement of memory, as JSON; internal.")

# Least tiles and largest max_memory: whole means that nothing is ever too much.
WHOLE = (1, 1000.0)
LEAST_TILES = 4


class Book:
    """The results of this run and of earlier ones, in ``benchmark.json``."""

    def __init__(self, folder: str | os.PathLike[str]):
        """Reads what is there, if it is of the same device."""
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "benchmark.json"
        self.data: dict[str, Any] = {"device": FLAGS.device}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                self.data = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path}: {error}; give another --output") from error
        if self.data.get("device") != FLAGS.device:
            raise UsageError(
                f"{self.path} has results of --device={self.data.get('device')}; give "
                "another --output"
            )

    def get(self, section: str, *keys: str) -> Any:
        """What ``put`` has put there, or None."""
        found: Any = self.data.get(section, {}).get("rows")
        for key in keys:
            found = (found or {}).get(key)
        return found

    def put(self, value: Any, section: str, *keys: str) -> None:
        """Keeps one result at once: a run takes hours, and may be stopped."""
        entry = self.data.setdefault(section, {"rows": {}})
        entry["machine"] = machine() | {"load": f"{os.getloadavg()[0]:.1f}"}
        entry["command"] = shlex.join(sys.argv)
        place = entry["rows"]
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = value
        with replaced(self.path) as temporary:
            temporary.write_text(json.dumps(self.data, indent=1, ensure_ascii=False))


@functools.cache
def machine() -> dict[str, str]:
    """What the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(": ")[1] for line in lines if "model name" in line)
    facts = {
        "date": datetime.date.today().isoformat(),
        "device": info.device(),
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        **info.versions(),
    }
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        facts["torch"] = importlib.metadata.version("torch")
    return facts


def numbers(name: str, kind: Callable[[str], Any] = int) -> list[Any]:
    """The positive numbers of a flag, in rising order."""
    try:
        values = sorted(kind(text) for text in FLAGS[name].value)
    except ValueError:
        values = []
    if not values or values[0] <= 0:
        shown = ",".join(FLAGS[name].value)
        raise UsageError(f"--{name}={shown}: give positive numbers with commas between")
    return values


def our_steps() -> list[tuple[int, ...]]:
    """The ``steps`` that tfstyle tries, in order."""
    try:
        tries = FLAGS.our_steps.split(";")
        return [tuple(int(n) for n in text.split(",")) for text in tries]
    except ValueError:
        raise UsageError(
            f"--our_steps={FLAGS.our_steps}: write it as '100,60,40;60;250'"
        ) from None


def pairs() -> dict[str, tuple[str, str]]:
    """Paths of content and style pictures by the pair's name."""
    if len(FLAGS.content) != len(FLAGS.style) or not FLAGS.content:
        raise UsageError(
            f"--content names {len(FLAGS.content)} pictures and --style "
            f"{len(FLAGS.style)}: give as many of both, at least one"
        )
    both = zip(FLAGS.content, FLAGS.style, strict=True)
    return {":".join(pathlib.Path(path).stem for path in pair): pair for pair in both}


def first_pair(height: int, width: int) -> list[np.ndarray]:
    """The first pair's pictures, both of one size."""
    paths = next(iter(pairs().values()))
    pictures = (tfstyle.load_image(path) for path in paths)
    return [tfstyle.resize_image(picture, (height, width)) for picture in pictures]


def check_flags() -> None:
    """Refuses at once what would fail after hours."""
    for flag, known in (
        ("sections", SECTIONS),
        ("step_backbones", BACKBONES),
        # PyTorch has no SqueezeNet, and memory needs no third network.
        ("quality_backbones", BACKBONES[:2]),
        ("memory_backbones", BACKBONES[:2]),
        ("style_losses", LOSSES),
        ("rows", list(ROWS)),
    ):
        for name in FLAGS[flag].value:
            if name not in known:
                raise UsageError(f"--{flag}: no {name!r}; choose of {', '.join(known)}")
    for flag, kind in (
        ("sizes", int),
        ("widths", int),
        ("quality_sizes", int),
        ("loss_sizes", int),
        ("equal_sizes", int),
        ("profile_sizes", int),
        ("megapixels", float),
    ):
        numbers(flag, kind)
    for steps in our_steps():
        tfstyle.Options(steps=steps, max_memory=FLAGS.max_memory)
    for path in itertools.chain(*pairs().values()):
        tfstyle.load_image(path, 64)
    for path in (FLAGS.vgg19_weights, FLAGS.squeezenet_weights):
        if path != IMAGENET:
            read_weights(path)


def choose_device() -> None:
    """Hides GPUs here and in children, or makes sure that there is one, in silence."""
    if FLAGS.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    import_tensorflow()
    if FLAGS.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise UsageError(
            "--device=gpu: TensorFlow sees no GPU; see tfstyle info, or give "
            "--device=cpu"
        )
    # Each run has graphs of its own, of which TensorFlow warns.
    tf.get_logger().setLevel("ERROR")


def our_options(backbone: str, weights: str, **options: Any) -> dict[str, Any]:
    """Options of tfstyle from the flags, with the loss that all contestants have."""
    network = {"backbone": backbone, "weights": weights, "style_loss": "gram"}
    return {**network, **given_options(), **options}


def given_options() -> dict[str, Any]:
    """Options of tfstyle that are flags."""
    names = ("max_memory", "precision", "jit_compile")
    return {name: FLAGS[name].value for name in names}


def our_name(backbone: str) -> str:
    """What a table calls tfstyle on a backbone, with what is not default."""
    words = ["tfstyle", backbone]
    words += ["bfloat16"] if "bfloat16" in dtype_policy(FLAGS.precision) else []
    return " ".join([*words, "XLA"] if FLAGS.jit_compile else words)


def our_seconds(task: Task) -> float:
    """Seconds per step of a run at one scale."""
    return clocked(lambda c: task.run([c], scales=1, steps=1_000_000).finish())


def random_vgg19(path: pathlib.Path) -> str:
    """A file of random weights of VGG-19 to ``block5_conv1``, to take time by."""
    rng, arrays, inputs = np.random.default_rng(0), {}, 3
    for layer in vgg.convolutions((2, 2, 4, 4, 1)):
        shape = (3, 3, inputs, vgg.CHANNELS[int(layer[5]) - 1])
        kernel = rng.standard_normal(shape, "float32")
        arrays[f"{layer}/kernel"] = kernel * np.float32((2 / 9 / inputs) ** 0.5)
        arrays[f"{layer}/bias"] = np.zeros(shape[-1], "float32")
        inputs = shape[-1]
    save_weights(path, arrays)
    return str(path)


@contextlib.contextmanager
def whole_networks() -> Iterator[dict[str, str]]:
    """Weights by backbone, random for VGG-19 where its file lacks deep layers."""
    files = (IMAGENET, FLAGS.vgg19_weights, FLAGS.squeezenet_weights)
    weights = dict(zip(BACKBONES, files, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        if not set(get_backbone("vgg19").style_layers) <= available_layers():
            note("VGG-19 has random weights, of which time and memory do not depend")
            weights["vgg19"] = random_vgg19(pathlib.Path(folder) / "vgg19.npz")
        yield weights


def available_layers() -> set[str]:
    """The convolutions of VGG-19 that ``--vgg19_weights`` has."""
    if FLAGS.vgg19_weights == IMAGENET:
        return set(vgg.convolutions(vgg.VGG19_CONVOLUTIONS))
    names = read_weights(FLAGS.vgg19_weights)[0]
    return {name.removesuffix("/kernel") for name in names if name.endswith("/kernel")}


def measure_steps(book: Book) -> None:
    """Seconds per step of all contestants at every size."""
    own = (IMAGENET, FLAGS.vgg19_weights, FLAGS.squeezenet_weights)
    with whole_networks() as weights:
        for size in numbers("sizes"):
            note(f"step: {size} pixels")
            shape = round(size * 3 / 4), size
            contestants = step_contestants(first_pair(*shape), weights)
            sgemm = matmul_gflops()
            times = in_turns(
                {name: measure for name, (_, measure) in contestants.items()}
            )
            sgemm = max(sgemm, matmul_gflops())
            for name, (task, _) in contestants.items():
                median = float(np.median(times[name]))
                gflop = step_gflop(task.loss, *shape)
                row = {
                    "seconds": times[name],
                    "median": median,
                    "gflop": gflop,
                    "sgemm_gflops": sgemm,
                    "random_weights": task.options["weights"] not in own,
                    "share_of_sgemm": gflop / median / sgemm,
                }
                book.put(row, "step", str(size), name)


def step_contestants(
    pictures: Sequence[np.ndarray], weights: Mapping[str, str]
) -> dict[str, tuple[Task, Callable[[], float]]]:
    """By name, what each is to do, and what measures its seconds per step."""
    found: dict[str, tuple[Task, Callable[[], float]]] = {}
    for backbone in FLAGS.step_backbones:
        task = Task(*pictures, our_options(backbone, weights[backbone]))
        found[our_name(backbone)] = task, functools.partial(our_seconds, task)
        if backbone == "vgg19":
            steps = {"tutorial vgg19": Tutorial(task).step}
            if has_torch(FLAGS.device):
                steps["pytorch vgg19"] = Torch(task, FLAGS.device).adam()
            for name, step in steps.items():
                found[name] = task, functools.partial(loop_seconds, step)
    return found


def quality_options(backbone: str) -> dict[str, Any]:
    """Options of a network, cut at what the weights file has."""
    if backbone != "vgg19":
        return our_options(backbone, IMAGENET)
    own, known = get_backbone(backbone), available_layers()
    style = [layer for layer in own.style_layers if layer in known]
    if not style:
        raise UsageError(f"{FLAGS.vgg19_weights}: has none of VGG-19's style layers")
    content = [layer for layer in own.content_layers if layer in known] or style[-1:]
    layers = {"style_layers": style, "content_layers": content}
    return our_options(backbone, FLAGS.vgg19_weights, **layers)


def measure_quality(book: Book) -> None:
    """Time to quality of every network, size and pair."""
    cases = itertools.product(
        FLAGS.quality_backbones, numbers("quality_sizes"), pairs().items()
    )
    for backbone, size, (pair, paths) in cases:
        note(f"quality: {backbone}, {size} pixels, {pair}")
        pictures = [tfstyle.load_image(p, size, allow_upscale=True) for p in paths]
        task = Task(*pictures, quality_options(backbone))
        baselines: dict[str, Any] = {"tutorial": Tutorial(task)}
        if has_torch(FLAGS.device):
            baselines["pytorch"] = Torch(task, FLAGS.device)
        check_same_loss(task, baselines)
        case = (backbone, str(size), pair)
        keep_curves(book, case, task, baselines)
        keep_timing(book, case, task, baselines)


def keep_curves(
    book: Book, case: tuple[str, ...], task: Task, baselines: Mapping[str, Any]
) -> None:
    """Puts the loss curves of all contestants into the book."""
    budgets = {"tutorial": FLAGS.tutorial_steps, "pytorch": FLAGS.lbfgs_evaluations}
    goals = []
    for name, baseline in baselines.items():
        curve = book.get("quality", *case, "curves", name)
        if FLAGS.time_only_steps and curve is None:
            raise UsageError(
                f"--time_only_steps: {book.path} has no loss curve of {name} for "
                f"{' '.join(case)}; run without it first"
            )
        if curve is None or not (FLAGS.time_only_steps or FLAGS.reuse_baselines):
            curve = baseline.curve(budgets[name])
            book.put(curve, "quality", *case, "curves", name)
        note(f"  {name}: {curve['final_loss']:.5f} after {curve['steps']} steps")
        goals.append(curve["final_loss"])
    if not FLAGS.time_only_steps:
        book.put({}, "quality", *case, "ours")
    for steps in our_steps():
        name = ",".join(map(str, steps))
        curve = book.get("quality", *case, "ours", name)
        if curve is None:
            curve = our_curve(task, steps)
            book.put(curve, "quality", *case, "ours", name)
        note(f"  tfstyle, {name} steps: {curve['final_loss']:.5f}")
        if min(curve["losses"]) <= min(goals):
            break


def our_curve(task: Task, steps: Sequence[int]) -> dict[str, Any]:
    """The loss of the picture at full size, as often as a run reports.

    To each loss belongs the work until then: evaluations by scale, coarse to fine.
    """
    losses, rows, work = [], [], [0] * len(steps)

    def measure(progress: Any) -> None:
        work[progress.scale] = progress.step - sum(steps[: progress.scale])
        if progress.scale == len(steps) - 1:
            losses.append(task.our_loss(progress.image()))
            rows.append(list(work))

    run = task.run([measure], steps=steps, scales=len(steps))
    final = task.our_loss(run.finish().images)
    return {
        "losses": [*losses, final],
        "work": [*rows, rows[-1]],
        "final_loss": final,
        "steps": work,
    }


def keep_timing(
    book: Book, case: tuple[str, ...], task: Task, baselines: Mapping[str, Any]
) -> None:
    """Puts seconds per step into the book, and what they come to."""
    measures = {
        "tutorial": lambda: loop_seconds(baselines["tutorial"].step),
        "pytorch": lambda: baselines["pytorch"].lbfgs_seconds(timing_steps()),
        "tfstyle": lambda: seconds_by_scale(task),
    }
    taking_part = {name: measures[name] for name in (*baselines, "tfstyle")}
    book.put(in_turns(taking_part), "quality", *case, "seconds")
    entry = book.get("quality", *case)
    against = {name: compared(entry, name) for name in entry["curves"]}
    if "pytorch" in against:
        saved = compared(entry, "pytorch", "final_loss_as_saved")
        against["pytorch as saved"] = saved
    book.put(against, "quality", *case, "against")


def seconds_by_scale(task: Task) -> list[float]:
    """Seconds per step at each scale of a run, coarse to fine."""
    options = tfstyle.Options(**task.options)
    size = task.content.shape[1:3]
    scales = len(scale_sizes(size, options.scales))
    clock = Clock()
    steps = [timing_steps() * 2**scale for scale in reversed(range(scales))]
    task.run([clock], steps=steps, scales=scales).finish()
    return clock.seconds_per_step()


def measure_memory(book: Book) -> None:
    """Peak memory and seconds per step against pixels, each in a process of its own."""
    ways = {"tiled": (LEAST_TILES, FLAGS.tiled_gb), "untiled": WHOLE}
    with whole_networks() as weights, tempfile.TemporaryDirectory() as folder:
        for backbone, way in itertools.product(FLAGS.memory_backbones, ways):
            name = f"{our_name(backbone).removeprefix('tfstyle ')}, {way}"
            least_tiles, limit = ways[way]
            options = our_options(backbone, weights[backbone], max_memory=limit)
            known: dict[float, float] = {}
            for megapixels in numbers("megapixels", float):
                expected = extrapolated(known, megapixels)
                if way == "untiled" and expected > FLAGS.untiled_limit_gb:
                    row = {"peak_gb": None, "expected_gb": expected}
                else:
                    row = memory_of(options, least_tiles, megapixels, folder)
                note(f"memory: {name}, {megapixels:g} megapixels: {row}")
                if "peak_gb" not in row:
                    continue
                if row["peak_gb"]:
                    known[megapixels] = row["peak_gb"]
                book.put(row, "memory", name, f"{megapixels:g}")


def extrapolated(known: Mapping[float, float], megapixels: float) -> float:
    """Gigabytes to expect, by the line through the last two sizes, or the origin."""
    if not known:
        return 0.0
    (x0, y0), (x1, y1) = [(0.0, 0.0), *known.items()][-2:]
    return y1 + (y1 - y0) / (x1 - x0) * (megapixels - x1)


def memory_of(
    options: Mapping[str, Any], least_tiles: int, megapixels: float, folder: str
) -> dict[str, Any]:
    """What a child says of pictures of so many pixels; see ``measure_child``."""
    height = round(math.sqrt(megapixels * 0.75e6))
    size = (height, round(height * 4 / 3))
    paths = [f"{folder}/{kind}.jpg" for kind in ("content", "style")]
    for path, picture in zip(paths, first_pair(*size), strict=True):
        tfstyle.save_image(picture, path)
    options = {**options, "size": max(size)}
    order = {"pictures": paths, "options": options, "least_tiles": least_tiles}
    words = [f"--child={json.dumps(order)}", f"--device={FLAGS.device}"]
    command = [sys.executable, __file__, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return {"pixels": list(size), "peak_gb": None, "error": lines[-1]}
    return {"pixels": list(size), **json.loads(done.stdout.splitlines()[-1])}


def measure_child(order: Mapping[str, Any]) -> dict[str, Any]:
    """What a child does: a few steps at one scale, where it has tiles enough."""
    clock = Clock()
    stylizer = tfstyle.Stylizer(scales=1, steps=3, **order["options"])
    pictures = stylizer.read(*order["pictures"])
    run = Run(stylizer.engine, stylizer.options, pictures, [clock])
    tiles = limit_to_tiles(run, order["least_tiles"])
    if tiles < order["least_tiles"]:
        return {"tiles": tiles}
    run.finish()
    row = {"tiles": tiles, "max_memory": run.problem.planner.limit / 1e9}
    seconds = clock.seconds_per_step()[0]
    return {**row, "peak_gb": peak_gb(), "seconds_per_step": seconds}


def limit_to_tiles(run: Run, least_tiles: int) -> int:
    """Lowers a run's limit until it is cut into so many tiles.

    Returns:
      How many there are; too few where no limit makes more.
    """
    margin = 2 * run.options.margin
    size = (run.pictures.size[0] + margin, run.pictures.size[1] + margin)
    shapes = (size, [style.picture.shape[1:3] for style in run.pictures.styles], 1)
    planner = run.problem.planner
    tiles = planner.cut(*shapes, planner.pairs(*shapes)).tiles
    with contextlib.suppress(UsageError):
        while tiles < least_tiles:
            planner.limit *= 0.98
            tiles = planner.cut(*shapes, planner.pairs(*shapes)).tiles
    return tiles


def peak_gb() -> float:
    """The most memory that this process has had, on its GPU or resident."""
    if FLAGS.device == "gpu":
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e9
    with contextlib.suppress(OSError, StopIteration):
        # Linux's ru_maxrss is at least what the parent had when it forked.
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def measure_apply(book: Book) -> None:
    """Seconds per picture of one network, of random weights, in all runtimes."""
    for width in numbers("widths"):
        keras.utils.set_random_seed(0)
        network = StyleNet(["style"], width)
        with tempfile.TemporaryDirectory() as folder, quiet_libraries():
            with silent_stderr():
                contestants = runtimes(network, pathlib.Path(folder))
            for size in numbers("sizes"):
                note(f"apply: width {width}, {size} pixels")
                picture = first_pair(round(size * 3 / 4), size)[0]
                check_same_picture(picture, contestants)
                keep_seconds(book, picture, contestants, "apply", str(width), str(size))


def measure_any(book: Book) -> None:
    """Seconds per picture of the network for any style, here and in PyTorch."""
    network = load_network(ANY)
    style = tfstyle.load_image(FLAGS.style[0], STYLE_SIZE)
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        with silent_stderr():
            contestants = any_style_runtimes(network, style, pathlib.Path(folder))
        for size in numbers("sizes"):
            note(f"any: {size} pixels")
            picture = first_pair(round(size * 3 / 4), size)[0]
            ours = {
                name: run for name, run in contestants.items() if "PyTorch" not in name
            }
            check_same_picture(picture, ours)
            keep_seconds(book, picture, contestants, "any", str(size))


def keep_seconds(
    book: Book, picture: np.ndarray, contestants: Mapping[str, Callable], *case: str
) -> None:
    """Puts seconds per picture of all contestants into the book."""
    runs = {name: functools.partial(run, picture) for name, run in contestants.items()}
    times = in_turns(
        {name: functools.partial(loop_seconds, run) for name, run in runs.items()}
    )
    for name, seconds in times.items():
        book.put(with_median(seconds), *case, name)


def check_same_picture(
    picture: np.ndarray, contestants: Mapping[str, Callable]
) -> None:
    """Makes sure that all runtimes make the same of a picture."""
    wanted = next(iter(contestants.values()))(picture)
    for name, run in contestants.items():
        difference = np.abs(run(picture) - wanted).max()
        if difference > TOLERANCES["int8" if "int8" in name else "float32"]:
            raise TfstyleError(f"{name} differs from Keras by {difference}")


def measure_style_losses(book: Book) -> None:
    """Seconds per step and per picture of each style loss."""
    for size in numbers("loss_sizes"):
        note(f"losses: {size} pixels")

        def put(row: Any, *case: str, size: int = size) -> None:
            book.put(row, "losses", str(size), *case)

        pictures = first_pair(round(size * 3 / 4), size)
        limit, losses = FLAGS.whole_limit, FLAGS.style_losses
        measure_losses(losses, pictures, given_options(), limit, put)


def measure_equal_loss(book: Book) -> None:
    """The Wasserstein loss over seconds, tfstyle's and Crowson's method's."""
    if not has_torch("cpu"):
        note("equal: left out, PyTorch is not installed")
        return
    for size in numbers("equal_sizes"):
        note(f"equal: {size} pixels")
        book.put({}, "equal", str(size))

        def put(curve: Any, name: str, size: int = size) -> None:
            book.put(curve, "equal", str(size), name)

        pictures = first_pair(round(size * 3 / 4), size)
        measure_equal(pictures, given_options(), our_steps(), put)


def measure_profile(book: Book) -> None:
    """What a step's time goes to, in each precision and with each optimizer."""
    precisions = ["float32", *["bfloat16"] * multiplies_bfloat16()]
    cases = itertools.product(
        numbers("profile_sizes"), precisions, ("lbfgs", "adam"), FLAGS.style_losses
    )
    for size, precision, optimizer, loss in cases:
        name = f"{loss}, {optimizer}, {precision}"
        note(f"profile: {size} pixels, {name}")
        pictures = first_pair(round(size * 3 / 4), size)
        options = {"precision": precision, "optimizer": optimizer, "style_loss": loss}
        options = {**given_options(), **options}
        row = profile(*pictures, timing_steps(), options)
        book.put(row, "profile", str(size), name)


def measure_startup(book: Book) -> None:
    """Wall time of fresh processes, as a user waits for them."""
    content, style = next(iter(pairs().values()))
    first_step = (
        "import sys, tfstyle\n"
        "def heard(progress):\n  print(progress.step, flush=True)\n  return True\n"
        "tfstyle.stylize(*sys.argv[1:], size=256, callbacks=[heard])"
    )
    program = [sys.executable, "-m", "tfstyle"]
    with tempfile.TemporaryDirectory() as folder:
        stylize = [f"--content={content}", f"--style={style}", "--size=256"]
        applied = [f"--content={content}", "--size=256"]
        output = f"--output={folder}/out.png"
        commands = {
            "tfstyle --help": [*program, "--help"],
            "first step": [sys.executable, "-c", first_step, content, style],
            "picture of 256 pixels": [*program, "stylize", *stylize, output],
            "the same by tfstyle apply": [*program, "apply", *applied, output],
        }
        for name, command in commands.items():
            seconds = [to_first_line(command) for _ in range(FLAGS.repeats)]
            note(f"startup: {name}: {np.median(seconds):.2f} s")
            book.put(with_median(seconds), "startup", name)
    turns = [seconds_of_calls(content, style) for _ in range(FLAGS.repeats)]
    for name in turns[0]:
        seconds = [turn[name] for turn in turns]
        note(f"startup: {name}: {np.median(seconds):.2f} s")
        book.put(with_median(seconds), "startup", name)


CALLS = """
import json, sys, time
import tfstyle

def seconds(call, times=1, **options):
    began = time.perf_counter()
    for _ in range(times):
        call(*sys.argv[1:], **options)
    return time.perf_counter() - began

stop = {"callbacks": [lambda progress: True]}
stylizer = tfstyle.Stylizer(size=128)
first, second = (seconds(stylizer, **stop) for _ in range(2))
kept = seconds(stylizer, 10)
anew = seconds(lambda *pictures: tfstyle.stylize(*pictures, size=128), 10)
print(json.dumps({
    "first step of a Stylizer's first call": first,
    "first step of its second call": second,
    "ten pictures of 128 pixels by it": kept,
    "the same by tfstyle.stylize, which builds one each time": anew,
}))
"""


def seconds_of_calls(content: str, style: str) -> dict[str, float]:
    """What calls take in a process of their own that has imported tfstyle."""
    command = [sys.executable, "-c", CALLS, content, style]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout))


def to_first_line(command: Sequence[str]) -> float:
    """Seconds until a process prints its first line, or ends without one."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    began = time.perf_counter()
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        seconds = time.perf_counter() - began
        process.communicate()
    if process.returncode:
        raise TfstyleError(f"{shlex.join(command)}: ended with {process.returncode}")
    return seconds


MEASURES = {
    # Children first: the others let this process grow.
    "startup": measure_startup,
    "memory": measure_memory,
    "step": measure_steps,
    "apply": measure_apply,
    "any": measure_any,
    "profile": measure_profile,
    "losses": measure_style_losses,
    "equal": measure_equal_loss,
    "quality": measure_quality,
}


def run() -> None:
    """Measures the sections that the flags name, and writes the report."""
    if FLAGS.child:
        choose_device()
        print(json.dumps(measure_child(json.loads(FLAGS.child))))
        return
    if FLAGS.against:
        sys.exit(run_against())
    if not FLAGS.output:
        raise UsageError("--output is missing; see --help")
    check_flags()
    choose_device()
    book = Book(FLAGS.output)
    for section, measure in MEASURES.items():
        if section in FLAGS.sections:
            measure(book)
            write_report(book.folder, book.data)
    write_report(book.folder, book.data)
    note(f"wrote {book.folder / 'benchmark.md'}")


def run_against() -> int:
    """Compares with a commit; returns the exit code."""
    check_flags()
    if FLAGS.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    pictures = next(iter(pairs().values()))
    return compare(FLAGS.against, FLAGS.rows, pictures, FLAGS.tolerance)


def refuse(error: Exception) -> None:
    """Ends with one line."""
    print(f"benchmark: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(getattr(error, "exit_code", UsageError.exit_code))


def main(argv: list[str]) -> None:
    """Runs the benchmark, or says in one line why not."""
    try:
        if len(argv) > 1:
            raise UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
        run()
    except TfstyleError as error:
        refuse(error)
    except KeyboardInterrupt:
        print("benchmark: interrupted", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def parse_flags(argv: list[str]) -> list[str]:
    """Parses as absl does, without the page that it prints at a mistake."""
    try:
        return FLAGS(argv)
    except flags.Error as error:
        return refuse(error)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
