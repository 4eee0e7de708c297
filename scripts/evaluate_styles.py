"""Compares feed-forward networks with the optimisation of each picture.

The photograph of each pair is given its style by the networks, and by
``tfstyle.stylize`` at several content weights. Judges are the networks of
``evaluate_backbone.py``, and the optimiser's style distance is interpolated at the
content distance that a network's picture has, because more style is easy to have at
the cost of the content.

Example:
  python scripts/evaluate_styles.py --pairs=cat:waves,photo.jpg:starry_night.jpg \
      --true_vgg=vgg19_to_block3.npz --compressed_vgg=vgg19_16x.npz \
      --squeezenet=squeezenet.h5 --output=styles
  python scripts/evaluate_styles.py --models=any --held_out=20 \
      --true_vgg=vgg19_to_block3.npz --compressed_vgg=vgg19_16x.npz \
      --squeezenet=squeezenet.h5 --output=any
"""

from __future__ import annotations

import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import microast
import numpy as np
from absl import app, flags
from evaluate_backbone import (
    FLAGS,
    Judges,
    at_equal_content,
    picture_path,
    save_sheet,
)
from held_out import is_held_out, number

import tfstyle
from tfstyle.images.folder import picture_files
from tfstyle.networks.blends import takes_any_style

flags.DEFINE_list(
    "models",
    ["bundled"],
    "The networks, see tfstyle apply.",
)
flags.DEFINE_integer("style_size", 320, "Longest side of the styles, as trained on.")
flags.DEFINE_integer(
    "held_out",
    0,
    "In place of pairs: so many paintings of the shared folder that no training has "
    "seen, of all kinds in turn, each with one of five such photographs.",
    lower_bound=0,
)

CONTENT_WEIGHTS = (0.05, 0.2, 0.8)


Paint = Callable[[np.ndarray, np.ndarray, str], np.ndarray]
"""Gives a photograph a style, which is a picture and a name."""


def held_out_pairs(count: int) -> list[str]:
    """Pairs of ``--held_out``: a file's name decides whether and when it is chosen."""

    def chosen(folder: str) -> list[pathlib.Path]:
        kinds: dict[str, list[pathlib.Path]] = {}
        for path in sorted(picture_files(microast.SHARED / folder), key=number):
            if is_held_out(path):
                kinds.setdefault(path.parent.name, []).append(path)
        in_turn = itertools.zip_longest(*(kinds[kind] for kind in sorted(kinds)))
        return [path for turn in in_turn for path in turn if path]

    photos = itertools.cycle(chosen("photos")[:5])
    return [f"{next(photos)}:{style}" for style in chosen("paintings")[:count]]


def painter(model: str) -> Paint:
    """How a network gives its styles."""
    network, any_style = tfstyle.load_network(model), takes_any_style(model)

    def paint(photo: np.ndarray, style: np.ndarray, name: str) -> np.ndarray:
        chosen = style if any_style else name
        return tfstyle.apply_style(photo, chosen, model=network)

    return paint


def compare(
    photo: np.ndarray,
    style: np.ndarray,
    name: str,
    networks: Mapping[str, Paint],
    optimizers: Mapping[float, tfstyle.Stylizer],
    judges: Judges,
) -> tuple[dict[str, dict[str, float]], list[np.ndarray]]:
    """Scores of one photograph in one style by network, and the pictures."""
    made = {model: paint(photo, style, name) for model, paint in networks.items()}
    results = [optimize(photo, style) for optimize in optimizers.values()]
    scores = [judges.score(result.image, photo, style) for result in results]
    photograph = judges.score(photo, photo, style)["vgg19"]
    by_weight = {
        f"optimised_{weight}": [score["vgg19"], score["content"]]
        for weight, score in zip(optimizers, scores, strict=True)
    }
    rows = {}
    for model, picture in made.items():
        own = judges.score(picture, photo, style)
        optimised = at_equal_content(scores, own["content"], "vgg19")
        rows[model] = {
            "network": own["vgg19"],
            "content": own["content"],
            "optimised": optimised,
            "ratio": own["vgg19"] / optimised,
            "photograph": photograph,
            **by_weight,
        }
    content = next(iter(rows.values()))["content"]
    nearest = np.argmin([abs(score["content"] - content) for score in scores])
    return rows, [photo, style, *made.values(), results[nearest].image]


def table(rows: dict[str, dict[str, float]]) -> str:
    """The means of each style as Markdown; ``rows`` are those of one network."""
    keys = ("photograph", "network", "content", "optimised", "ratio")
    lines = [
        "| style | photograph | network | content | optimised, equal content | ratio |",
        "|---|---|---|---|---|---|",
    ]
    names = dict.fromkeys(pair.split(":")[1] for pair in rows)
    for name in (*names, ""):
        chosen = [row for pair, row in rows.items() if pair.endswith(name)]
        means = [float(np.mean([row[key] for row in chosen])) for key in keys]
        shown = " | ".join(f"{mean:.3g}" for mean in means)
        lines.append(f"| {name or 'all'} | {shown} |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    """Compares all pairs; writes table, scores and contact sheet."""
    output = pathlib.Path(FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    judges, networks = Judges(), {model: painter(model) for model in FLAGS.models}
    optimizers = {
        weight: tfstyle.Stylizer(style_loss="gram", content_weight=weight)
        for weight in CONTENT_WEIGHTS
    }
    rows: dict[str, dict[str, dict[str, float]]] = {model: {} for model in networks}
    sheet = []
    pairs = held_out_pairs(FLAGS.held_out) if FLAGS.held_out else FLAGS.pairs
    for paths in pairs:
        photo, style = paths.split(":")
        pair = ":".join(pathlib.Path(path).stem for path in (photo, style))
        found, pictures = compare(
            tfstyle.load_image(picture_path("content", photo), FLAGS.size),
            tfstyle.load_image(picture_path("style", style), FLAGS.style_size),
            pathlib.Path(style).stem,
            networks,
            optimizers,
            judges,
        )
        sheet.append(pictures)
        for model, row in found.items():
            rows[model][pair] = row
            print(pair, model, {k: np.round(v, 4).tolist() for k, v in row.items()})
        (output / "styles.json").write_text(json.dumps(rows, indent=2))
    titles = ["photograph", "style", *networks, "optimised"]
    save_sheet(output / "styles.png", sheet, titles)
    tables = "\n\n".join(f"{model}\n\n{table(rows[model])}" for model in rows)
    (output / "styles.md").write_text(tables + "\n")
    print(tables)


if __name__ == "__main__":
    flags.mark_flags_as_required(["true_vgg", "compressed_vgg", "squeezenet", "output"])
    app.run(main)
