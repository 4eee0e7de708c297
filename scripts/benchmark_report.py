"""Tables and plots of what ``benchmark.py`` has measured.

The results are a dictionary as ``benchmark.json`` has it: by section, its ``rows``, and
the ``machine`` and ``command`` that they come from.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# htoyryla's of 2016, at github.com/jcjohnson/neural-style/issues/150: longest side and
# gigabytes on a CPU, VGG-19 with L-BFGS; by megapixels as if the pictures were 4:3.
PUBLISHED_NAME = "neural-style issue 150 (VGG-19, L-BFGS)"
PUBLISHED = {0.75e-6 * side**2: gb for side, gb in ((320, 1.7), (640, 5.7), (960, 12))}
BASELINES = {
    "tutorial": "TensorFlow tutorial, Adam",
    "pytorch": "PyTorch, L-BFGS",
    "pytorch as saved": "the same, clipped to [0, 1] as it is saved",
}


def write_report(folder: pathlib.Path, data: Mapping[str, Any]) -> None:
    """Writes ``benchmark.md`` and the plots of all results."""
    (folder / "benchmark.md").write_text(markdown(data))
    if "memory" in data:
        rows = data["memory"]["rows"]
        plot_pixels(rows, "peak_gb", "peak memory, GB", folder / "memory.png")
        path = folder / "seconds.png"
        plot_pixels(rows, "seconds_per_step", "seconds per step", path)
    if "quality" in data:
        plot_losses(data["quality"]["rows"], folder / "loss.png")


def markdown(data: Mapping[str, Any]) -> str:
    """All tables; what has not been measured says so."""
    parts = []
    for section, (title, make_table) in TABLES.items():
        parts.append(f"## {title}")
        if section in EXPLANATIONS:
            parts.append(EXPLANATIONS[section])
        if section not in data:
            parts.append("not measured")
            continue
        facts = data[section]["machine"]
        parts.append(make_table(data[section]["rows"]))
        parts.append(", ".join(f"{name} {value}" for name, value in facts.items()))
        parts.append(f"```sh\n{data[section]['command']}\n```")
    return "\n\n".join(parts) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *([cell(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """A value as a table shows it, three digits of a number."""
    if value is None or value != value:
        return "not measured"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def step_table(rows: Mapping[str, Any]) -> str:
    """Seconds per step."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    names += [n for n in ("tutorial vgg19", "pytorch vgg19") if n not in names]
    body = []
    for size, name in itertools.product(sorted(rows, key=int), names):
        row = rows[size].get(name, {})
        share = f"{100 * row['share_of_sgemm']:.0f} %" if row else None
        shown = f"{name}, random weights" if row.get("random_weights") else name
        body.append([size, shown, row.get("median"), row.get("gflop"), share])
    peak = max(row["sgemm_gflops"] for s in rows.values() for row in s.values())
    header = ["longest side", "", "seconds per step", "GFLOP per step", "of sgemm"]
    return f"{table(header, body)}\n\nsgemm: {peak:.0f} GFLOP/s."


def quality_table(rows: Mapping[str, Any]) -> str:
    """Time to quality."""
    body = []
    for case, entry in quality_cases(rows).items():
        for name, title in BASELINES.items():
            row = entry.get("against", {}).get(name, {})
            ours, ratio = row.get("our_seconds"), row.get("ratio")
            if row and ours is None:
                ours = f"not reached ({row['our_final_loss']:.4g})"
            speed = f"{ratio:.1f}×" if ratio else "–" if row else None
            goal = f"{row['final_loss']:.4g}" if row else None
            body.append([*case, title, goal, row.get("seconds"), ours, speed])
    header = ["network", "size", "pair", "baseline", "its final loss", "its seconds"]
    return table([*header, "tfstyle's seconds to that loss", "ratio"], body)


def quality_cases(rows: Mapping[str, Any]) -> dict[tuple[str, str, str], Any]:
    """What has been measured, by network, size and pair."""
    return {
        (network, size, pair): entry
        for network, sizes in rows.items()
        for size in sorted(sizes, key=int)
        for pair, entry in sizes[size].items()
    }


def compared(
    entry: Mapping[str, Any], baseline: str, goal_key: str = "final_loss"
) -> dict[str, Any]:
    """A baseline's end beside the cheapest of our runs that gets as far.

    A run's targets, a forward pass of two pictures per scale and precision, count as
    one step more; those of the baselines do not count.
    """
    curve = entry["curves"][baseline]
    goal = curve[goal_key]
    seconds = float(np.median(entry["seconds"].get(baseline, [math.nan])))
    row = {
        "final_loss": goal,
        "seconds": curve["steps"] * seconds,
        "our_seconds": None,
        "our_work": None,
        "our_final_loss": min(ours["final_loss"] for ours in entry["ours"].values()),
        "ratio": None,
    }
    for ours in entry["ours"].values():
        reached = [i for i, loss in enumerate(ours["losses"]) if loss <= goal]
        if reached:
            row["our_work"] = ours["work"][reached[0]]
            row["our_seconds"] = run_seconds(entry, row["our_work"])
            row["ratio"] = row["seconds"] / row["our_seconds"]
            break
    return row


def run_seconds(entry: Mapping[str, Any], work: Sequence[int]) -> float:
    """What our steps by scale and precision take, with one more for its targets."""
    seconds = np.median(entry["seconds"]["tfstyle"], axis=0)[-len(work) :]
    return float(sum((w + 1) * s for w, s in zip(work, seconds, strict=True) if w))


def memory_table(rows: Mapping[str, Any]) -> str:
    """Memory and seconds against pixels, with what others have published."""
    body, growth = [], []
    for name, by_size in rows.items():
        for megapixels in sorted(by_size, key=float):
            row = by_size[megapixels]
            peak, seconds = row["peak_gb"], row.get("seconds_per_step")
            if expected := row.get("expected_gb"):
                peak = f"not measured (about {expected:.0f})"
            tiles, limit = row.get("tiles"), row.get("max_memory", "–")
            per = seconds and seconds / float(megapixels)
            body.append([name, megapixels, tiles, limit, peak, seconds, per])
        small, large = (by_size.get(key, {}) for key in ("1", "16"))
        if small.get("peak_gb") and large.get("peak_gb"):
            memory = large["peak_gb"] / small["peak_gb"]
            slower = large["seconds_per_step"] / small["seconds_per_step"]
            growth.append(
                f"{name}: 16 megapixels take {memory:.1f} times the memory of 1, and "
                f"{slower:.1f} times the seconds ({slower / 16:.2f} per megapixel)."
            )
    for megapixels, gigabytes in PUBLISHED.items():
        body.append([PUBLISHED_NAME, megapixels, 1, "–", gigabytes, None, None])
    header = ["", "megapixels", "tiles", "max_memory", "peak GB", "seconds per step"]
    return "\n\n".join([table([*header, "seconds per megapixel"], body), *growth])


def apply_table(rows: Mapping[str, Any]) -> str:
    """Pictures per second of the runtimes, and how they compare with PyTorch."""
    body = []
    for width, size in ((w, s) for w in rows for s in rows[w]):
        contestants = rows[width][size]
        torch = contestants.get("PyTorch eager", {}).get("median")
        for name, row in contestants.items():
            ratio = f"{torch / row['median']:.2f}×" if torch else None
            body.append([width, size, name, 1 / row["median"], ratio])
    header = ["width", "longest side", "runtime", "pictures per second"]
    return table([*header, "of PyTorch's speed"], body)


def any_table(rows: Mapping[str, Any]) -> str:
    """Pictures per second in any style, and how they compare with MicroAST."""
    body = []
    for size, contestants in rows.items():
        torch = contestants.get("MicroAST, PyTorch eager", {}).get("median")
        for name, row in contestants.items():
            ratio = f"{torch / row['median']:.2f}×" if torch else None
            body.append([size, name, 1 / row["median"], ratio])
    header = ["longest side", "network and runtime", "pictures per second"]
    return table([*header, "of MicroAST's speed in PyTorch"], body)


def startup_table(rows: Mapping[str, Any]) -> str:
    """Start-up."""
    body = [[name, row["median"]] for name, row in rows.items()]
    return table(["from the command, or a call, to", "seconds"], body)


def losses_table(rows: Mapping[str, Any]) -> str:
    """Seconds per step and per picture of each style loss."""
    body = []
    for size in sorted(rows, key=int):
        for loss, contestants in rows[size].items():
            torch = contestants.get("PyTorch", {})
            for name, row in contestants.items():
                whole = row["whole"]["median"]
                estimated = row["whole"].get("estimated")
                shown = f"{cell(whole)} (estimated)" if estimated else whole
                step_ratio = times(torch.get("median"), row["median"])
                whole_ratio = times(torch.get("whole", {}).get("median"), whole)
                body.append([size, loss, name, row["median"], step_ratio, shown])
                body[-1].append(whole_ratio)
    header = ["longest side", "style loss", "", "seconds per step", "PyTorch takes"]
    return table([*header, "seconds per picture", "PyTorch takes"], body)


def times(theirs: float | None, ours: float) -> str | None:
    """How many times as long others take."""
    return None if theirs is None else f"{theirs / ours:.2f}×"


def equal_table(rows: Mapping[str, Any]) -> str:
    """Seconds until either has the other's final loss."""
    body = []
    for size in sorted(rows, key=int):
        theirs = rows[size].get("PyTorch")
        for steps, ours in rows[size].items():
            if theirs is None or ours is theirs:
                continue
            for goal, curve in (("PyTorch's", theirs), ("tfstyle's", ours)):
                loss = curve["losses"][-1]
                seconds = [reached(either, loss) for either in (ours, theirs)]
                ratio = None not in seconds and times(seconds[1], seconds[0])
                shown = ["not reached" if x is None else x for x in seconds]
                body.append([size, steps, goal, f"{loss:.5g}", *shown, ratio or "–"])
    header = ["longest side", "tfstyle's steps", "final loss of", "which is"]
    return table([*header, "tfstyle's seconds", "PyTorch's seconds", "ratio"], body)


def reached(curve: Mapping[str, Any], loss: float) -> float | None:
    """When a curve first has a loss; None if never."""
    pairs = zip(curve["seconds"], curve["losses"], strict=True)
    return next((seconds for seconds, value in pairs if value <= loss), None)


def profile_table(rows: Mapping[str, Any]) -> str:
    """What a step's time goes to, a column for each case."""
    parts = []
    for size in sorted(rows, key=int):
        cases = rows[size]
        kinds = dict.fromkeys(kind for row in cases.values() for kind in row["kinds"])
        body: list[list[Any]] = [
            [f"seconds per step, {size} pixels"],
            *([kind] for kind in kinds),
            ["GFLOP per step"],
            ["GFLOP/s of a matrix product"],
            ["the step's share of it"],
            ["the convolutions' share of it"],
        ]
        for row in cases.values():
            seconds, found = row["seconds_per_step"], row["kinds"]
            convolving = sum(x for kind, x in found.items() if "convolutions" in kind)
            values = [
                seconds,
                *(f"{100 * found.get(kind, 0) / seconds:.0f} %" for kind in kinds),
                row["gflop"],
                row["peak_gflops"],
                share(row["gflop"], seconds, row["peak_gflops"]),
                share(row["convolution_gflop"], convolving, row["peak_gflops"]),
            ]
            for line, value in zip(body, values, strict=True):
                line.append(value)
        parts.append(table(["", *cases], body))
    return "\n\n".join(parts)


def share(gflop: float, seconds: float, peak: float) -> str:
    """How much of the peak work has reached."""
    return f"{100 * gflop / seconds / peak:.0f} %" if seconds else "–"


EXPLANATIONS = {
    "losses": "A step is one at full size, with forward pass, loss, gradient and "
    "update. In PyTorch it is of a loss defined like tfstyle's: for `wasserstein` "
    "Crowson's (the same five layers and weights), for `neighbors` Kolkin's "
    "hypercolumns of the same four layers, for `gram` the relative loss. A picture is "
    "a finished one with the defaults of tfstyle, from building the network on, and "
    "in PyTorch the published schedule: Crowson's 1000 steps and 500 for each further "
    "scale, Kolkin's 200 for each scale and 200 more, and 1000 steps of Adam at full "
    "size for `gram`, as many as neural-style takes. Where it says estimated, that is "
    "steps times seconds per step at each scale, with the targets. Kolkin's method is "
    "published for 512 and 1024 pixels.",
    "equal": "Both lower the loss of Crowson's method: the same layers, weights and "
    "normalisation, without a margin or a change of colours. Losses are those of "
    "pictures of full size, computed by his method, and the clock stands still while "
    "they are. Tracing counts for tfstyle.",
    "profile": "Steps at one scale, traced by TensorFlow's profiler. Operations run "
    "side by side; each kind has the share of its operations' times in those of all. "
    "The matrix product is that of two 4096×4096 matrices in the precision of the "
    "network.",
}
TABLES = {
    "step": ("Seconds per step", step_table),
    "quality": ("Time to quality", quality_table),
    "memory": ("Memory", memory_table),
    "apply": ("Feed-forward network", apply_table),
    "any": ("Any style", any_table),
    "losses": ("Style losses", losses_table),
    "equal": ("Time to equal loss", equal_table),
    "profile": ("What a step consists of", profile_table),
    "startup": ("Start", startup_table),
}


def plot_pixels(
    rows: Mapping[str, Any], key: str, label: str, path: pathlib.Path
) -> None:
    """Memory or seconds against megapixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    series = {
        name: {float(x): row[key] for x, row in by_size.items() if row.get(key)}
        for name, by_size in rows.items()
    }
    if key == "peak_gb":
        series[PUBLISHED_NAME] = PUBLISHED
    for name, points in series.items():
        sizes = sorted(points)
        axes.plot(sizes, [points[x] for x in sizes], marker="o", label=name)
    axes.set(xlabel="megapixels", ylabel=label, xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, dpi=120)


def plot_losses(rows: Mapping[str, Any], path: pathlib.Path) -> None:
    """Loss at full size against seconds, one plot per network, size and pair."""
    from matplotlib.figure import Figure

    cases = {k: entry for k, entry in quality_cases(rows).items() if "against" in entry}
    if not cases:
        return
    columns = min(len(cases), 3)
    lines = -(-len(cases) // columns)
    figure = Figure(figsize=(4.5 * columns, 3.5 * lines), layout="constrained")
    places = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in places[len(cases) :]:
        axes.remove()
    for axes, (case, entry) in zip(places, cases.items(), strict=False):
        for name, curve in entry["curves"].items():
            seconds = np.median(entry["seconds"].get(name, [math.nan]))
            times = seconds * np.arange(1, len(curve["losses"]) + 1)
            axes.plot(times, curve["losses"], label=BASELINES[name])
        for name, curve in entry["ours"].items():
            times = [run_seconds(entry, work) for work in curve["work"]]
            axes.plot(times, curve["losses"], label=f"tfstyle, {name} steps")
        axes.set(title=" ".join(case), xlabel="seconds", ylabel="loss")
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=120)
