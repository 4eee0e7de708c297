"""Properties that hold for any input, tried on inputs drawn by hypothesis."""

import contextlib
import io
import math
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively_network
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tfstyle.backbones.base import Backbone, convolution, pool
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.images import encode_image, load_image, resize_image
from tfstyle.images.tiles import Field, Grid, cut
from tfstyle.losses import (
    PerceptualLoss,
)
from tfstyle.losses.tiled import TiledLoss, halo_of
from tfstyle.options.options import Normalization

seeds = st.integers(0, 2**32 - 1)
NORMALIZATIONS = typing.get_args(Normalization)
normalizations = st.sampled_from(NORMALIZATIONS)
FILTERS = list(Image.Resampling)
# A pixel half way between two is that on one side, whichever it is called.
STEPPED = (Image.Resampling.NEAREST, Image.Resampling.BOX)
INTERPOLATING = [resample for resample in FILTERS if resample not in STEPPED]


def assert_close(one, other, tolerance=1e-10):
    one, other = np.asarray(one), np.asarray(other)
    scale = max(np.abs(one).max(), np.abs(other).max(), 1e-300)
    assert np.abs(one - other).max() <= tolerance * scale


# Resizing


def picture(seed, height, width):
    return np.random.default_rng(seed).random((1, height, width, 3)).astype(np.float32)


lengths = st.integers(1, 40)


@given(seeds, lengths, lengths, st.integers(1, 4), st.integers(1, 4))
def test_a_whole_enlargement_is_taken_back(seed, height, width, down, across):
    image = picture(seed, height, width)
    nearest, box = Image.Resampling.NEAREST, Image.Resampling.BOX
    for resample in (nearest, box):
        large = resize_image(image, (height * down, width * across), resample=resample)
        np.testing.assert_array_equal(
            large, image.repeat(down, axis=1).repeat(across, axis=2)
        )
        for back in (nearest, box):
            same = resize_image(large, (height, width), resample=back)
            np.testing.assert_allclose(same, image, atol=1e-6)


@given(st.floats(0, 1), lengths, lengths, lengths, lengths, st.sampled_from(FILTERS))
def test_a_flat_picture_stays_flat(value, height, width, down, across, resample):
    image = np.full((1, height, width, 3), value, np.float32)
    resized = resize_image(image, (down, across), resample=resample)
    assert resized.shape == (1, down, across, 3)
    np.testing.assert_allclose(resized, value, atol=1e-6)


@given(seeds, lengths, lengths, lengths, lengths, st.sampled_from(INTERPOLATING))
def test_resizing_does_not_know_directions(seed, height, width, down, across, resample):
    image, size = picture(seed, height, width), (down, across)
    resized = resize_image(image, size, resample=resample)
    assert resized.dtype == np.float32
    assert resized.min() >= 0 and resized.max() <= 1
    for axis in (1, 2):
        mirrored = resize_image(np.flip(image, axis), size, resample=resample)
        np.testing.assert_allclose(np.flip(mirrored, axis), resized, atol=2e-6)
    turned = resize_image(image.swapaxes(1, 2), size[::-1], resample=resample)
    np.testing.assert_allclose(turned.swapaxes(1, 2), resized, atol=2e-6)
    channels = [2, 0, 1]
    np.testing.assert_array_equal(
        resize_image(image[..., channels], size, resample=resample),
        resized[..., channels],
    )


@given(seeds, st.integers(8, 40), st.integers(8, 40), st.integers(2, 4))
def test_a_smooth_picture_comes_back(seed, height, width, factor):
    phase, slope = np.random.default_rng(seed).uniform(0, 2 * np.pi, 2)
    y, x = np.mgrid[:height, :width]
    wave = np.cos(np.pi * (y * np.sin(slope) + x * np.cos(slope)) / 12 + phase)
    image = np.repeat((0.5 + 0.3 * wave)[None, ..., None], 3, -1).astype(np.float32)
    large = resize_image(image, (factor * height, factor * width))
    back = resize_image(large, (height, width))
    np.testing.assert_allclose(back[:, 3:-3, 3:-3], image[:, 3:-3, 3:-3], atol=0.01)


@given(seeds, lengths, lengths, lengths)
def test_the_longest_side_is_as_asked(seed, height, width, size):
    image = picture(seed, height, width)
    for allow in (False, True):
        rows, columns = load_image(image, size, allow_upscale=allow).shape[1:3]
        longest = size if allow else min(size, max(height, width))
        assert max(rows, columns) == longest
        # The other in proportion, but for rounding and at least one pixel.
        for side, before in ((rows, height), (columns, width)):
            exact = before * longest / max(height, width)
            assert abs(side - max(exact, 1)) <= 0.5


@given(seeds, lengths, lengths, st.sampled_from([".png", ".webp", ".jpg"]))
def test_a_picture_comes_back_from_a_file(seed, height, width, extension):
    image = picture(seed, height, width)
    if extension != ".png":  # lossy ones are for pictures that are smooth
        image = np.broadcast_to(image[:, :1, :1], image.shape)
    again = load_image(io.BytesIO(encode_image(image, extension)))
    error = {".png": 0.5001, ".webp": 6, ".jpg": 3}[extension] / 255
    np.testing.assert_allclose(again, image, atol=error)
    if extension == ".png":
        file = io.BytesIO(encode_image(again, extension))
        np.testing.assert_array_equal(load_image(file), again)


# Tiles


@contextlib.contextmanager
def float64():
    """Makes Keras build float64 models."""
    # Keras remembers the policy that it makes of floatx, so both are restored.
    before = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        keras.config.set_dtype_policy(before[1])


convolutions = st.tuples(
    st.just("convolution"),
    st.sampled_from([1, 3, 5]),
    st.sampled_from(["zero", "reflect"]),
)
strided = st.tuples(st.just("strided"), st.integers(1, 4), st.integers(2, 3))
pools = st.tuples(st.sampled_from(["max", "avg"]), st.integers(2, 3), st.just(2))
networks = st.lists(
    st.one_of(convolutions, convolutions, strided, pools), min_size=1, max_size=5
)


def backbone_of(operations, seed):
    """A random network of some operations; every one of them is a layer."""
    rng, weights, inputs = np.random.default_rng(seed), {}, 3
    for i, (kind, size, _) in enumerate(operations):
        if kind in ("convolution", "strided"):
            shape = (size, size, inputs, 4)
            scale = 1 / math.sqrt(size * size * inputs)
            weights[f"layer{i}/kernel"] = rng.normal(0, scale, shape)
            weights[f"layer{i}/bias"] = rng.normal(0.2, 0.1, 4)
            inputs = 4

    def build(x, pooling):
        taps = {}
        for i, (kind, size, more) in enumerate(operations):
            name = f"layer{i}"
            if kind == "convolution":
                x = keras.ops.relu(convolution(x, name, 4, size, more))
            elif kind == "strided":
                x = keras.layers.Conv2D(4, size, more, name=name, activation="elu")(x)
            else:
                x = pool(x, name, kind, size)
            taps[name] = x
        return taps

    names = [f"layer{i}" for i in range(len(operations))]
    return Backbone(
        name="random",
        layers={name: name for name in names},
        content_layers={names[-1]: 1.0},
        style_layers=dict.fromkeys(names, 0.5),
        preprocessing="torch",
        build=build,
        published_weights=lambda: weights,
    )


@given(
    networks,
    st.tuples(st.integers(20, 64), st.integers(20, 64)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    normalizations,
    st.booleans(),
    seeds,
)
@settings(max_examples=8)
def test_tiles_are_the_whole(operations, size, tiles, normalization, keep, seed):
    assume(math.prod(s for kind, _, s in operations if isinstance(s, int)) <= 8)
    backbone = backbone_of(operations, seed)
    with float64():
        extract = FeatureExtractor(backbone, backbone.layers, precision="float64")
    assume(min(size) >= extract.least_size)
    loss = PerceptualLoss(
        extract,
        content_layers=backbone.content_layers,
        style_layers=backbone.style_layers,
        content_weight=0.3,
        style_weight=1.0,
        tv_weight=0.2,
        normalization=normalization,
    )
    tiled = TiledLoss(loss, keep_content=keep)
    cuts = [cut(n, k, halo_of(loss)) for n, k in zip(size, tiles, strict=True)]
    assume(all(cuts))
    grid = Grid(*cuts)
    rng = np.random.default_rng(seed)
    value, content, style = (tf.constant(x) for x in rng.uniform(size=(3, 1, *size, 3)))
    targets = loss.targets(content, style)
    with tf.GradientTape() as tape:
        tape.watch(value)
        total, terms = loss(value, targets)
    gradient = tape.gradient(total, value)
    theirs = loss.assemble(
        size,
        *tiled.content_targets(content, grid),
        tiled.style_statistics(style, grid),
        entries=tiled.entries(grid),
    )
    got, slope, parts = tiled.value_and_gradient(value, theirs, grid, lambda x: x)
    np.testing.assert_allclose(got, total, rtol=1e-10)
    assert_close(slope, gradient, 1e-9)
    for name, term in terms.items():
        np.testing.assert_allclose(parts[name], term, rtol=1e-9, err_msg=name)


@given(
    st.integers(1, 2000),
    st.integers(1, 12),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.integers(0, 90),
    st.integers(0, 90),
)
@settings(max_examples=300)
def test_a_side_is_covered_once(length, tiles, stride, before, after):
    halo = Field(stride, before, after)
    side = cut(length, tiles, halo)
    if side is None:
        whole = sum(math.ceil(n / stride) * stride for n in (before, after))
        assert tiles > 1 and length - whole < tiles * stride
        return
    covered = [n for s in side.spans for n in range(s.core_begin, s.core_end)]
    assert covered == list(range(length))
    for span in side.spans:
        end = span.begin + side.tile
        assert span.begin % stride == 0 and span.begin >= 0 and end <= length
        assert span.begin == 0 or span.core_begin - span.begin >= before
        assert end == length or end - span.core_end >= after


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"], blocks=0)


@given(
    st.tuples(st.integers(45, 90), st.integers(45, 90)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.floats(0, 1),
    seeds,
)
@settings(max_examples=4)
def test_a_network_by_tiles_is_the_whole(network, size, tiles, share, seed):
    cuts = [cut(n, k, network.passes.field) for n, k in zip(size, tiles, strict=True)]
    assume(all(cuts) and math.prod(tiles) > 1)
    image = picture(seed, *size)
    blend = tf.constant([[share, 1 - share]], tf.float32)
    whole = network(image, blend).numpy()
    parts = network.passes.by_tiles(image, blend, Grid(*cuts))
    np.testing.assert_allclose(parts, whole, atol=2e-4)
    assert whole.std() > 0.02
