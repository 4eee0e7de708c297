"""Compares backbones by the pictures that they make, judged by other networks.

Each pair of pictures is stylized with the true VGG-19 (the layers that a truncated file
has), with slim19, with SqueezeNet and with a random network of slim19's shape, at equal
settings. A stronger style is easy to get at the cost of the content, so the other three
run at several content weights, and their style distances are interpolated at the
content distance of VGG-19's picture, or at the nearest one that they reach.

* Style distance: mean over layers of ‖G−A‖² / ‖A‖², under the true VGG-19 (block1 to
  block3), under the compressed VGG-19's estimates (block4 and block5), and under
  SqueezeNet (fire2 to fire5).
* Content distance: ‖F−P‖² / ‖P‖² under SqueezeNet's fire5.

Example:
  python scripts/evaluate_backbone.py --true_vgg=vgg19_to_block3.npz \
      --compressed_vgg=vgg19_16x.npz --squeezenet=squeezenet.h5 --output=comparison
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from absl import app, flags
from distil_backbone import FLAGS, compressed_teacher
from PIL import Image, ImageOps

import tfstyle
from tfstyle.backbones import slim19, vgg
from tfstyle.backbones.weights import read_weights, save_weights
from tfstyle.images.samples import SAMPLES
from tfstyle.images.sheet import contact_sheet
from tfstyle.losses import content_loss, gram_matrix, style_loss

flags.DEFINE_list(
    "pairs",
    [
        "astronaut:nocturne",
        "astronaut:discs",
        "cat:stained_glass",
        "cat:pointillism",
        "coffee:waves",
        "coffee:discs",
        "rocket:nocturne",
        "rocket:waves",
    ],
    "Pairs content:style, of the names of samples or of paths.",
)
flags.DEFINE_string("squeezenet", None, "SqueezeNet's Keras weights (.h5).")
flags.DEFINE_string("output", None, "Folder for pictures, table and contact sheet.")
flags.DEFINE_integer("size", 192, "Longest side of the pictures.", lower_bound=64)
flags.DEFINE_integer("timing_steps", 7, "Steps over which each backbone is timed.")

# All networks of VGG's shape use the layers that the truncated file has.
VGG_STYLE = ("block1_conv1", "block2_conv1", "block3_conv1")
VGG_CONTENT = ("block3_conv1",)
DEEP_STYLE = ("block4_conv1", "block5_conv1")
SQUEEZENET_STYLE = ("fire2", "fire3", "fire4", "fire5")
CONTENT_WEIGHT = 0.05
FACTORS = (0.25, 1.0, 4.0)
STEPS = (120, 80)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A backbone with the options that it runs with."""

    backbone: str
    weights: str
    style_layers: tuple[str, ...] = VGG_STYLE
    content_layers: tuple[str, ...] = VGG_CONTENT


def contenders(folder: str) -> dict[str, Contender]:
    """The backbones by name; the true VGG-19, the standard of comparison, is first."""
    random, rng = pathlib.Path(folder) / "random.npz", np.random.default_rng(0)
    trained, _ = read_weights(slim19.WEIGHTS)
    save_weights(random, {k: he_normal(rng, a.shape) for k, a in trained.items()})
    return {
        "vgg19": Contender("vgg19", FLAGS.true_vgg),
        "slim19": Contender("slim19", "imagenet"),
        "squeezenet": Contender(
            "squeezenet", FLAGS.squeezenet, ("relu_conv1", "fire3", "fire4"), ("fire2",)
        ),
        "random": Contender("slim19", str(random)),
    }


def he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random weights that keep the scale of activations (He et al. 2015)."""
    if len(shape) == 1:
        return np.zeros(shape, "float32")
    return rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype("float32")


class Judges:
    """Networks that score a picture against its content and its style."""

    def __init__(self):
        self.vgg = tfstyle.FeatureExtractor("vgg19", VGG_STYLE, weights=FLAGS.true_vgg)
        self.deep, _ = compressed_teacher(FLAGS.compressed_vgg)
        self.squeezenet = tfstyle.FeatureExtractor(
            "squeezenet", SQUEEZENET_STYLE, weights=FLAGS.squeezenet
        )

    def score(self, picture, content, style) -> dict[str, float]:
        """Style distances by judge and layer, their means, and the content distance."""
        picture, content, style = map(_batch, (picture, content, style))
        scores: dict[str, float] = {}
        for judge, network, layers in (
            ("vgg19", self.vgg, VGG_STYLE),
            ("deep", self.deep, DEEP_STYLE),
            ("squeezenet", self.squeezenet, SQUEEZENET_STYLE),
        ):
            made, wanted = network(picture), network(style)
            distances = {
                f"{judge}/{layer}": float(
                    style_loss(gram_matrix(made[layer]), gram_matrix(wanted[layer]))[0]
                )
                for layer in layers
            }
            scores |= distances
            scores[judge] = float(np.mean(list(distances.values())))
        made, wanted = self.squeezenet(picture), self.squeezenet(content)
        scores["content"] = float(content_loss(made["fire5"], wanted["fire5"])[0])
        return scores


def _batch(picture: np.ndarray) -> tf.Tensor:
    return tf.reshape(picture, [1, *picture.shape[-3:]])


def picture_path(kind: str, name: str) -> pathlib.Path:
    """The path of a sample, or the name itself as a path."""
    sample = SAMPLES / kind / f"{name}.jpg"
    return sample if sample.exists() else pathlib.Path(name)


def at_equal_content(runs: list[dict[str, float]], content: float, key: str) -> float:
    """A score, interpolated in logarithms at a content distance."""
    runs = sorted(runs, key=lambda run: run["content"])
    x = np.log([run["content"] for run in runs])
    y = np.log([run[key] for run in runs])
    return float(np.exp(np.interp(np.log(content), x, y)))


def stylized(contender: Contender, content, style, factor: float) -> tfstyle.Result:
    """One run at the settings that all share."""
    return tfstyle.stylize(
        content,
        style,
        backbone=contender.backbone,
        weights=contender.weights,
        style_loss="gram",
        style_layers=contender.style_layers,
        content_layers=contender.content_layers,
        content_weight=CONTENT_WEIGHT * factor,
        size=FLAGS.size,
        optimizer="adam",  # each of its steps takes one evaluation
        steps=STEPS,
    )


def evaluate_pair(pair: str, judges: Judges, folder: str, output: pathlib.Path):
    """Runs all contenders on one pair; returns scores and pictures, which it writes."""
    names = pair.split(":")
    content, style = (
        tfstyle.load_image(picture_path(kind, name), FLAGS.size)
        for kind, name in zip(("content", "style"), names, strict=True)
    )
    rows: dict[str, dict[str, float]] = {}
    pictures = [content, style]
    for name, contender in contenders(folder).items():
        factors = (1.0,) if not rows else FACTORS
        results = [stylized(contender, content, style, f) for f in factors]
        scores = [judges.score(r.image, content, style) for r in results]
        target = rows["vgg19"]["content"] if rows else scores[0]["content"]
        rows[name] = {k: at_equal_content(scores, target, k) for k in scores[0]}
        rows[name]["seconds"] = float(np.median([r.seconds for r in results]))
        distance = [abs(np.log(score["content"] / target)) for score in scores]
        pictures.append(results[int(np.argmin(distance))].image)
        tfstyle.save_image(pictures[-1], output / f"{'_'.join(names)}_{name}.png")
    return rows, pictures


def seconds_per_step(backbone: str, weights: str, layers, content_layer: str) -> float:
    """Median seconds of an optimisation step at 512×384 on all five style layers."""
    rng = np.random.default_rng(0)
    times: list[float] = []

    def note(progress: tfstyle.Progress) -> None:
        times.append(progress.seconds)

    tfstyle.stylize(
        rng.random((384, 512, 3), "float32"),
        rng.random((384, 512, 3), "float32"),
        backbone=backbone,
        weights=weights,
        style_loss="gram",
        style_layers=layers,
        content_layers=[content_layer],
        scales=1,
        optimizer="adam",
        steps=FLAGS.timing_steps,
        callbacks=[note],
    )
    return float(np.median(np.diff(times[1:])))


def time_steps(folder: str) -> dict[str, float]:
    """Seconds per step of whole networks; VGG-19's weights do not matter here."""
    full = pathlib.Path(folder) / "vgg19.npz"
    rng, weights, inputs = np.random.default_rng(0), {}, 3
    for layer in vgg.convolutions((2, 2, 4, 4, 1)):
        outputs = vgg.CHANNELS[int(layer[5]) - 1]
        weights[f"{layer}/kernel"] = he_normal(rng, (3, 3, inputs, outputs))
        weights[f"{layer}/bias"] = np.zeros(outputs, "float32")
        inputs = outputs
    save_weights(full, weights)
    style = (*VGG_STYLE, *DEEP_STYLE)
    squeezenet = ("relu_conv1", "fire3", "fire4", "fire5")
    return {
        "vgg19": seconds_per_step("vgg19", str(full), style, "block4_conv2"),
        "slim19": seconds_per_step("slim19", "imagenet", style, "block4_conv2"),
        "squeezenet": seconds_per_step(
            "squeezenet", FLAGS.squeezenet, squeezenet, "fire2"
        ),
    }


def save_sheet(
    path: pathlib.Path, rows: list[list[np.ndarray]], titles: list[str]
) -> None:
    """Writes a contact sheet, one row per pair and one title per column."""

    def square(picture: np.ndarray) -> np.ndarray:
        pixels = Image.fromarray(np.uint8(np.rint(_batch(picture)[0] * 255)))
        padded = ImageOps.pad(pixels, (180, 180), color="white")
        return np.asarray(padded, "float32")[None] / 255

    pictures = [square(picture) for row in rows for picture in row]
    sheet = contact_sheet(pictures, titles * len(rows), columns=len(titles))
    tfstyle.save_image(sheet, path)


def table(means: dict[str, dict[str, float]], steps: dict[str, float]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| network | style distance (VGG-19, block1–3) | against vgg19 | "
        "style distance (block4–5) | style distance (SqueezeNet) | content distance | "
        "seconds per step |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in means.items():
        ratio = row["vgg19"] / means["vgg19"]["vgg19"]
        step = f"{steps[name]:.3f}" if name in steps else "same as slim19"
        lines.append(
            f"| {name} | {row['vgg19']:.4f} | {ratio:.2f}× | {row['deep']:.3f} | "
            f"{row['squeezenet']:.3f} | {row['content']:.2f} | {step} |"
        )
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Runs everything and writes table, scores and contact sheet."""
    output = pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    judges, scores, sheet = Judges(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        steps = time_steps(folder)
        for pair in FLAGS.pairs:
            scores[pair], pictures = evaluate_pair(pair, judges, folder, output)
            sheet.append(pictures)
            print(pair, {n: round(r["vgg19"], 4) for n, r in scores[pair].items()})
    names = list(next(iter(scores.values())))
    means = {
        name: {
            key: float(np.mean([rows[name][key] for rows in scores.values()]))
            for key in next(iter(scores.values()))[name]
        }
        for name in names
    }
    save_sheet(output / "comparison.png", sheet, ["content", "style", *names])
    (output / "comparison.md").write_text(table(means, steps) + "\n")
    facts = {"mean": means, "seconds_per_step": steps, "pairs": scores}
    (output / "comparison.json").write_text(json.dumps(facts, indent=2))
    print(table(means, steps), f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    flags.mark_flags_as_required(["true_vgg", "compressed_vgg", "squeezenet", "output"])
    app.run(main)
