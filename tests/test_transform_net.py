"""Tests of tfstyle/transform_net.py."""

import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import lively_network

from tfstyle.errors import UsageError
from tfstyle.networks.style_net import (
    BUNDLED_FILE,
    ConditionalInstanceNormalization,
    StyleNet,
    load_network,
    parse_blend,
    save_network,
)


def small_network(**options) -> StyleNet:
    return lively_network(["a", "b", "c"], **options)


@pytest.fixture(scope="module")
def network():
    return small_network()


def noise(*shape) -> np.ndarray:
    return np.random.default_rng(5).uniform(size=shape).astype("float32")


@pytest.mark.parametrize("size", [(6, 6), (7, 9), (32, 32), (37, 54), (35, 51)])
def test_pictures_keep_their_size_and_are_in_0_to_1(network, size):
    result = network(noise(2, *size, 3))
    assert result.shape == (2, *size, 3)
    assert result.dtype == tf.float32
    assert 0 <= result.numpy().min() < result.numpy().max() <= 1


def test_the_architecture_is_the_papers():
    paper = StyleNet(["a"])
    kernels = [layer.kernel.shape for layer in (*paper.convolutions, paper.last)]
    residual = [(3, 3, 128, 128)] * 10
    assert [tuple(kernel) for kernel in kernels] == [
        (9, 9, 3, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 128),
        *residual,
        (3, 3, 128, 64),
        (3, 3, 64, 32),
        (9, 9, 32, 3),
    ]
    assert [layer.strides[0] for layer in paper.convolutions] == [1, 2, 2] + [1] * 12


def test_a_new_network_makes_grey_pictures():
    result = StyleNet(["a"], width=8)(noise(1, 16, 16, 3)).numpy()
    np.testing.assert_allclose(result, 0.5, atol=0.05)


@pytest.mark.parametrize("batch", [2, None])
def test_instance_norm_is_the_formula(batch):
    layer = ConditionalInstanceNormalization(2)
    layer.build([None, None, None, 3])
    layer.scale.assign([[1.0, 2.0, 3.0], [0.5, 0.1, -1.0]])
    layer.offset.assign([[0.0, 1.0, 2.0], [5.0, 6.0, 7.0]])
    x, blend = 3 * noise(2, 4, 5, 3) + 7, np.array([[1, 0], [0.25, 0.75]], "float32")

    @tf.function(input_signature=[tf.TensorSpec([batch, None, None, 3])])
    def run(x):
        return layer(x, tf.constant(blend))

    mean, deviation = x.mean((1, 2), keepdims=True), x.std((1, 2), keepdims=True)
    scale = (blend @ layer.scale.numpy())[:, None, None]
    offset = (blend @ layer.offset.numpy())[:, None, None]
    wanted = (x - mean) / np.sqrt(deviation**2 + 1e-5) * scale + offset
    np.testing.assert_allclose(run(x), wanted, atol=2e-4)


def test_a_batch_is_its_pictures_one_by_one(network):
    images = noise(2, 21, 18, 3)
    blend = tf.constant([[1.0, 0, 0], [0.2, 0.3, 0.5]])
    together = network(images, blend)
    alone = [network(images[i : i + 1], blend[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


def test_styles_differ_and_a_blend_lies_between(network):
    images = noise(1, 24, 24, 3)
    a, b = (network(images, network.blend(name)).numpy() for name in "ab")
    half = network(images, network.blend("a:1,b:1")).numpy()
    assert np.abs(a - b).mean() > 0.02
    assert np.abs(half - a).mean() < np.abs(a - b).mean()
    assert np.abs(half - b).mean() < np.abs(a - b).mean()
    np.testing.assert_array_equal(network(images), a)  # the first is the default


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_nothing_is_seen_beyond_the_field(blocks):
    network = small_network(blocks=blocks, width=2)
    images, side = noise(1, 128, 128, 3), 128
    # Without normalisation, which looks at the whole picture.
    run = tf.function(lambda x: network.run(x, lambda i, features: features + 0.1))
    before = run(images).numpy()
    for y in (62, 63, 64, 65):
        changed = images.copy()
        changed[0, y, y] = 1 - changed[0, y, y]
        differs = np.abs(run(changed).numpy() - before).max((0, 3)) > 0
        rows = np.flatnonzero(differs.any(1))
        reach = network.field.before
        assert rows.size
        assert y - reach <= rows[0]
        assert rows[-1] <= min(y + reach, side)


def test_bfloat16_is_near_float32():
    plain, half = small_network(), small_network(dtype="mixed_bfloat16")
    images = noise(1, 24, 24, 3)
    assert half(images).dtype == tf.float32
    assert half.convolutions[0].compute_dtype == "bfloat16"
    np.testing.assert_allclose(half(images), plain(images), atol=0.1)


def test_a_saved_network_is_the_same(network, tmp_path):
    path = tmp_path / "model.keras"
    save_network(network, path)
    images = noise(1, 19, 23, 3)
    for source in (path, tmp_path):  # the file, and the folder of a run
        loaded = load_network(source)
        assert loaded.style_names == ["a", "b", "c"]
        np.testing.assert_array_equal(loaded(images), network(images))
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_a_new_process_reads_it_without_custom_objects(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    program = (
        "import keras, numpy\n"
        "import tfstyle.networks.style_net\n"
        f"model = keras.saving.load_model({str(tmp_path / 'model.keras')!r})\n"
        "print(model(numpy.full([1, 9, 8, 3], 0.5, 'float32')).numpy().mean())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    wanted = network(np.full([1, 9, 8, 3], 0.5, "float32")).numpy().mean()
    assert float(done.stdout) == pytest.approx(wanted, abs=1e-6)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.keras: no such file; give 'bundled'"):
        load_network(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no network")
    with pytest.raises(UsageError, match=r"text\.keras: cannot be read as a \.keras"):
        load_network(tmp_path / "text.keras")
    other = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(UsageError, match=r"other\.keras: a Keras model, but not one"):
        load_network(tmp_path / "other.keras")


def test_blends_are_read_from_text(network):
    assert parse_blend("a") == {"a": 1}
    assert parse_blend(" a:0.5 , b:1.5,") == {"a": 0.5, "b": 1.5}
    assert parse_blend("a:.5,a :.5") == {"a": 1.0}
    np.testing.assert_allclose(network.blend("a:1,c:3"), [[0.25, 0, 0.75]])
    np.testing.assert_allclose(network.blend({"b": 9.0}), [[0, 1, 0]])
    np.testing.assert_allclose(network.blend(), [[1, 0, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d", "there is no style 'd'; the styles are a, b, c"),
        ("", "style '': give the name of a style"),
        ("a:x", "style 'a:x': 'x' is not a number; write name:weight,..."),
        ("a:0", "style a:0.0: give a weight above 0"),
        ("a:nan", "style a:nan: give a weight above 0"),
        ("a:-1,b:2", "style a:-1.0: give a weight above 0"),
    ],
)
def test_wrong_blends_are_refused(network, text, message):
    with pytest.raises(UsageError) as caught:
        network.blend(text)
    assert str(caught.value) == message


def test_the_nearest_style_is_offered():
    network = StyleNet(["starry_night", "waves"], width=2, blocks=0)
    with pytest.raises(UsageError, match=r"did you mean waves\? the styles are starry"):
        network.blend("wave")


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 11)])
def test_the_last_convolution_is_a_plain_one(network, size):
    x = noise(1, *size, 4)
    padded = np.pad(x, [[0, 0], [4, 4], [4, 4], [0, 0]], "reflect")
    np.testing.assert_allclose(network._to_rgb(x), network.last(padded), atol=1e-5)


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_an_enlarged_convolution_is_a_plain_one(network, size):
    x = noise(1, 4, 5, network.convolutions[-2].kernel.shape[2])
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    padded = np.pad(large, [[0, 0], [1, 1], [1, 1], [0, 0]], "symmetric")
    wanted = network.convolutions[-2](padded)[:, : size[0], : size[1]]
    found = network._enlarged(x, len(network.convolutions) - 2, tf.constant(size))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_bundled_styles_are_those_of_their_record():
    record = json.loads(BUNDLED_FILE.with_name("styles.json").read_text())
    assert record["sha256"] == hashlib.sha256(BUNDLED_FILE.read_bytes()).hexdigest()
    assert BUNDLED_FILE.stat().st_size < 4e6
    network = load_network("bundled")
    assert network.style_names == list(record["styles"])
    assert network.width == record["options"]["width"]
