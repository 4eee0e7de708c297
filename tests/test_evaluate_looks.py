import csv
import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver
from conftest import draw, load_script

import tfstyle
from tfstyle.backbones.weights import save_weights

pytestmark = pytest.mark.fast

LAYERS = ("block1_conv1", "block2_conv1", "block3_conv1")


@pytest.fixture(scope="module")
def measures():
    return load_script("look_measures")


@pytest.fixture(scope="module")
def looks():
    load_script("distil_backbone")
    load_script("evaluate_backbone")
    return load_script("evaluate_looks")


@pytest.fixture
def judge(measures, tiny_backbone):
    return measures.Judge(tfstyle.FeatureExtractor(tiny_backbone, LAYERS))


@pytest.fixture
def columns():
    """Hypercolumns of 12×16 cells."""
    return np.random.default_rng(1).normal(size=(12, 16, 8)).astype("float32")


def shuffled(picture, side):
    """The squares of a picture ``[H, W, C]`` in another order."""
    rows, across = picture.shape[0] // side, picture.shape[1] // side
    squares = picture.reshape(rows, side, across, side, -1).transpose(0, 2, 1, 3, 4)
    squares = squares.reshape(rows * across, side, side, -1)
    squares = np.random.default_rng(2).permutation(squares)
    squares = squares.reshape(rows, across, side, side, -1).transpose(0, 2, 1, 3, 4)
    return squares.reshape(picture.shape)


def test_judge_finds_no_difference_between_equal_pictures(judge):
    picture = draw(64, 80, (9, 14, 23))
    found = judge(picture, picture, picture)
    assert {"gram", "wasserstein", "to_style", "from_style", "content"} <= set(found)
    assert {"self_similarity", "luma", "chroma", "gram/block2_conv1"} <= set(found)
    assert max(map(abs, found.values())) < 1e-5


def test_judge_tells_a_shuffled_style_from_the_photograph(judge):
    photo, style = draw(128, 160, (40, 30, 24)), draw(128, 160, (4, 5, 7))
    mixed = shuffled(style[0], 32)[None]
    untouched, copied = judge(photo, photo, style), judge(mixed, photo, style)
    assert copied["gram"] < untouched["gram"] / 5
    assert copied["wasserstein"] < untouched["wasserstein"] / 5
    for name in ("to_style", "from_style"):
        assert copied[name] < untouched[name] / 2
    for name in ("content", "self_similarity"):
        assert untouched[name] < 1e-6 < 0.1 < copied[name]


def test_style_distances_of_doubled_features(measures):
    style = {"a": tf.random.stateless_normal([1, 9, 7, 5], [1, 2])}
    found = measures.style_distances({"a": 2 * style["a"]}, style)
    # The Gram matrix is four times as large, and every vector is moved by its length.
    assert found["gram"] == found["gram/a"] == pytest.approx(9)
    assert found["wasserstein"] == found["wasserstein/a"] == pytest.approx(1, rel=1e-4)


def test_style_distances_have_means_over_layers(measures):
    style = {layer: tf.random.stateless_normal([1, 6, 6, 4], [1, 2]) for layer in "ab"}
    found = measures.style_distances({"a": style["a"], "b": 2 * style["b"]}, style)
    assert found["gram"] == pytest.approx((found["gram/a"] + found["gram/b"]) / 2)
    assert found["gram/a"] < 1e-9 < 8 < found["gram/b"]


def test_neighbor_distances_do_not_mind_the_order(measures, columns):
    found = measures.neighbor_distances(shuffled(columns, 2), columns)
    assert found == pytest.approx({"to_style": 0, "from_style": 0}, abs=1e-6)


def test_neighbor_distances_miss_what_a_picture_leaves_out(measures, columns):
    half = measures.neighbor_distances(columns[:6], columns)
    assert half["to_style"] < 1e-6 < 0.1 < half["from_style"]
    more = measures.neighbor_distances(np.concatenate([columns, -columns]), columns)
    assert more["from_style"] < 1e-6 < 0.05 < more["to_style"]


def test_neighbor_distances_match_a_search_by_hand(measures, columns):
    made, wanted = columns[:5], columns[5:]
    mean = wanted.mean((0, 1))
    a, b = ((c - mean).reshape(-1, 8) for c in (made, wanted))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    distances = 1 - a @ b.T
    found = measures.neighbor_distances(made, wanted)
    assert found["to_style"] == pytest.approx(distances.min(1).mean(), rel=1e-4)
    assert found["from_style"] == pytest.approx(distances.min(0).mean(), rel=1e-4)


@pytest.mark.parametrize("octave", [0, 1, 2, 3])
def test_log_spectrum_has_the_variance_of_a_wave_in_its_octave(measures, octave):
    wavelength = 3 << octave
    x = np.arange(192) * 2 * np.pi / wavelength
    grey = 0.5 + 0.2 * np.sin(x)[None, None, :, None] * np.ones([1, 160, 1, 3])
    luma, chroma = measures.log_spectrum(grey)
    assert luma.argmax() == octave
    assert luma[octave] == pytest.approx(np.log2(0.2**2 / 2), abs=0.05)
    assert chroma.max() < -18  # what 8 bits would add


def test_spectrum_differences_show_grain_in_the_finest_octave(measures):
    picture = draw(96, 128, (20, 30, 40))
    noise = np.random.default_rng(3).normal(0, 0.05, (1, 96, 128, 1))
    found = measures.spectrum_differences(picture + noise, picture)
    assert found["luma/2-4"] > found["luma/4-8"] > found["luma/8-16"] > 0
    assert found["luma/2-4"] > 3 > 0.2 > abs(found["luma/32-64"])
    # Grey noise has no colour.
    assert found["chroma"] == pytest.approx(0, abs=1e-3) and found["luma"] > 1
    less = measures.spectrum_differences(picture, picture + noise)
    assert less["luma/2-4"] == pytest.approx(-found["luma/2-4"])


def test_self_similarity_minds_the_order_and_not_the_directions(measures, columns):
    distance = measures.self_similarity_distance
    assert distance(columns[..., ::-1], columns) < 1e-5
    assert distance(3 * columns, columns) < 1e-5
    assert distance(shuffled(columns, 2), columns) > 0.1


def test_self_similarity_matches_a_value_by_hand(measures):
    # Two cells alike and one across, beside three cells across.
    kept = np.eye(3, dtype="float32")[None]
    made = kept[:, [0, 0, 2]]
    # Shares 0, ½, ½ of each cell's distances; made has 0, 0, 1 twice, and ½, ½, 0.
    expected = (1 + 1 + 0) / 3
    assert measures.self_similarity_distance(made, kept) == pytest.approx(expected)


def test_pairs_are_held_out_and_exist(looks, shared):
    assert len(looks.PAIRS) >= 12
    for name in ":".join(looks.PAIRS).split(":"):
        if name.startswith(("photos/", "paintings/")):
            digest = hashlib.sha256(Path(name).name.encode()).hexdigest()
            assert int(digest, 16) % 20 == 0, name
        assert "/" not in name or (shared / name).is_file()


@pytest.fixture
def task(looks, tmp_path):
    """Flags for two small pictures and a random VGG-19; gives the output's folder."""
    weights, rng, inputs = {}, np.random.default_rng(5), 3
    for layer, outputs in zip(looks.LAYERS, (64, 64, 128, 128, 256), strict=True):
        shape = (3, 3, inputs, outputs)
        kernel = rng.normal(0, (2 / 9 / inputs) ** 0.5, shape)
        weights[f"{layer}/kernel"] = kernel.astype("float32")
        weights[f"{layer}/bias"] = np.zeros(outputs, "float32")
        inputs = outputs
    save_weights(tmp_path / "vgg.npz", weights)
    tfstyle.save_image(draw(48, 64, (40, 30, 24)), tmp_path / "photo.png")
    tfstyle.save_image(draw(56, 40, (4, 5, 7)), tmp_path / "painting.png")
    with flagsaver.flagsaver(
        true_vgg=str(tmp_path / "vgg.npz"),
        pairs=[f"{tmp_path}/photo.png:{tmp_path}/painting.png"],
        methods=["photo"],
        size=64,
        output=str(tmp_path / "looks"),
    ):
        yield tmp_path / "looks"


def read(folder):
    with (folder / "looks.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_evaluate_measures_what_it_makes_and_what_it_finds(looks, task):
    looks.evaluate(task)
    pair = task / "photo+painting"
    row = read(task)["photo"]
    assert float(row["content"]) == float(row["self_similarity"]) == 0
    assert float(row["gram"]) > 0.01 and float(row["seconds"]) < 1
    made = (pair / "photo.png").stat().st_mtime_ns

    # The picture of another program, and nothing to make anew.
    tfstyle.save_image(draw(47, 63, (4, 5, 7)), pair / "other.png")
    with flagsaver.flagsaver(pairs=[], methods=[]):
        looks.evaluate(task)
    assert (pair / "photo.png").stat().st_mtime_ns == made
    rows = read(task)
    assert rows["photo"] == row and set(rows) == {"photo", "other"}
    assert float(rows["other"]["gram"]) < float(row["gram"]) / 2
    assert math.isnan(float(rows["other"]["seconds"]))
    table = (task / "looks.md").read_text().splitlines()
    assert len(table) == 4 and len({line.count("|") for line in table}) == 1
    assert (task / "looks.png").is_file()


def test_evaluate_gives_each_method_the_style_at_its_scale(looks, task, monkeypatch):
    shapes = {}

    def build(method):
        def stylize(pair, content, style):
            shapes[method] = style.shape
            return content

        return stylize

    monkeypatch.setitem(looks.METHODS, "mine", build)
    with flagsaver.flagsaver(methods=["mine", "mine@1.5"]):
        looks.evaluate(task)
    assert shapes == {"mine": (1, 56, 40, 3), "mine@1.5": (1, 84, 60, 3)}
    rows = read(task)
    assert rows["mine"]["gram"] != rows["mine@1.5"]["gram"]
    assert rows["mine"]["content"] == rows["mine@1.5"]["content"]


def test_evaluate_leaves_out_pairs_that_a_method_has_no_style_for(looks, task):
    with flagsaver.flagsaver(methods=["photo", "bundled"]):
        looks.evaluate(task)
    assert set(read(task)) == {"photo"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"methods": ["grams"]}, "grams"),
        ({"methods": ["gram@big"]}, "gram@big"),
        ({"pairs": ["photo.png:nowhere.png"]}, "photo.png"),
        ({"pairs": ["photo.png"]}, "photo.png"),
        ({"true_vgg": "nowhere.npz"}, "nowhere.npz"),
        ({"pairs": [], "methods": []}, "looks"),
    ],
)
def test_main_refuses_in_one_line(looks, task, settings, named):
    with flagsaver.flagsaver(**settings), pytest.raises(SystemExit) as error:
        looks.main([])
    assert named in str(error.value) and "\n" not in str(error.value)


def test_evaluate_refuses_pictures_of_other_settings_or_names(looks, task, tmp_path):
    looks.evaluate(task)
    with (
        flagsaver.flagsaver(size=96),
        pytest.raises(tfstyle.UsageError, match="size=64"),
    ):
        looks.evaluate(task)
    tfstyle.save_image(draw(48, 64, (5, 5, 5)), tmp_path / "photo.png")
    with pytest.raises(tfstyle.UsageError, match="content"):
        looks.evaluate(task)


def test_microast_ungrouped_kernel_convolves_by_groups():
    ungrouped = load_script("microast").ungrouped
    rng = np.random.default_rng(6)
    x, kernel = rng.normal(size=(1, 6, 5, 8)), rng.normal(size=(3, 3, 2, 12))
    found = tf.nn.conv2d(
        x, ungrouped(kernel.astype("float32"), 8).astype(float), 1, "SAME"
    )
    parts = zip(np.split(x, 4, 3), np.split(kernel, 4, 3), strict=True)
    expected = tf.concat([tf.nn.conv2d(a, b, 1, "SAME") for a, b in parts], 3)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture
def microast(shared):
    script = load_script("microast")
    if not script.WEIGHTS.is_file():
        pytest.skip(f"needs {script.WEIGHTS}")
    return script


def test_the_network_for_any_style_has_the_codes_of_microast(microast):
    painting = draw(64, 68, (9, 9, 9))
    codes = microast.published().code(painting)
    for name, found in tfstyle.load_network("any").code(painting).items():
        np.testing.assert_array_equal(found, codes[name], err_msg=name)


def test_microast_is_the_same_network_in_pytorch(microast):
    pytest.importorskip("torch")
    photo, style = draw(64, 84, (40, 30, 24)), draw(64, 68, (9, 9, 9))
    in_torch = microast.InTorch(microast.WEIGHTS)(photo, style)
    network = microast.published()
    # Beyond the border, features are continued in another way; 9 pixels see that.
    inner = np.s_[:, 9:-9, 9:-9]
    found = network(photo, network.code(style)).numpy()
    np.testing.assert_allclose(found[inner], in_torch[inner], atol=1e-4)
