"""``TiledLoss``: a picture by tiles is the picture as a whole."""

import dataclasses
import typing
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfstyle.backbones import get_backbone, vgg
from tfstyle.backbones.feature_extractor import LAPLACIAN, FeatureExtractor
from tfstyle.backbones.slim19 import SLIM19
from tfstyle.images import load_image
from tfstyle.images.tiles import Grid, choose_grid, cut
from tfstyle.losses import PerceptualLoss, functions, perceptual
from tfstyle.losses.tiled import TiledLoss, halo_of
from tfstyle.optimizers.adam import Adam
from tfstyle.optimizers.loop import Loop, differentiated
from tfstyle.options.options import Normalization
from tfstyle.raw_tensorflow import call_in_own_graph
from tfstyle.stylizer.guides import guides

NORMALIZATIONS = typing.get_args(Normalization)
DATA = Path(__file__).resolve().parents[1] / "data"
VGG_LAYERS = {
    "style": ["relu1_1", "relu2_1", "relu3_1"],
    "content": ["block3_conv1"],
}


@pytest.fixture
def float64():
    """Makes Keras build float64 models."""
    # Keras remembers the policy that it makes of floatx, so both are restored.
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before[0])
    keras.config.set_dtype_policy(before[1])


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


def make_tiny_loss(backbone, padding="zero", pooling="max", changes=(), **options):
    """A loss of every layer of the tiny network, padded in one way or the other."""
    channels = {
        name.removesuffix("/kernel"): array.shape[-1]
        for name, array in backbone.published_weights().items()
        if name.endswith("/kernel")
    }
    padded = dataclasses.replace(
        backbone, build=lambda x, pooling: vgg.build(x, channels, pooling, padding)
    )
    extract = FeatureExtractor(padded, channels, pooling=pooling, **options)
    weights = {"content_weight": 0.3, "style_weight": 1.0, "tv_weight": 0.2}
    return PerceptualLoss(
        extract,
        content_layers={"block2_conv1": 0.7, "block3_conv1": 1.0},
        style_layers=dict.fromkeys(channels, 0.5),
        **{**weights, **dict(changes)},
    )


def normalized(value):
    """Another space, of other units in each channel."""
    deviation, mean = ([0.229, 0.224, 0.225], [0.485, 0.456, 0.406])
    return value * tf.constant(deviation, value.dtype) + tf.constant(mean, value.dtype)


def grid_of(tiled, size, tiles):
    halo = halo_of(tiled.loss)
    return Grid(*(cut(n, k, halo) for n, k in zip(size, tiles, strict=True)))


def tiled_targets(tiled, content, style, grid, style_grid, **more):
    """The targets of a loss, all of them computed by tiles."""
    return tiled.loss.assemble(
        grid.size,
        *tiled.content_targets(content, grid),
        tiled.style_statistics(style, style_grid, more.get("guides")),
        entries=tiled.entries(grid),
        **more,
    )


def evaluate_whole(loss, value, targets, of=lambda x: x):
    """Total, gradient and terms of the whole picture."""
    objective = differentiated(lambda x, targets: loss(of(x), targets, tv_images=x))
    # Eagerly, other kernels round, and break the ties of a pool, in other ways.
    return call_in_own_graph(
        lambda x: objective(x, targets), tf.convert_to_tensor(value)
    )


def evaluate_tiled(tiled, value, targets, grid, of=lambda x: x):
    """Total, gradient and terms by tiles, in a graph as in a run."""

    @tf.function(autograph=False)
    def traced(value, targets):
        return tiled.value_and_gradient(value, targets, grid, of)

    return traced(value, targets)


def whole_and_tiled(loss, value, content, style, tiles, keep=True, of=lambda x: x):
    """Total, gradient and terms: of the whole picture, and by tiles."""
    whole = evaluate_whole(loss, value, loss.targets(content, style), of)
    tiled = TiledLoss(loss, keep_content=keep)
    size, style_size = value.shape[1:3], style.shape[1:3]
    grid = grid_of(tiled, size, tiles)
    style_grid = choose_grid(style_size, halo_of(loss), 0.7 * np.prod(style_size))
    assert len(grid) == np.prod(tiles) and len(style_grid) > 1
    targets = tiled_targets(tiled, content, style, grid, style_grid)
    return whole, evaluate_tiled(tiled, value, targets, grid, of)


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
    ("name", "size", "tiles", "keep"),
    [
        ("slim19", (251, 246), (2, 2), False),
        ("vgg19", (101, 83), (3, 2), True),
        ("vgg19", (96, 128), (1, 4), False),
        ("squeezenet", (157, 203), (2, 3), True),
        ("squeezenet", (160, 131), (3, 1), False),
    ],
)
def test_value_and_gradient_equals_the_whole(
    float64, tmp_path, name, size, tiles, keep
):
    loss = make_loss(name, tmp_path, "float64")
    pictures = random(1, *size, 3), random(1, *size, 3, seed=1)
    style = random(1, 277, 219, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, tiles, keep), 1e-10)


@pytest.mark.parametrize(
    ("normalization", "pooling"),
    [*((each, "max") for each in NORMALIZATIONS), ("mean", "avg")],
)
def test_value_and_gradient_equals_the_whole_in_every_convention(
    float64, tiny_backbone, normalization, pooling
):
    convention = {"normalization": normalization}
    loss = make_tiny_loss(
        tiny_backbone, pooling=pooling, changes=convention, precision="float64"
    )
    pictures = random(1, 37, 46, 3), random(1, 37, 46, 3, seed=1)
    style = random(1, 59, 51, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, (2, 2)), 1e-10)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_value_and_gradient_of_the_wasserstein_distance(
    float64, tiny_backbone, normalization
):
    changes = {"normalization": normalization, "style_loss": "wasserstein"}
    loss = make_tiny_loss(tiny_backbone, changes=changes, precision="float64")
    pictures = random(1, 37, 46, 3), random(1, 37, 46, 3, seed=1)
    style = random(1, 59, 51, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, (2, 2)), 1e-8)


@pytest.mark.parametrize("weight", ["content_weight", "style_weight", "tv_weight"])
def test_value_and_gradient_without_one_of_the_losses(float64, tmp_path, weight):
    loss = make_loss("vgg19", tmp_path, "float64", **{weight: 0.0})
    pictures = random(1, 53, 60, 3), random(1, 53, 60, 3, seed=1)
    style = random(1, 67, 51, 3, seed=2)
    assert_equal(*whole_and_tiled(loss, *pictures, style, (2, 2)), 1e-10)


def test_value_and_gradient_of_batches_in_another_space(float64, tmp_path):
    loss = make_loss("vgg19", tmp_path, "float64")
    pictures = random(2, 67, 90, 3), random(2, 67, 90, 3, seed=1)
    style = random(1, 97, 71, 3, seed=2)
    whole, tiled = whole_and_tiled(
        loss, *pictures, style, (2, 2), of=lambda x: 0.2 * x + 0.4
    )
    assert_equal(whole, tiled, 1e-10)


@pytest.mark.parametrize("padding", ["zero", "reflect"])
@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("keep", [True, False])
def test_value_and_gradient_with_tiles_in_the_middle(
    float64, tiny_backbone, padding, pooling, keep
):
    loss = make_tiny_loss(tiny_backbone, padding, pooling, precision="float64")
    pictures = random(2, 61, 47, 3), random(2, 61, 47, 3, seed=1)
    style = random(1, 59, 71, 3, seed=2)
    whole, tiled = whole_and_tiled(
        loss, *pictures, style, (3, 3), keep=keep, of=normalized
    )
    assert_equal(whole, tiled, 1e-10)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("missing", "terms"), [("content", 3), ("style", 2), ("both", 1)]
)
def test_value_and_gradient_without_pictures_that_no_term_needs(
    float64, tiny_backbone, missing, terms, keep
):
    weights = {"tv_weight": 0.0 if missing != "both" else 1.0}
    value, content, style = (random(1, 38, 45, 3, seed=i) for i in range(3))
    if missing in ("content", "both"):
        weights["content_weight"], content = 0.0, None
    if missing in ("style", "both"):
        weights["style_weight"], style = 0.0, None
    loss = make_tiny_loss(tiny_backbone, precision="float64", changes=weights)
    whole = evaluate_whole(loss, value, loss.targets(content, style, (38, 45)))
    tiled = TiledLoss(loss, keep_content=keep)
    grid = grid_of(tiled, (38, 45), (2, 3))
    targets = tiled_targets(tiled, content, style, grid, grid)
    ours = evaluate_tiled(tiled, value, targets, grid)
    assert len(ours[2]) == terms
    assert_equal(whole, ours, 1e-10)


def test_value_and_gradient_changes_nothing_that_it_was_given(tiny_backbone):
    # Tiles are added to the whole in place; what was given must stay as it was.
    loss = make_tiny_loss(tiny_backbone)
    value, content, style = (
        random(1, 38, 45, 3, seed=i, dtype="float32") for i in range(3)
    )
    given = value.numpy(), content.numpy()
    tiled = TiledLoss(loss)
    grid = grid_of(tiled, (38, 45), (2, 3))
    targets = tiled_targets(tiled, content, style, grid, grid)
    kept = {layer: feature.numpy() for layer, feature in targets.content.items()}
    traced = tf.function(
        lambda v, t: tiled.value_and_gradient(v, t, grid, lambda x: x), autograph=False
    )
    first, again = traced(value, targets), traced(value, targets)
    np.testing.assert_array_equal(first[1], again[1])
    assert first[0] == again[0]
    np.testing.assert_array_equal(value, given[0])
    np.testing.assert_array_equal(content, given[1])
    assert kept.keys() == loss.content_layers.keys()
    for layer, feature in kept.items():
        np.testing.assert_array_equal(targets.content[layer], feature)


@pytest.mark.parametrize("keep", [pytest.param(True, marks=pytest.mark.fast), False])
def test_value_and_gradient_with_guides_edges_and_time(float64, tiny_backbone, keep):
    """Every term that there is, at sizes that are no multiple of a stride."""
    layers = dict.fromkeys(("block1_conv1", "block2_conv1", "block3_conv1"), 0.5)
    loss = PerceptualLoss(
        FeatureExtractor(tiny_backbone, [*layers, LAPLACIAN], precision="float64"),
        content_layers={"block3_conv1": 0.3, LAPLACIAN: 0.7},
        style_layers=layers,
        content_weight=1.0,
        style_weight=1.0,
        tv_weight=0.2,
        temporal_weight=0.8,
    )
    content, style, value = (
        random(1, 43, 49, 3, seed=1),
        random(1, 50, 39, 3, seed=2),
        random(1, 43, 49, 3, seed=3),
    )

    def guided(height, width, seed):
        regions = np.random.default_rng(seed).random((1, height, width, 2))
        regions[:, :, : width // 3] = (1, 0)
        made = guides(regions, loss.features, loss.style_layers)
        return {layer: tf.constant(guide, tf.float64) for layer, guide in made.items()}

    ours, theirs = guided(43, 49, 4), guided(50, 39, 5)
    tiled = TiledLoss(loss, keep_content=keep)
    grid = grid_of(tiled, (43, 49), (2, 3))
    style_grid = grid_of(tiled, (50, 39), (3, 1))
    rest = {
        "guides": ours,
        "warped": random(1, 43, 49, 3, seed=6),
        "consistency": random(1, 43, 49, 1, seed=7),
    }
    whole_content, whole_norms = loss.content_targets(content)
    whole = loss.assemble(
        (43, 49),
        whole_content,
        whole_norms,
        loss.style_statistics(style, theirs),
        **rest,
    )
    parts = loss.assemble(
        grid.size,
        *tiled.content_targets(content, grid),
        tiled.style_statistics(style, style_grid, theirs),
        entries=tiled.entries(grid),
        **rest,
    )
    for layer, gram in whole.statistics.items():
        assert gram.shape[1] == 2
        np.testing.assert_allclose(parts.statistics[layer], gram, rtol=1e-11)
    for term, scale in whole.scales.items():
        np.testing.assert_allclose(parts.scales[term], scale, rtol=1e-11, err_msg=term)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total, terms = loss(value, whole)
    expected = tape.gradient(total, value)
    got = evaluate_tiled(tiled, value, parts, grid)
    np.testing.assert_allclose(got[0], total, rtol=1e-12)
    np.testing.assert_allclose(
        got[1], expected, rtol=1e-8, atol=1e-11 * np.abs(expected).max()
    )
    assert list(got[2]) == list(terms) == list(loss.term_names)
    for name, term in terms.items():
        assert float(term) > 0
        np.testing.assert_allclose(got[2][name], term, rtol=1e-11, err_msg=name)


@pytest.mark.fast
@pytest.mark.parametrize("keep", [True, False])
def test_content_targets_and_style_statistics_equal_those_of_whole_pictures(
    float64, tiny_backbone, keep
):
    loss = make_tiny_loss(tiny_backbone, precision="float64")
    content, style = random(2, 41, 46, 3), random(1, 50, 39, 3, seed=1)
    tiled = TiledLoss(loss, keep_content=keep)
    grids = grid_of(tiled, (41, 46), (2, 2)), grid_of(tiled, (50, 39), (3, 1))
    ours = tiled_targets(tiled, content, style, *grids)
    theirs = loss.targets(content, style)
    for part in ("scales", "statistics"):
        assert getattr(ours, part).keys() == getattr(theirs, part).keys()
        for layer, value in getattr(theirs, part).items():
            np.testing.assert_allclose(getattr(ours, part)[layer], value, rtol=1e-12)
    if not keep:
        assert list(ours.content) == ["image"]
        np.testing.assert_array_equal(ours.content["image"], content)
        return
    assert ours.content.keys() == theirs.content.keys()
    for layer, feature in theirs.content.items():
        np.testing.assert_allclose(ours.content[layer], feature, rtol=1e-10, atol=1e-12)


@pytest.mark.fast
def test_style_statistics_of_regions_of_a_single_layer(float64, tiny_backbone):
    layers = {"block2_conv1": 1.0}
    loss = PerceptualLoss(
        FeatureExtractor(tiny_backbone, [*layers], precision="float64"),
        content_layers={},
        style_layers=layers,
        content_weight=0.0,
        style_weight=1.0,
        tv_weight=0.0,
    )
    style, regions = random(1, 50, 39, 3), random(1, 50, 39, 2, seed=1).numpy()
    made = guides(regions, loss.features, layers)
    made = {layer: tf.constant(guide, tf.float64) for layer, guide in made.items()}
    tiled = TiledLoss(loss)
    grid = grid_of(tiled, (50, 39), (2, 2))
    ours, theirs = (
        tiled.style_statistics(style, grid, made),
        loss.style_statistics(style, made),
    )
    assert ours.keys() == theirs.keys() == layers.keys()
    np.testing.assert_allclose(ours["block2_conv1"], theirs["block2_conv1"], rtol=1e-11)


@pytest.mark.fast
def test_targets_of_losses_without_weight_are_empty(tiny_backbone):
    weights = {"content_weight": 0.0, "style_weight": 0.0}
    tiled = TiledLoss(
        make_tiny_loss(tiny_backbone, changes=weights), keep_content=False
    )
    grid = grid_of(tiled, (38, 45), (2, 3))
    for picture in (None, random(1, 38, 45, 3, dtype="float32")):
        assert tiled.content_targets(picture, grid) == ({}, {})
        assert tiled.style_statistics(picture, grid) == {}


@pytest.mark.fast
def test_tiled_loss_calls_the_published_functions(tiny_backbone, monkeypatch):
    tiled, calls = TiledLoss(make_tiny_loss(tiny_backbone)), set()
    published = "content_loss", "total_variation"

    def counted(name, function):
        assert function is getattr(functions, name)
        return lambda *args, **kwargs: calls.add(name) or function(*args, **kwargs)

    value = random(1, 38, 45, 3, dtype="float32")
    grid = grid_of(tiled, (38, 45), (2, 2))
    targets = tiled_targets(tiled, value, value, grid, grid)
    for name in published:
        spy = counted(name, getattr(perceptual, name))
        monkeypatch.setattr(perceptual, name, spy)
    evaluate_tiled(tiled, value, targets, grid)
    assert calls == set(published)


@pytest.mark.fast
def test_entries_are_those_of_the_features(tiny_backbone):
    tiled = TiledLoss(make_tiny_loss(tiny_backbone))
    features = tiled.extract(random(1, 38, 45, 3, dtype="float32"))
    entries = tiled.entries(grid_of(tiled, (38, 45), (2, 3)))
    assert entries == {layer: float(np.prod(f.shape)) for layer, f in features.items()}


# In float32 and less, with weights as they are used.


@pytest.mark.parametrize("name", ["slim19", "squeezenet"])
def test_value_and_gradient_in_float32_equals_the_whole_up_to_rounding(tmp_path, name):
    loss = make_loss(name, tmp_path)
    pictures = (random(1, 233, 209, 3, seed=i, dtype="float32") for i in (0, 1))
    style = random(1, 277, 219, 3, seed=2, dtype="float32")
    whole, tiled = whole_and_tiled(loss, *pictures, style, (2, 2))
    np.testing.assert_allclose(tiled[0], whole[0], rtol=1e-5)
    difference = np.abs(tiled[1] - whole[1]) / np.abs(whole[1]).max()
    assert np.linalg.norm(tiled[1] - whole[1]) < 2e-4 * np.linalg.norm(whole[1])
    # Rounding may flip a ReLU or the largest of a pool.
    assert np.mean(difference > 1e-4) < 2e-3


def test_value_and_gradient_with_published_weights(shared):
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


@pytest.mark.parametrize(
    ("name", "tiles"), [("slim19", (2, 1)), ("squeezenet", (3, 3))]
)
def test_value_and_gradient_of_photographs(request, name, tiles):
    backbone, weights = get_backbone(name), "imagenet"
    if name == "squeezenet":
        folder = request.getfixturevalue("shared") / "weights"
        weights = folder / "squeezenet_v1.1_imagenet_notop.h5"
    layers = [*backbone.content_layers, *backbone.style_layers]
    loss = PerceptualLoss(
        FeatureExtractor(backbone, layers, weights=weights),
        content_layers=backbone.content_layers,
        style_layers=backbone.style_layers,
        content_weight=0.3,
        style_weight=1.0,
        tv_weight=0.2,
    )
    content = load_image(DATA / "content" / "astronaut.jpg", 211)
    noise = np.random.default_rng(0).normal(0, 0.05, content.shape)
    value = tf.constant((content + noise).astype("float32"))
    style = tf.constant(load_image(DATA / "style" / "waves.jpg", 320))
    whole, tiled = whole_and_tiled(loss, value, tf.constant(content), style, tiles)
    np.testing.assert_allclose(tiled[0], whole[0], rtol=1e-5)
    assert np.linalg.norm(tiled[1] - whole[1]) < 1e-4 * np.linalg.norm(whole[1])
    difference = np.abs(tiled[1] - whole[1]) / np.abs(whole[1]).max()
    # Rounding may flip a ReLU or the largest of a pool.
    assert np.mean(difference > 1e-4) < 5e-4


@pytest.mark.parametrize(
    ("options", "tolerance", "keep"),
    [
        ({"precision": "bfloat16"}, 5e-2, True),
        ({"precision": "bfloat16"}, 5e-2, False),
        # XLA has no gradient of max pooling where other tests ask for repeatable bits.
        ({"jit_compile": True, "pooling": "avg"}, 1e-5, True),
    ],
)
def test_value_and_gradient_in_bfloat16_and_with_xla(
    tiny_backbone, options, tolerance, keep
):
    loss = make_tiny_loss(tiny_backbone, **options)
    pictures = (random(1, 41, 46, 3, seed=i, dtype="float32") for i in (0, 1))
    style = random(1, 50, 39, 3, seed=2, dtype="float32")
    whole, tiled = whole_and_tiled(loss, *pictures, style, (2, 2), keep)
    assert tiled[0].dtype == tiled[1].dtype == tf.float32
    assert_equal(whole, tiled, tolerance)


def test_a_pool_and_its_gradient_are_in_one_graph_without_a_loop(tiny_backbone):
    tiled = TiledLoss(make_tiny_loss(tiny_backbone))
    value, style = random(1, 41, 46, 3, dtype="float32"), random(1, 50, 39, 3)
    grids = [
        choose_grid(x.shape[1:3], halo_of(tiled.loss), 1000) for x in (value, style)
    ]
    assert min(map(len, grids)) > 1
    targets = tiled_targets(tiled, value, tf.cast(style, tf.float32), *grids)

    @tf.function(autograph=False)
    def traced(x):
        return tiled.value_and_gradient(x, targets, grids[0], lambda crop: crop)[:2]

    graph = traced.get_concrete_function(value).graph.as_graph_def()
    for function in graph.library.function:
        if any(node.op == "MaxPoolGrad" for node in function.node_def):
            assert function.attr["_noinline"].b
            assert any(node.op == "MaxPool" for node in function.node_def)
            return
    raise AssertionError("no gradient of a pool")


# Within the loop.


class FirstTiles(Grid):
    """A grid of which three tiles count."""

    def __len__(self):
        return 3


def test_value_and_gradient_of_12_megapixels_in_the_loop():
    # TensorFlow put sums of tiles of pictures of this size into variables that clash.
    loss = make_loss("slim19", None)
    tiled, (height, width) = TiledLoss(loss), (3104, 4128)
    small = random(1, 64, 64, 3, dtype="float32")
    few = loss.targets(small, small)
    shapes = tiled.extract.shapes(height, width)
    content = {layer: tf.zeros([1, *shapes[layer]]) for layer in loss.content_layers}
    targets = few._replace(content=content)
    grid = choose_grid((height, width), halo_of(loss), 320**2)
    grid, rows = FirstTiles(grid.rows, grid.columns), []
    variable = tf.Variable(tf.zeros([1, height, width, 3]))
    loop = Loop(
        lambda x, targets: tiled.value_and_gradient(
            x, targets, grid, lambda value: value
        ),
        Adam(variable, learning_rate=0.01),
        loss.term_names,
    )
    loop.run(2, targets, lambda new, _: bool(rows.extend(new)))
    assert len(rows) == 2 and np.isfinite(rows).all()
