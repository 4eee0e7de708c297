"""Compares a feed-forward network with the optimisation of each picture.

The photograph of each pair is given its style by the network, and by
``tfstyle.stylize`` at several content weights. Judges are the networks of
``evaluate_backbone.py``, and the optimiser's style distance is interpolated at the
content distance that the network's picture has, because more style is easy to have at
the cost of the content.

Example:
  python scripts/evaluate_styles.py --pairs=cat:waves,photo.jpg:starry_night.jpg \
      --true_vgg=vgg19_to_block3.npz --compressed_vgg=vgg19_16x.npz \
      --squeezenet=squeezenet.h5 --output=styles
"""

from __future__ import annotations

import json
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags
from evaluate_backbone import (
    FLAGS,
    Judges,
    at_equal_content,
    picture_path,
    save_sheet,
)

import tfstyle

flags.DEFINE_string("model", "bundled", "The network, see tfstyle apply.")
flags.DEFINE_integer("style_size", 320, "Longest side of the styles, as trained on.")

CONTENT_WEIGHTS = (0.05, 0.2, 0.8)


def compare(
    photo: np.ndarray, style: np.ndarray, name: str, network, judges: Judges
) -> tuple[dict[str, float], list[np.ndarray]]:
    """Scores of one photograph in one style, and the pictures that were made."""
    applied = tfstyle.apply_style(photo, name, model=network)
    results = [
        tfstyle.stylize(photo, style, style_loss="gram", content_weight=weight)
        for weight in CONTENT_WEIGHTS
    ]
    scores = [judges.score(result.image, photo, style) for result in results]
    own = judges.score(applied, photo, style)
    optimised = at_equal_content(scores, own["content"], "vgg19")
    nearest = np.argmin([abs(score["content"] - own["content"]) for score in scores])
    row = {
        "network": own["vgg19"],
        "content": own["content"],
        "optimised": optimised,
        "ratio": own["vgg19"] / optimised,
        "photograph": judges.score(photo, photo, style)["vgg19"],
    }
    row |= {
        f"optimised_{weight}": [score["vgg19"], score["content"]]
        for weight, score in zip(CONTENT_WEIGHTS, scores, strict=True)
    }
    return row, [photo, style, applied, results[nearest].image]


def table(rows: dict[str, dict[str, float]]) -> str:
    """The means of each style as Markdown."""
    keys = ("photograph", "network", "optimised", "ratio")
    lines = [
        "| style | photograph | network | optimised, equal content | ratio |",
        "|---|---|---|---|---|",
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
    judges, network = Judges(), tfstyle.load_network(FLAGS.model)
    rows, sheet = {}, []
    for paths in FLAGS.pairs:
        photo, style = paths.split(":")
        pair = ":".join(pathlib.Path(path).stem for path in (photo, style))
        rows[pair], pictures = compare(
            tfstyle.load_image(picture_path("content", photo), FLAGS.size),
            tfstyle.load_image(picture_path("style", style), FLAGS.style_size),
            pathlib.Path(style).stem,
            network,
            judges,
        )
        sheet.append(pictures)
        print(pair, {k: np.round(v, 4).tolist() for k, v in rows[pair].items()})
    titles = ["photograph", "style", "network", "optimised"]
    save_sheet(output / "styles.png", sheet, titles)
    (output / "styles.md").write_text(table(rows) + "\n")
    (output / "styles.json").write_text(json.dumps(rows, indent=2))
    print(table(rows))


if __name__ == "__main__":
    flags.mark_flags_as_required(["true_vgg", "compressed_vgg", "squeezenet", "output"])
    app.run(main)
