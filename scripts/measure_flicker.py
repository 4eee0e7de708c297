"""Measures how much films flicker and drift, frame by frame and steadied.

Flicker is the difference of neighbours along their motion. Drift is the distance of the
last frame's colours from the first one's: that of two Gaussians in RGB (Wasserstein).

The film is generated: the camera pans and zooms over one photograph of ``data/`` while
a disc cut from another passes in front of it, and every frame has its own sensor noise.

Example:
  python scripts/measure_flicker.py
  python scripts/measure_flicker.py --style=data/style/nocturne.jpg --width=256 \
      --height=144 --frames=6
"""

from __future__ import annotations

import math
import os
import pathlib
import time
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import itertools

import cv2
import numpy as np
from absl import app, flags

import tfstyle
from tfstyle.stylizer.film import TEMPORAL_WEIGHT
from tfstyle.video.flow import Motion, find_motion, frame_flicker, mean_flicker, warp
from tfstyle.video.stylize import TEMPORAL, StylizeFrame, follow_motion

FLAGS = flags.FLAGS
flags.DEFINE_integer("width", 480, "Width of the film in pixels.")
flags.DEFINE_integer("height", 270, "Height of the film in pixels.")
flags.DEFINE_integer("frames", 24, "Frames of the film, 24 a second.", 2)
flags.DEFINE_float("noise", 0.01, "Standard deviation of the noise, of [0, 1].")
flags.DEFINE_string("style", None, "A painting to optimise for; else trained styles.")
flags.DEFINE_list("style_names", None, "Trained styles; None for all.")
flags.DEFINE_string("picture", None, "Picture to write: first and last frames.")
flags.DEFINE_float("temporal", TEMPORAL, "Same as in tfstyle video.")
flags.DEFINE_float("temporal_weight", TEMPORAL_WEIGHT, "Same as in tfstyle video.")

CONTENT = pathlib.Path(__file__).resolve().parents[1] / "data" / "content"


def make_film(
    width: int, height: int, count: int, noise: float
) -> Iterator[np.ndarray]:
    """Yields frames, ``[1, height, width, 3]`` float32 in [0, 1]."""
    back, front = (
        tfstyle.load_image(CONTENT / name)[0] for name in ("astronaut.jpg", "cat.jpg")
    )
    random = np.random.default_rng(1)
    y, x = np.mgrid[:height, :width].astype("float32")
    radius = 0.22 * height
    for i in range(count):
        t = i / 24
        zoom = (back.shape[1] - 40) / width * (1 - 0.08 * t) * 0.8
        frame = _sampled(back, 10 + 45 * t + x * zoom, 20 + 18 * t + y * zoom)
        across = x - width * (0.15 + 0.6 * t)
        down = y - height * (0.6 - 0.15 * math.sin(2 * t))
        scale = min(front.shape[:2]) * 0.4 / radius
        middle = front.shape[1] / 2, front.shape[0] / 2
        disc = _sampled(front, middle[0] + across * scale, middle[1] + down * scale)
        share = np.clip(radius + 0.5 - np.hypot(across, down), 0, 1)[..., None]
        frame = frame * (1 - share) + disc * share
        frame += random.normal(0, noise, frame.shape)
        levels = np.rint(np.clip(frame, 0, 1) * 255)
        yield (levels / 255)[None].astype("float32")


def _sampled(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x.astype("float32"), y.astype("float32")
    return cv2.remap(picture, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def stylized(
    frames: list[np.ndarray], motions: list[Motion], stylize: StylizeFrame
) -> list[np.ndarray]:
    """Stylizes frames as ``tfstyle video`` does, each from the 8-bit one before."""
    made: list[np.ndarray] = []
    for i, frame in enumerate(frames):
        if made:
            motion = motions[i - 1]
            warped = np.clip(warp(made[-1], motion.flow), 0, 1)
            picture = stylize(frame, warped, motion.trust)
        else:
            picture = stylize(frame, None, None)
        made.append((np.rint(np.clip(picture, 0, 1) * 255) / 255).astype("float32"))
    return made


def flicker_of(made: list[np.ndarray], motions: list[Motion]) -> float:
    """The mean flicker of frames with these motions."""
    pairs = zip(made[1:], made, motions, strict=False)
    return mean_flicker(frame_flicker(*pair) for pair in pairs)


def drift_of(made: list[np.ndarray]) -> float:
    """The distance of the last frame's colours from those of the first."""
    (mean, covariance), (other, others) = (
        (frame.mean((0, 1, 2)), np.cov(frame.reshape(-1, 3), rowvar=False))
        for frame in (made[0], made[-1])
    )
    # The trace of the root of a product of covariances is that of its eigenvalues.
    product = np.linalg.eigvals(covariance @ others).real.clip(0)
    spread = np.trace(covariance + others) - 2 * np.sqrt(product).sum()
    return float(np.sqrt(np.square(mean - other).sum() + max(spread, 0)))


def stylizers() -> Iterator[tuple[str, StylizeFrame, StylizeFrame]]:
    """Yields styles by name: what stylizes each frame alone, and what steadies it."""
    if FLAGS.style:
        stylizer = tfstyle.Stylizer()
        alone = stylizer.film(FLAGS.style)
        name = pathlib.Path(FLAGS.style).stem
        steady = stylizer.film(FLAGS.style, temporal_weight=FLAGS.temporal_weight)
        yield name, lambda frame, *_: alone(frame, None, None), steady
        return
    network = tfstyle.load_network()
    for name in FLAGS.style_names or network.style_names:
        yield (
            name,
            follow_motion(network, name, temporal=0.0),
            follow_motion(network, name, temporal=FLAGS.temporal),
        )


def main(_: list[str]) -> None:
    """Prints a table."""
    frames = list(make_film(FLAGS.width, FLAGS.height, FLAGS.frames, FLAGS.noise))
    motions = [find_motion(b, a) for a, b in itertools.pairwise(frames)]
    print(f"the film itself: {flicker_of(frames, motions):.3f}, {drift_of(frames):.3f}")
    print(
        "\n| style | flicker alone | steadied | ratio | drift alone | steadied "
        "| s per frame, alone | steadied |"
    )
    print("|---" * 8 + "|")
    for name, *pair in stylizers():
        flickers, drifts, seconds, rows = [], [], [], []
        for stylize in pair:
            began = time.monotonic()
            made = stylized(frames, motions, stylize)
            seconds.append((time.monotonic() - began) / len(frames))
            flickers.append(flicker_of(made, motions))
            drifts.append(drift_of(made))
            rows.append(np.concatenate([made[0], *made[-2:]], 2))
        if FLAGS.picture:
            tfstyle.save_image(np.concatenate(rows, 1), FLAGS.picture)
        ratio = flickers[1] / flickers[0]
        print(
            f"| {name} | {flickers[0]:.3f} | {flickers[1]:.3f} | {ratio:.2f} "
            f"| {drifts[0]:.3f} | {drifts[1]:.3f} "
            f"| {seconds[0]:.2f} | {seconds[1]:.2f} |"
        )


if __name__ == "__main__":
    app.run(main)
