"""Tests of tfstyle/tiling.py: a picture by tiles is the picture as a whole."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.backbones import get_backbone, vgg
from tfstyle.backbones.slim19 import SLIM19
from tfstyle.errors import UsageError
from tfstyle.features import FeatureExtractor, Field, receptive_fields
from tfstyle.losses import NORMALIZATIONS, PerceptualLoss, Targets
from tfstyle.optimize import Adam, optimize
from tfstyle.tiling import Grid, TiledLoss, choose_grid, cut

VGG_LAYERS = {
    "style": ["relu1_1", "relu2_1", "relu3_1"],
    "content": ["block3_conv1"],
}


@pytest.fixture
def float64():
    """Makes Keras build float64 models."""
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx(before)


def random(*shape, seed=0, dtype="float64"):
    return tf.constant(np.random.default_rng(seed).uniform(size=shape).astype(dtype))


def random_vgg(path):
    """A file of VGG-19's first five convolutions, few of whose features are 0."""
    rng, arrays, inputs = np.random.default_rng(3), {}, 3
    for layer in vgg.convolutions((2, 2, 1)):
        outputs = vgg.CHANNELS[int(layer[5]) - 1]
        scale = np.sqrt(2 / 9 / inputs)
        arrays[f"{layer}/kernel"] = rng.normal(0, scale, (3, 3, inputs, outputs))
        arrays[f"{layer}/bias"] = rng.normal(0.1, 0.1, outputs)
        inputs = outputs
    np.savez(path, **arrays)
    return path


def random_squeezenet(path):
    backbone = get_backbone("squeezenet")
    inputs = keras.Input([None, None, 3])
    model = keras.Model(inputs, backbone.build(inputs, "max"))
    rng = np.random.default_rng(4)
    np.savez(
        path,
        **{
            f"{layer.name}/{part}": rng.normal(
                0, 2 / np.sqrt(array[..., 0].size), array.shape
            )
            for layer in model.layers
            for part, array in zip(
                ("kernel", "bias"), layer.get_weights(), strict=False
            )
        },
    )
    return path


def make_loss(name, tmp_path, precision="float32", pooling="max", **changes):
    """A loss with content and style layers on a network."""
    layers = {
        "style": list(SLIM19.style_layers),
        "content": list(SLIM19.content_layers),
    }
    weights = "imagenet"
    if name == "vgg19":
        layers, weights = VGG_LAYERS, random_vgg(tmp_path / "vgg.npz")
    if name == "squeezenet":
        squeezenet = get_backbone(name)
        layers = {
            "style": list(squeezenet.style_layers),
            "content": list(squeezenet.content_layers),
        }
        weights = random_squeezenet(tmp_path / "squeezenet.npz")
    options = {
        "content_layers": dict.fromkeys(layers["content"], 1.0),
        "style_layers": dict.fromkeys(layers["style"], 0.5),
        "content_weight": 0.3,
        "style_weight": 1.0,
        "tv_weight": 0.2,
        **changes,
    }
    used = [*layers["content"]] if options["content_weight"] else []
    used += [*layers["style"]] if options["style_weight"] else []
    extract = FeatureExtractor(
        name, used, weights=weights, precision=precision, pooling=pooling
    )
    return PerceptualLoss(extract, **options)


def whole_and_tiled(loss, value, content, style, tiles, keep=True, of=lambda x: x):
    """Total, gradient and terms: of the whole picture, and by tiles."""
    targets = loss.targets(content, style)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total, terms = loss(of(value), targets, tv_images=value)
    whole = total, tape.gradient(total, value), terms
    tiled = TiledLoss(loss, keep_content=keep)
    size, style_size = value.shape[1:3], style.shape[1:3]
    sides = [cut(n, k, tiled.halo) for n, k in zip(size, tiles, strict=True)]
    grid = Grid(*sides)
    style_grid = choose_grid(style_size, tiled.halo, 0.7 * np.prod(style_size))
    assert len(grid) == np.prod(tiles) and len(style_grid) > 1
    targets = tiled.targets(content, style, grid, style_grid)
    return whole, tiled.value_and_gradient(value, targets, grid, of)


def assert_equal(whole, tiled, tolerance):
    """Compares totals and terms, and gradients at every pixel."""
    assert tiled[2].keys() == whole[2].keys()
    for name, term in whole[2].items():
        np.testing.assert_allclose(tiled[2][name], term, rtol=tolerance, err_msg=name)
    np.testing.assert_allclose(tiled[0], whole[0], rtol=tolerance)
    largest = np.abs(whole[1]).max()
    assert np.abs(tiled[1] - whole[1]).max() <= tolerance * largest
    # A seam would be of this size.
    assert np.abs(whole[1]).mean() > 1e-3 * largest


# In float64, where no rounding flips a ReLU, at every pixel.


@pytest.mark.parametrize(
    ("name", "size", "tiles"),
    [
        ("slim19", (229, 203), (2, 1)),
        ("slim19", (251, 246), (2, 2)),
        ("vgg19", (101, 83), (3, 2)),
        ("vgg19", (96, 128), (1, 4)),
        ("squeezenet", (157, 203), (2, 3)),
        ("squeezenet", (160, 131), (3, 1)),
    ],
)
@pytest.mark.parametrize("keep", [True, False])
def test_tiles_are_exact(float64, tmp_path, name, size, tiles, keep):
    loss = make_loss(name, tmp_path, "float64")
    pictures = random(1, *size, 3), random(1, *size, 3, seed=1)
    style = random(1, 277, 219, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, tiles, keep), 1e-10)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_tiles_are_exact_in_every_convention(float64, tmp_path, normalization, pooling):
    loss = make_loss("vgg19", tmp_path, "float64", pooling, normalization=normalization)
    pictures = random(1, 67, 90, 3), random(1, 67, 90, 3, seed=1)
    style = random(1, 97, 71, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, (2, 2)), 1e-10)


@pytest.mark.parametrize("weight", ["content_weight", "style_weight", "tv_weight"])
def test_a_loss_may_lack_a_part(float64, tmp_path, weight):
    loss = make_loss("vgg19", tmp_path, "float64", **{weight: 0.0})
    pictures = random(1, 67, 90, 3), random(1, 67, 90, 3, seed=1)
    style = random(1, 97, 71, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, (2, 2)), 1e-10)


def test_batches_and_other_spaces_are_exact(float64, tmp_path):
    loss = make_loss("vgg19", tmp_path, "float64")
    pictures = random(2, 67, 90, 3), random(2, 67, 90, 3, seed=1)
    style = random(1, 97, 71, 3, seed=2)
    whole, tiled = whole_and_tiled(
        loss, *pictures, style, (2, 2), of=lambda x: 0.2 * x + 0.4
    )
    assert_equal(whole, tiled, 1e-10)


# In float32, with weights as they are used.


@pytest.mark.parametrize("name", ["slim19", "squeezenet"])
def test_tiles_are_exact_but_for_rounding(tmp_path, name):
    loss = make_loss(name, tmp_path)
    pictures = (random(1, 233, 209, 3, seed=i, dtype="float32") for i in (0, 1))
    style = random(1, 277, 219, 3, seed=2, dtype="float32")
    whole, tiled = whole_and_tiled(loss, *pictures, style, (2, 2))
    np.testing.assert_allclose(tiled[0], whole[0], rtol=1e-5)
    difference = np.abs(tiled[1] - whole[1]) / np.abs(whole[1]).max()
    assert np.linalg.norm(tiled[1] - whole[1]) < 2e-4 * np.linalg.norm(whole[1])
    # Rounding may flip a ReLU or the largest of a pool.
    assert np.mean(difference > 1e-4) < 2e-3


def test_true_weights_are_exact_but_for_rounding(shared):
    extract = FeatureExtractor(
        "vgg19",
        VGG_LAYERS["style"],
        weights=shared / "weights" / "vgg19_normalised_to_block3_conv1.npz",
    )
    loss = PerceptualLoss(
        extract,
        content_layers={"relu3_1": 1.0},
        style_layers=dict.fromkeys(VGG_LAYERS["style"], 1.0),
        content_weight=0.05,
        style_weight=1.0,
        tv_weight=0.5,
    )
    pictures = (random(1, 121, 87, 3, seed=i, dtype="float32") for i in (0, 1))
    style = random(1, 97, 71, 3, seed=2, dtype="float32")
    whole, tiled = whole_and_tiled(loss, *pictures, style, (2, 2))
    assert_equal(whole, tiled, 1e-4)


# How pictures are cut.


@pytest.mark.parametrize("length", [96, 97, 111, 200, 1001])
@pytest.mark.parametrize("tiles", [1, 2, 3, 7])
@pytest.mark.parametrize("halo", [Field(16, 20, 33), Field(8, 0, 5), Field(1, 1, 1)])
def test_a_side_is_cut_without_gap_or_overlap(length, tiles, halo):
    side = cut(length, tiles, halo)
    room = length - sum(
        -(-n // halo.stride) * halo.stride for n in (halo.before, halo.after)
    )
    if tiles > 1 and room < tiles * halo.stride:
        assert side is None
        return
    assert len(side.spans) == tiles
    ends = [0, *[span.core_end for span in side.spans]]
    assert ends[:-1] == [span.core_begin for span in side.spans]
    assert ends[-1] == length
    for span in side.spans:
        end = span.begin + side.tile
        assert span.begin % halo.stride == span.core_begin % halo.stride == 0
        assert 0 <= span.begin <= span.core_begin < span.core_end <= end <= length
        assert span.begin == 0 or span.core_begin - span.begin >= halo.before
        assert end == length or end - span.core_end >= halo.after


def test_the_grid_with_the_least_work_is_chosen():
    halo = Field(8, 10, 10)
    assert len(choose_grid((300, 400), halo, 120_000)) == 1
    grid = choose_grid((300, 400), halo, 40_000)
    assert grid.shape[0] * grid.shape[1] <= 40_000
    work = len(grid) * grid.shape[0] * grid.shape[1]
    assert work < 1.4 * 300 * 400
    for tiles in ((1, 4), (4, 1), (2, 3), (3, 3)):
        other = Grid(cut(300, tiles[0], halo), cut(400, tiles[1], halo))
        pixels = other.shape[0] * other.shape[1]
        assert pixels > 40_000 or len(other) * pixels >= work


def test_tiles_that_cannot_be_small_enough_are_refused():
    with pytest.raises(UsageError, match=r"a tile of 0\.0\d megapixels, the least for"):
        choose_grid((300, 400), Field(16, 70, 70), 100)


# What the network sees.


def test_fields_of_the_networks():
    extract = FeatureExtractor("slim19", ["relu1_1", "relu2_1", "relu5_1", "pool1"])
    assert extract.fields == {
        "relu1_1": Field(1, 1, 1),
        "relu2_1": Field(2, 4, 4),
        "relu5_1": Field(16, 70, 70),
        "pool1": Field(2, 2, 2),
    }


def test_fields_of_windows_that_are_not_padded():
    x = inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(2, 3, strides=2)(x)
    outputs = {"a": x, "b": keras.layers.MaxPooling2D(3, 2)(x)}
    fields = receptive_fields(keras.Model(inputs, outputs))
    assert fields[id(outputs["a"])][1] == Field(2, 0, 1)
    assert fields[id(outputs["b"])][1] == Field(4, 0, 3)


def test_padding_with_strides_is_refused():
    inputs = keras.Input([None, None, 3])
    x = keras.layers.Conv2D(2, 3, strides=2, padding="same", name="half")(inputs)
    with pytest.raises(ValueError, match="half: strides with padding cannot be tiled"):
        receptive_fields(keras.Model(inputs, {"x": x}))


# Within the loop.


class FirstTiles(Grid):
    """A grid of which three tiles count."""

    def __len__(self):
        return 3


def test_large_pictures_run_in_the_loop():
    # TensorFlow put sums of tiles of pictures of this size into variables that clash.
    loss = make_loss("slim19", None)
    tiled, (height, width) = TiledLoss(loss), (3104, 4128)
    small = random(1, 64, 64, 3, dtype="float32")
    few = loss.targets(small, small)
    shapes = tiled.extract.shapes(height, width)
    content = {layer: tf.zeros([1, *shapes[layer]]) for layer in loss.content_layers}
    targets = Targets(content, few.norms, few.grams)
    grid = choose_grid((height, width), tiled.halo, 320**2)
    grid, rows = FirstTiles(grid.rows, grid.columns), []
    variable = tf.Variable(tf.zeros([1, height, width, 3]))
    optimize(
        lambda x: tiled.value_and_gradient(x, targets, grid, lambda value: value),
        Adam(variable, learning_rate=0.01),
        steps=2,
        term_names=loss.term_names,
        report=lambda new, _: bool(rows.extend(new)),
    )
    assert len(rows) == 2 and np.isfinite(rows).all()
