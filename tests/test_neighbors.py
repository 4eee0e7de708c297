"""Neural neighbours: hypercolumns, search, loss, and runs with them."""

import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.tiles import Grid, cut
from tfstyle.losses import neighbors as losses
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.losses.neighbors import Neighbors, References
from tfstyle.losses.tiled import TiledLoss, halo_of
from tfstyle.optimizers import loop
from tfstyle.options import Options
from tfstyle.stylizer.neighbors import compare_with, sample_steps

OPTIONS = {"style_loss": "neighbors", "scales": 2, "steps": (9, 12), "margin": 2}


@pytest.fixture(autouse=True)
def reported_often(monkeypatch):
    monkeypatch.setattr(loop, "_MOST_STEPS_PER_CALL", 2)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


# Functions.


@pytest.mark.fast
@pytest.mark.parametrize("stride", [1, 2, 4, 8])
def test_cell_features_are_means_of_fine_layers_and_copies_of_coarse_ones(stride):
    features = random(2, 27 // stride, 34 // stride, 3)
    cells = losses.cell_features(tf.constant(features), stride, (6, 8)).numpy()
    assert cells.shape == (2, 6, 8, 3)
    for row, column in ((0, 0), (3, 5), (5, 7)):
        if stride <= 4:
            side = 4 // stride
            seen = features[:, row * side :][:, :side, column * side :][:, :, :side]
            expected = seen.mean((1, 2))
        else:  # beyond the last position, that one goes on
            last = np.array(features.shape[1:3]) - 1
            place = np.minimum(np.array([row, column]) * 4 // stride, last)
            expected = features[:, place[0], place[1]]
        np.testing.assert_allclose(cells[:, row, column], expected, rtol=1e-5)


@pytest.mark.fast
@pytest.mark.parametrize("cells", [(4, 6), (5, 7)])
def test_neighbor_loss_is_the_weighted_sum_of_cosine_distances(cells):
    strides, shares = {"fine": 2, "same": 4, "coarse": 8}, {}
    features, parts = {}, {}
    for i, (layer, stride) in enumerate(strides.items()):
        shares[layer] = tf.constant(0.5 + i)
        sides = [4 * side // stride for side in cells]  # one too few at the coarse one
        features[layer] = tf.constant(random(2, *sides, 3 + i, seed=i))
        parts[layer] = tf.constant(random(9, 3 + i, seed=10 + i))
    among = losses.references(parts, shares, None)
    indices = np.random.default_rng(2).integers(0, 9, (2, *cells, 1)).astype("int32")
    weights = np.random.default_rng(3).uniform(size=(1, *cells, 1)).astype("float32")
    neighbors = Neighbors(
        tf.constant(indices), among.columns, shares, tf.constant(weights), 0.5
    )
    columns = losses.hypercolumns(features, strides, shares, cells).numpy()
    table = unit(np.concatenate([part.numpy() for part in parts.values()], 1))
    distances = 1 - (unit(columns) * table[indices[..., 0]]).sum(-1)
    expected = 0.5 * (weights[..., 0] * distances).sum((1, 2))
    found = losses.neighbor_loss(features, strides, neighbors)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alike = neighbors._replace(weights=None)
    found = losses.neighbor_loss(features, strides, alike)
    np.testing.assert_allclose(found, 0.5 * distances.sum((1, 2)), rtol=1e-5)


@pytest.mark.fast
def test_neighbor_loss_has_the_slope_of_its_differences():
    strides, shares = {"fine": 4, "coarse": 8}, {"fine": 1.0, "coarse": 2.0}
    parts = {layer: tf.constant(random(5, 3, seed=6), tf.float64) for layer in strides}
    among = losses.references(parts, shares, None)
    indices = tf.constant(np.arange(16).reshape(1, 4, 4, 1) % 5, tf.int32)
    neighbors = Neighbors(indices, among.columns, shares, None, 1.0)
    features = tf.constant(random(1, 4, 4, 3), tf.float64)
    coarse = tf.constant(random(1, 2, 2, 3, seed=1), tf.float64)

    def loss(features, coarse):
        found = {"fine": features, "coarse": coarse}
        return losses.neighbor_loss(found, strides, neighbors)

    by_theory, by_numbers = tf.test.compute_gradient(loss, [features, coarse])
    for theory, numbers in zip(by_theory, by_numbers, strict=True):
        np.testing.assert_allclose(theory, numbers, atol=1e-6)


@pytest.mark.fast
def test_neighbor_loss_is_0_where_hypercolumns_point_like_their_references():
    parts = {"layer": tf.constant(random(4, 6))}
    among = losses.references(parts, {"layer": tf.constant(1.0)}, None)
    indices = np.arange(4, dtype="int32").reshape(1, 2, 2, 1)
    features = {"layer": 3 * tf.reshape(parts["layer"], [1, 2, 2, 6])}
    neighbors = Neighbors(tf.constant(indices), among.columns, among.shares, None, 1.0)
    loss = losses.neighbor_loss(features, {"layer": 4}, neighbors)
    assert abs(loss[0]) < 1e-6


@pytest.mark.fast
def test_nearest_is_what_an_exhaustive_search_finds():
    cells, table = random(2, 30, 40, 6), random(50, 6, seed=1)
    found = losses.references({"layer": tf.constant(table)}, {}, None)
    centered = unit(cells)
    indices = losses.nearest(tf.constant(centered), found, None).numpy()
    expected = (centered @ unit(table - table.mean(0)).T).argmax(-1)
    np.testing.assert_array_equal(indices[..., 0], expected)


@pytest.mark.fast
def test_nearest_keeps_to_the_references_of_the_region():
    cells, table = unit(random(1, 6, 8, 5)), random(40, 5, seed=1)
    serves = np.arange(40) < 10  # the first region; the others are the second's
    barred = np.where([serves, ~serves], 0.0, -np.inf).astype("float32")
    found = losses.references({"layer": tf.constant(table)}, {}, tf.constant(barred))
    regions = np.zeros((1, 6, 8, 1), "int32")
    regions[:, :, 4:] = 1
    indices = losses.nearest(tf.constant(cells), found, tf.constant(regions)).numpy()
    assert (indices[:, :, :4] < 10).all() and (indices[:, :, 4:] >= 10).all()


@pytest.mark.fast
def test_sample_steps_bound_the_table_and_follow_the_shares():
    sizes = [(512, 512), (512, 512)]
    assert sample_steps(sizes[:1], np.array([1.0])) == [1]
    assert sample_steps([(2048, 2048)], np.array([1.0])) == [4]
    assert sample_steps(sizes, np.array([0.5, 0.5])) == [2, 2]
    assert sample_steps(sizes, np.array([0.9, 0.1])) == [2, 6]
    assert sample_steps(sizes, np.array([1.0, 0.0])) == [1, 0]


# Tiles.


@pytest.fixture
def tiled(tiny_backbone):
    return TiledLoss(perceptual_loss(Options(style_loss="neighbors")))


def grid_of(tiled, size, tiles):
    halo = halo_of(tiled.loss)
    return Grid(*(cut(n, k, halo) for n, k in zip(size, tiles, strict=True)))


@pytest.mark.fast
@pytest.mark.parametrize("step", [1, 3])
def test_style_cells_by_tiles_are_those_of_the_whole(tiled, step):
    picture = tf.random.stateless_uniform([1, 101, 90, 3], [1, 2])
    whole, parts = (
        tiled.style_cells(picture, grid_of(tiled, (101, 90), tiles), step)
        for tiles in ((1, 1), (3, 2))
    )
    assert whole.shape == (1, -(-25 // step), -(-22 // step), 8 + 12 + 16)
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.fast
def test_search_value_and_gradient_by_tiles_are_those_of_the_whole(tiled):
    size = (101, 90)
    content, style, value = (
        tf.random.stateless_uniform([1, *size, 3], [seed, 2]) for seed in (1, 2, 3)
    )
    whole, parts = (grid_of(tiled, size, tiles) for tiles in ((1, 1), (3, 2)))
    table = tf.reshape(tiled.style_cells(style, whole, 1), [-1, 36])
    layers = tiled.loss.style_layers
    by_layer = dict(zip(layers, tf.split(table, [8, 12, 16], axis=1), strict=True))
    shares = dict.fromkeys(layers, tf.constant(1.0))
    among: References = losses.references(by_layer, shares, None)
    indices = [tiled.neighbor_indices(content, grid, among) for grid in (whole, parts)]
    np.testing.assert_array_equal(*indices)
    assert len(np.unique(indices[0])) > 10

    guide = np.random.default_rng(4).uniform(size=(1, 25, 22, 1)).astype("float32")
    targets = tiled.loss.assemble(
        size,
        *tiled.content_targets(content, whole),
        tiled.style_statistics(style, whole),
        neighbors=compare_with(indices[0].numpy(), among, guide, 1.0),
    )

    @tf.function(autograph=False)
    def evaluate(grid):
        return tiled.value_and_gradient(value, targets, grid, lambda x: x)

    (total, gradient, terms), by_tiles = evaluate(whole), evaluate(parts)
    for name, term in terms.items():
        np.testing.assert_allclose(
            by_tiles[2][name], term, rtol=1e-4, atol=1e-7, err_msg=name
        )
    largest = np.abs(gradient).max()
    assert np.abs(by_tiles[1] - gradient).max() < 1e-4 * largest
    loss, _ = tiled.loss(value, targets)
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert terms["style/neighbors"] > 0.05


# Runs.


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_comes_nearer_to_its_neighbors(tiny_backbone, content, style, optimizer):
    result = tfstyle.stylize(content, style, optimizer=optimizer, **OPTIONS)
    nearness = np.array(result.history["style/neighbors"])
    scales = np.array(result.history["scale"])
    for scale in (0, 1):
        of_scale = nearness[scales == scale]
        assert of_scale[-1] < 0.8 * of_scale[0]


def test_a_stopped_run_goes_on_bit_for_bit(tiny_backbone, tmp_path, content, style):
    first, second = (tfstyle.Stylizer(**OPTIONS) for _ in range(2))
    whole = first(content, style)
    for stop in (3, 9, 14):  # within each scale, and between them
        folder = tmp_path / str(stop)
        stopped = first(
            content,
            style,
            callbacks=[lambda progress, stop=stop: progress.step >= stop],
            checkpoint=folder,
        )
        assert stopped.stopped
        result = second(content, style, checkpoint=folder)
        np.testing.assert_array_equal(result.images, whole.images)
        assert result.history == whole.history


def test_regions_take_the_colours_of_their_own_styles(tiny_backbone, content):
    red, blue = np.zeros((2, 1, 32, 40, 3), "float32")
    red[..., 0], blue[..., 2] = 1.0, 1.0
    noise = np.random.default_rng(0).uniform(0, 0.2, red.shape).astype("float32")
    mask = np.zeros((32, 40, 3), "float32")
    mask[:, :20, 0], mask[:, 20:, 2] = 1.0, 1.0
    result = tfstyle.stylize(
        content,
        [red + noise * (1 - red), blue + noise * (1 - blue)],
        content_mask=mask,
        **OPTIONS,
    )
    left, right = result.images[0, :, :16], result.images[0, :, 24:]
    assert left[..., 0].mean() > left[..., 2].mean() + 0.2
    assert right[..., 2].mean() > right[..., 0].mean() + 0.2


def test_what_is_protected_stays(tiny_backbone, content, style):
    protect = np.zeros((32, 40), "float32")
    protect[:, 20:] = 1.0
    options = {**OPTIONS, "scales": 1, "optimizer": "adam"}
    result = tfstyle.stylize(
        content, style, protect=protect, **{**options, "steps": 12}
    )
    np.testing.assert_array_equal(result.images[:, :, 21:], content[:, :, 21:])
    assert np.abs(result.images[:, :, :16] - content[:, :, :16]).mean() > 0.02


@pytest.mark.parametrize("style_loss", ["neighbors", "wasserstein"])
def test_blends_batches_and_a_second_call(tiny_backbone, content, style, style_loss):
    options = {**OPTIONS, "scales": 1, "steps": 9, "optimizer": "adam"}
    stylizer = tfstyle.Stylizer(**{**options, "style_loss": style_loss})
    one = stylizer(content, [(style, 3.0), (style[:, ::-1], 1.0)])
    traces = stylizer.engine.traces
    again = stylizer(content, [(style, 3.0), (style[:, ::-1], 1.0)])
    np.testing.assert_array_equal(one.images, again.images)
    assert stylizer.engine.traces == traces
    pair = stylizer([content, content[:, :, ::-1].copy()], style)
    assert pair.images.shape == (2, 32, 40, 3)


@pytest.mark.fast
@pytest.mark.parametrize(
    ("work", "named"),
    [
        (lambda: Options(style_loss="neighbors", normalization="sum"), "normalization"),
        (
            lambda: tfstyle.synthesize_texture("x.png", style_loss="neighbors"),
            "style_loss='neighbors' needs a content picture",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(work, named):
    with pytest.raises(UsageError, match=named):
        work()
