"""Compares methods by how their pictures look, with more than one loss as the judge.

Each style loss wins by its own measure. These are from ``look_measures.py``, with the
features of the true VGG-19's first five convolutions:

* ``gram``, ``wasserstein``: relative distances of Gram matrices and of Gaussians.
* ``to_style``, ``from_style``: how far each patch of the picture is from the nearest of
  the style (is all of it drawn like the style?), and each patch of the style from the
  nearest of the picture (is all of the style in it?).
* ``luma``, ``chroma``: log2 of the power in each octave of wavelengths, less that of
  the style. Above 0, the picture has more; the means are of absolute values.
* ``content``, ``self_similarity``: the relative distance of features from those of the
  photograph, and that of what resembles what in the picture.
* ``seconds``, and ``processor_seconds`` of all cores together, which other programs on
  the machine disturb less: for an optimiser with the first use of a size, for a network
  without.

Each pair has a folder in ``--output`` with ``content.*``, ``style.*`` and a PNG for
each method. Pictures that are there are only measured, so that an interrupted run goes
on, and pictures of other programs can take part. A method whose name ends in ``@1.5``
is given the style 1.5 times as large, and is compared with that.

The default pairs are samples and pictures of the shared folder. Those in its ``photos``
and ``paintings`` are held out from training: the SHA-256 of the file's name is a
multiple of 20.

Example:
  python scripts/evaluate_looks.py --output=looks
  python scripts/evaluate_looks.py --output=looks --methods=any,bundled \
      --pairs=cat:waves,photo.jpg:painting.jpg
  python scripts/evaluate_looks.py --output=looks --pairs= --methods=
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import microast
import numpy as np
from absl import app, flags
from evaluate_backbone import FLAGS, picture_path, save_sheet
from look_measures import Judge

import tfstyle
from tfstyle.files import replaced, sha256
from tfstyle.images import read_metadata
from tfstyle.networks.blends import BUNDLED, PRESET_FILES
from tfstyle.stylizer.pictures import read_styles

flags.DEFINE_list(
    "methods",
    ["photo", "gram", "wasserstein@1.5", "neighbors", "any", "bundled"],
    "What makes the pictures: photo (the photograph as it is), gram, wasserstein or "
    "neighbors (the optimiser with that loss), any (the network for any style), "
    "bundled (the network of bundled styles, where the style is one of them).",
)

PAIRS = [
    # A portrait in pencil, one in paint.
    "photos/flowers/2470177960-7bd67db186-n.jpg:"
    "paintings/cubism/fernand-leger-portrait-of-henry-viel-a-friend-of-painter-fer.jpg",
    "photos/bsds500/train/181079.jpg:images/style/the_scream.jpg",
    # Animals as a flat poster and in ink.
    "photos/imagenet_sample/n02088364-beagle.jpg:"
    "paintings/cubism/ernst-ludwig-kirchner-mask-dance-1929.jpg",
    "photos/bsds500/train/42044.jpg:paintings/song_ming/141.jpg",
    # Buildings as a woodcut and in paint.
    "photos/bsds500/test/79073.jpg:"
    "paintings/ukiyo_e/katsushika-hokusai-a-colored-version-of-the-big-wave.jpg",
    "photos/bsds500/train/301007.jpg:images/style/starry_night.jpg",
    # Landscapes, cubist and as a woodcut.
    "photos/bsds500/test/145079.jpg:"
    "paintings/cubism/fernand-leger-the-house-under-the-trees-1913.jpg",
    "photos/bsds500/train/55067.jpg:waves",
    # The night in paint, a cubist street.
    "rocket:images/style/composition_vii.jpg",
    "photos/bsds500/test/147080.jpg:images/style/muse.jpg",
    # Still lifes of a texture and of glass.
    "photos/flowers/6227136437-6117068599-m.jpg:"
    "paintings/textures/crystalline-0204.jpg",
    "photos/imagenet_sample/n03775546-mixing-bowl.jpg:stained_glass",
]
SIZE = 384
TRUE_VGG = microast.SHARED / "weights" / "vgg19_normalised_to_block3_conv1.npz"
LAYERS = (
    "block1_conv1",
    "block1_conv2",
    "block2_conv1",
    "block2_conv2",
    "block3_conv1",
)
TIMES = ("seconds", "processor_seconds")
COLUMNS = {
    "gram": "Gram",
    "wasserstein": "Wasserstein",
    "to_style": "to style",
    "from_style": "from style",
    "luma": "luma",
    "luma/2-4": "finest luma",
    "chroma": "chroma",
    "chroma/2-4": "finest chroma",
    "content": "content",
    "self_similarity": "self-similarity",
    "seconds": "seconds",
    "processor_seconds": "of all cores",
}
"""Those of the table, by measure."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """A folder with a photograph, a style picture, and what was made of them."""

    folder: pathlib.Path

    @classmethod
    def of(cls, output: pathlib.Path, names: str) -> Pair:
        """Copies the pictures of ``content:style``, samples or files, to a folder.

        Raises:
          UsageError: If these are not two, one is missing, or the folder is that of
            other pictures of the same names.
        """
        if names.count(":") != 1:
            raise tfstyle.UsageError(f"pairs: {names!r} is not content:style")
        sources = {}
        for kind, name in zip(("content", "style"), names.split(":"), strict=True):
            path = picture_path(kind, name)
            sources[kind] = path if path.is_file() else microast.SHARED / path
            if not sources[kind].is_file():
                raise tfstyle.UsageError(
                    f"pairs: there is no picture {name}, nor {sources[kind]}; set "
                    "TFSTYLE_SHARED to the folder of reference data"
                )
        pair = cls(output / "+".join(path.stem[:40] for path in sources.values()))
        pair.folder.mkdir(parents=True, exist_ok=True)
        for kind, path in sources.items():
            copy = pair.folder / f"{kind}{path.suffix}"
            if not copy.exists():
                with replaced(copy) as temporary:
                    shutil.copyfile(path, temporary)
            if sha256(copy) != sha256(path):
                raise tfstyle.UsageError(f"{copy}: is not {path}; empty its folder")
        return pair

    @property
    def style_file(self) -> pathlib.Path:
        """The style picture."""
        return self._file("style")

    def content(self) -> np.ndarray:
        """The photograph, ``[1, H, W, 3]``."""
        return tfstyle.load_image(self._file("content"), FLAGS.size)

    def style(self, method: str = "") -> np.ndarray:
        """The style picture at the scale that a method is given, ``[1, H, W, 3]``."""
        options = tfstyle.Options(size=FLAGS.size, style_scale=[scale_of(method)])
        return read_styles(options, self.style_file).pictures[0]

    def result(self, method: str) -> pathlib.Path:
        """Where the picture of a method is, or will be."""
        return self.folder / f"{method}.png"

    def methods(self) -> list[str]:
        """The methods of which there are pictures."""
        names = {path.stem for path in self.folder.glob("*.png")}
        return sorted(names - {"content", "style"})

    def _file(self, kind: str) -> pathlib.Path:
        files = sorted(self.folder.glob(f"{kind}.*"))
        if not files:
            raise tfstyle.UsageError(f"{self.folder}: has no picture named {kind}")
        return files[0]


def scale_of(method: str) -> float:
    """The scale of the style at the end of a method's name.

    Raises:
      UsageError: If it is not a number.
    """
    _, _, scale = method.partition("@")
    try:
        return float(scale or 1)
    except ValueError:
        raise tfstyle.UsageError(f"methods: {method!r} ends in no number") from None


Stylize = Callable[[Pair, np.ndarray, np.ndarray], np.ndarray | None]
"""Makes a picture from a pair and its photograph and style; None if it cannot."""


def photo(method: str) -> Stylize:
    """The photograph as it is."""
    return lambda pair, content, style: content


def optimised(method: str) -> Stylize:
    """The optimiser, which is built once for all pairs."""
    loss, scale = method.partition("@")[0], scale_of(method)
    size, style_size = FLAGS.size, round(FLAGS.size * scale)
    stylizer = tfstyle.Stylizer(
        style_loss=loss, size=size, style_size=style_size, style_scale=(1.0,)
    )
    return lambda pair, content, style: stylizer(content, style).image


def bundled(method: str) -> Stylize:
    """The network of bundled styles, for the pictures that it was trained on."""
    facts = json.loads(PRESET_FILES[BUNDLED].with_suffix(".json").read_text())
    names = {fact["sha256"]: name for name, fact in facts["styles"].items()}
    network = tfstyle.load_network()

    def stylize(pair: Pair, content: np.ndarray, _: np.ndarray) -> np.ndarray | None:
        name = names.get(sha256(pair.style_file))
        return None if name is None else network.stylize(content, name)

    return stylize


def any_style(method: str) -> Stylize:
    """The network for any style."""
    network = tfstyle.StyleNet.from_preset("any")
    return lambda pair, content, style: network.stylize(content, style)


OPTIMISERS = dict.fromkeys(("gram", "wasserstein", "neighbors"), optimised)
NETWORKS = {"bundled": bundled, "any": any_style}
METHODS = {"photo": photo, **OPTIMISERS, **NETWORKS}


def stylizers(methods: Iterable[str]) -> dict[str, Stylize]:
    """What makes the pictures of each method.

    Raises:
      UsageError: If there is no such method, or it cannot run here.
    """
    found = {}
    for method in methods:
        kind = method.partition("@")[0]
        if kind not in METHODS:
            raise tfstyle.UsageError(
                f"methods: there is no {kind}; give some of {', '.join(METHODS)}"
            )
        found[method] = METHODS[kind](method)
    return found


def make_missing(pair: Pair, found: dict[str, Stylize]) -> None:
    """Makes the pictures of a pair that are not there yet."""
    for method, stylize in found.items():
        if pair.result(method).exists():
            continue
        content, style = pair.content(), pair.style(method)
        for _ in range(2 if method.partition("@")[0] in NETWORKS else 1):
            began = time.monotonic(), time.process_time()
            picture = stylize(pair, content, style)
            ended = time.monotonic(), time.process_time()
        if picture is not None:
            facts = {
                name: f"{end - begin:.3f}"
                for name, begin, end in zip(TIMES, began, ended, strict=True)
            }
            facts["size"] = str(FLAGS.size)
            tfstyle.save_image(picture, pair.result(method), metadata=facts)
            print(f"{pair.folder.name}: {method}, {facts['seconds']} s", flush=True)


def measured(pair: Pair, method: str, judge: Judge) -> dict[str, float]:
    """All measures of one picture.

    Raises:
      UsageError: If it was made with another ``--size``.
    """
    file = pair.result(method)
    facts = read_metadata(file)
    if (size := facts.get("size", str(FLAGS.size))) != str(FLAGS.size):
        raise tfstyle.UsageError(f"{file}: was made with --size={size}")
    picture, content = tfstyle.load_image(file), pair.content()
    if content.shape != picture.shape:
        content = tfstyle.resize_image(content, picture.shape[1:3])
    times = {name: float(facts.get(name, "nan")) for name in TIMES}
    return {**judge(picture, content, pair.style(method)), **times}


def table(rows: Sequence[tuple[str, str, dict[str, float]]]) -> str:
    """The means of each method as Markdown.

    Args:
      rows: Pair, method and measures of each picture.
    """
    lines = [
        f"| method | pictures | {' | '.join(COLUMNS.values())} |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for method in dict.fromkeys(method for _, method, _ in rows):
        own = [measures for _, name, measures in rows if name == method]
        means = [np.mean([measures[key] for measures in own]) for key in COLUMNS]
        shown = " | ".join("" if np.isnan(mean) else f"{mean:.3g}" for mean in means)
        lines.append(f"| {method} | {len(own)} | {shown} |")
    return "\n".join(lines)


def write_csv(path: pathlib.Path, rows: Sequence[tuple]) -> None:
    """Writes all numbers, one row for each picture."""
    with replaced(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["pair", "method", *rows[0][2]])
        writer.writeheader()
        for pair, method, measures in rows:
            numbers = {name: f"{value:.6g}" for name, value in measures.items()}
            writer.writerow({"pair": pair, "method": method, **numbers})


def sheet_row(pair: Pair, methods: Iterable[str]) -> list[np.ndarray]:
    """The style and what was made; white where a method has no picture."""
    files = map(pair.result, methods)
    white = np.ones([1, 1, 1, 3], "float32")
    made = [tfstyle.load_image(file) if file.exists() else white for file in files]
    return [pair.style(), *made]


def evaluate(output: pathlib.Path) -> None:
    """Makes and measures all pictures; writes table, numbers and contact sheet.

    Raises:
      TfstyleError: If a picture or a method is missing.
      OSError: If weights are missing.
    """
    judge = Judge(tfstyle.FeatureExtractor("vgg19", LAYERS, weights=FLAGS.true_vgg))
    found = stylizers(FLAGS.methods)
    pairs = [Pair.of(output, names) for names in FLAGS.pairs]
    pairs = pairs or [Pair(path) for path in sorted(output.iterdir()) if path.is_dir()]
    for pair in pairs:
        make_missing(pair, found)
    made = {pair: pair.methods() for pair in pairs}
    methods = list(dict.fromkeys(itertools.chain(found, *made.values())))
    rows = [
        (pair.folder.name, method, measured(pair, method, judge))
        for pair in pairs
        for method in methods
        if method in made[pair]
    ]
    if not rows:
        raise tfstyle.UsageError(f"{output}: has no pictures to measure")
    rows.sort(key=lambda row: methods.index(row[1]))
    write_csv(output / "looks.csv", rows)
    sheet = [sheet_row(pair, methods) for pair in pairs]
    save_sheet(output / "looks.png", sheet, ["style", *methods])
    (output / "looks.md").write_text(table(rows) + "\n")
    print(table(rows))


def main(_: list[str]) -> None:
    """Evaluates, or says in one line why not."""
    output = pathlib.Path(FLAGS.output)
    try:
        output.mkdir(parents=True, exist_ok=True)
        evaluate(output)
    except (tfstyle.TfstyleError, OSError) as error:
        sys.exit(f"evaluate_looks: {error}")


if __name__ == "__main__":
    FLAGS.set_default("pairs", PAIRS)
    FLAGS.set_default("size", SIZE)
    FLAGS.set_default("true_vgg", str(TRUE_VGG))
    flags.mark_flag_as_required("output")
    app.run(main)
