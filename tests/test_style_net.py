"""Tests of tfstyle/networks/style_net.py and of what it is made of."""

import hashlib
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import draw, lively_network

import tfstyle
from tfstyle.errors import TfstyleError, UsageError
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.networks.blends import PRESET_FILES, parse_blend
from tfstyle.networks.layers import ConditionalInstanceNormalization
from tfstyle.networks.operations import convolution_to_rgb, repeated_convolution
from tfstyle.networks.style_net import (
    StyleNet,
    load_network,
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
def test_call_keeps_the_size_and_gives_values_from_0_to_1(network, size):
    result = network(noise(2, *size, 3))
    assert result.shape == (2, *size, 3)
    assert result.dtype == tf.float32
    assert 0 <= result.numpy().min() < result.numpy().max() <= 1


def test_style_net_has_the_papers_architecture():
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


def test_style_net_makes_grey_pictures_at_first():
    result = StyleNet(["a"], width=8)(noise(1, 16, 16, 3)).numpy()
    np.testing.assert_allclose(result, 0.5, atol=0.05)


@pytest.mark.parametrize("batch", [2, None])
def test_conditional_instance_normalization_is_the_formula(batch):
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


def test_call_stylizes_each_picture_of_a_batch_by_itself(network):
    images = noise(2, 21, 18, 3)
    blend = tf.constant([[1.0, 0, 0], [0.2, 0.3, 0.5]])
    together = network(images, blend)
    alone = [network(images[i : i + 1], blend[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-5)


def test_call_gives_styles_that_differ_and_blends_between_them(network):
    images = noise(1, 24, 24, 3)
    a, b = (network(images, network.blend(name)).numpy() for name in "ab")
    half = network(images, network.blend("a:1,b:1")).numpy()
    assert np.abs(a - b).mean() > 0.02
    assert np.abs(half - a).mean() < np.abs(a - b).mean()
    assert np.abs(half - b).mean() < np.abs(a - b).mean()
    np.testing.assert_array_equal(network(images), a)  # the first is the default


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_field_holds_all_that_a_pixel_depends_on(blocks):
    network = small_network(blocks=blocks, width=2)
    images, side = noise(1, 128, 128, 3), 128
    # With given moments: a picture's own depend on all of its pixels.
    run = tf.function(
        lambda x: network.with_moments(x, network.blend("a"), lambda i, _: (-0.1, 0.25))
    )
    before = run(images).numpy()
    for y in (62, 63, 64, 65):
        changed = images.copy()
        changed[0, y, y] = 1 - changed[0, y, y]
        differs = np.abs(run(changed).numpy() - before).max((0, 3)) > 0
        rows = np.flatnonzero(differs.any(1))
        reach = network.passes.field.before
        assert rows.size
        assert y - reach <= rows[0]
        assert rows[-1] <= min(y + reach, side)


def test_call_in_bfloat16_is_near_float32():
    plain, half = small_network(), small_network(dtype="mixed_bfloat16")
    images = noise(1, 24, 24, 3)
    assert half(images).dtype == tf.float32
    assert half.convolutions[0].compute_dtype == "bfloat16"
    np.testing.assert_allclose(half(images), plain(images), atol=0.1)


def test_save_network_writes_what_from_preset_reads(network, tmp_path):
    path = tmp_path / "model.keras"
    save_network(network, path)
    images = noise(1, 19, 23, 3)
    for source in (path, str(tmp_path)):  # the file, and the folder of a run
        loaded = StyleNet.from_preset(source)
        assert isinstance(loaded, StyleNet)
        assert loaded.style_names == ["a", "b", "c"]
        np.testing.assert_array_equal(loaded(images), network(images))
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_keras_reads_a_saved_network_without_custom_objects(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    images = noise(1, 9, 8, 3)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(images), network(images), atol=1e-6)


def test_from_preset_refuses_other_files(tmp_path):
    with pytest.raises(UsageError, match=r"none\.keras: no such file; give 'bundled'"):
        load_network(tmp_path / "none.keras")
    (tmp_path / "text.keras").write_text("no network")
    with pytest.raises(
        UsageError, match=r"text\.keras: cannot be read as a \.keras.*; give 'bundled'"
    ):
        load_network(tmp_path / "text.keras")
    other = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    with pytest.raises(UsageError, match=r"other\.keras: a Keras model, but not one"):
        load_network(tmp_path / "other.keras")


def test_blend_reads_text_and_mappings(network):
    assert parse_blend("a") == {"a": 1}
    assert parse_blend(" a:0.5 , b:1.5,") == {"a": 0.5, "b": 1.5}
    assert parse_blend("a:.5,a :.5") == {"a": 1.0}
    np.testing.assert_allclose(network.blend("a:.5,a :.5,c:3"), [[0.25, 0, 0.75]])
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
        ({"a": "1"}, "style a:1: give a weight above 0"),
        ({}, "style {}: give the name of a style"),
    ],
)
def test_blend_refuses(network, text, message):
    with pytest.raises(UsageError) as caught:
        network.blend(text)
    assert str(caught.value) == message


def test_blend_offers_the_nearest_style():
    network = StyleNet(["starry_night", "waves"], width=2, blocks=0)
    with pytest.raises(UsageError, match=r"did you mean waves\? the styles are starry"):
        network.blend("wave")


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 11)])
def test_convolution_to_rgb_is_a_plain_convolution(network, size):
    x = noise(1, *size, 4)
    padded = np.pad(x, [[0, 0], [4, 4], [4, 4], [0, 0]], "reflect")
    found = convolution_to_rgb(x, network.last.kernel, network.last.bias)
    np.testing.assert_allclose(found, network.last(padded), atol=1e-5)


def test_repeated_convolution_is_a_plain_convolution_of_repeated_values(network):
    x = noise(1, 4, 5, network.convolutions[-2].kernel.shape[2])
    large = x.repeat(2, axis=1).repeat(2, axis=2)
    padded = np.pad(large, [[0, 0], [1, 1], [1, 1], [0, 0]], "symmetric")
    found = repeated_convolution(x, network.convolutions[-2].kernel)
    np.testing.assert_allclose(found, network.convolutions[-2](padded), atol=1e-5)


def test_bundled_styles_are_those_of_their_record():
    file = PRESET_FILES["bundled"]
    record = json.loads(file.with_name("styles.json").read_text())
    assert record["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert file.stat().st_size < 4e6
    network = load_network("bundled")
    assert network.style_names == list(record["styles"])
    assert network.width == record["options"]["width"]
    assert all(name in StyleNet.presets["bundled"] for name in network.style_names)


# ------------------------------------------------------------------------- presets


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PRESET = ["config.json", "metadata.json", "model.weights.h5"]


def test_save_to_preset_writes_what_from_preset_reads(network, tmp_path):
    folder = tmp_path / "new" / "preset"
    network.save_to_preset(folder)
    assert names_in(folder) == PRESET
    assert names_in(folder.parent) == ["preset"]
    config = json.loads((folder / "config.json").read_text())
    assert config["class_name"] == "StyleNet"
    assert config["config"]["style_names"] == ["a", "b", "c"]
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["parameter_count"] == network.count_params()
    assert metadata["tfstyle_version"] == tfstyle.__version__
    loaded = tfstyle.StyleNet.from_preset(folder)
    images = noise(1, 19, 23, 3)
    np.testing.assert_array_equal(loaded(images), network(images))


def test_save_to_preset_replaces_an_earlier_preset(network, tmp_path):
    other = lively_network(["x"], width=3)
    (tmp_path / "preset").mkdir()  # an empty folder may be there too
    for each in (network, other):
        each.save_to_preset(tmp_path / "preset")
    assert StyleNet.from_preset(tmp_path / "preset").style_names == ["x"]
    assert names_in(tmp_path) == ["preset"]


def test_save_to_preset_refuses_what_is_no_folder(network, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(TfstyleError, match="file: the folder cannot be made"):
        network.save_to_preset(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "a file"


def test_save_to_preset_leaves_the_earlier_one_where_it_fails(
    network, tmp_path, monkeypatch
):
    network.save_to_preset(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StyleNet, "save_weights", full)
    with pytest.raises(TfstyleError, match=r"could not be written: .*No space"):
        lively_network(["x"], width=3).save_to_preset(tmp_path)
    assert names_in(tmp_path) == PRESET
    assert StyleNet.from_preset(tmp_path).style_names == ["a", "b", "c"]


def test_from_preset_leaves_random_numbers_as_they_were(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    states = random.getstate(), np.random.get_state()[1].tolist()
    load_network(tmp_path)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]


def test_seed_decides_the_weights_whatever_the_global_seed():
    keras.utils.set_random_seed(7)
    first = StyleNet(["a"], 4, 1, seed=7).get_weights()
    keras.utils.set_random_seed(1)
    second = StyleNet(["a"], 4, 1, seed=7).get_weights()
    other = StyleNet(["a"], 4, 1, seed=8).get_weights()
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [(a, b) for a, b in zip(first, other, strict=True) if a.ndim == 4]
    assert all(np.abs(a - b).max() > 0.001 for a, b in kernels)


# ------------------------------------------------------------------ compile and fit


@pytest.fixture
def loss(tiny_features):
    return tfstyle.PerceptualLoss(
        tiny_features,
        content_layers={"c": 1.0},
        style_layers={"a": 1.0, "b": 0.5},
        tv_weight=0.1,
    )


STYLES = {"b": draw(24, 20, (4, 5, 7)), "a": draw(20, 24, (20, 30, 9))}


def test_fit_trains_each_style(loss):
    network = StyleNet(["a", "b"], 4, 0, seed=0)
    network.compile(keras.optimizers.Adam(0.01), loss, styles=STYLES)
    photos, numbers = noise(8, 16, 16, 3), np.arange(8) % 2
    stopper = keras.callbacks.TerminateOnNaN()
    history = network.fit(
        tf.data.Dataset.from_tensor_slices((photos, numbers)).batch(4),
        epochs=12,
        verbose=0,
        callbacks=[stopper],
        validation_data=(photos, numbers),
        validation_freq=12,
    ).history
    assert set(history) >= {"loss", "content/c", "style/a", "style/b", "val_loss"}
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["val_loss"][-1] < 0.7 * history["loss"][0]
    terms = [history[name] for name in loss.term_names]
    np.testing.assert_allclose(np.sum(terms, 0), history["loss"], rtol=1e-4)
    different = network.stylize(photos[0], "a") - network.stylize(photos[0], "b")
    assert np.abs(different).mean() > 0.005  # 0 at first


def test_evaluate_is_the_loss_of_the_networks_pictures(loss):
    network = lively_network(["a", "b"])
    network.compile(loss=loss, styles=STYLES, run_eagerly=True)
    photos, numbers = noise(4, 16, 18, 3), np.array([0, 1, 1, 0])
    found = network.evaluate(photos, numbers, verbose=0, return_dict=True)
    totals = []
    for photo, number in zip(photos, numbers, strict=True):
        targets = loss.targets(photo[None], STYLES["ab"[number]])
        images = network(photo[None], network.blend("ab"[number]))
        totals.append(float(loss(images, targets)[0]))
    np.testing.assert_allclose(found["loss"], np.mean(totals), rtol=1e-4)


def test_fit_takes_photographs_alone_where_there_is_one_style(loss):
    network = StyleNet(["a"], 4, 0, seed=0)
    network.compile("adam", loss, styles={"a": STYLES["a"]}, run_eagerly=True)
    before = network.get_weights()[0]
    network.fit(noise(2, 16, 16, 3), verbose=0)
    assert not np.array_equal(network.get_weights()[0], before)
    several = StyleNet(["a", "b"], 4, 0, seed=0)
    several.compile("adam", loss, styles=STYLES, run_eagerly=True)
    with pytest.raises(UsageError, match=r"give batches \(photos, numbers"):
        several.fit(noise(2, 16, 16, 3), verbose=0)


def test_compile_refuses(loss):
    network = StyleNet(["a", "b"], 2, 0, seed=0)
    with pytest.raises(UsageError, match=r"pictures for a; give one for each of a, b"):
        network.compile("adam", loss, styles={"a": STYLES["a"]}, run_eagerly=True)
    with pytest.raises(UsageError, match="loss='mse': with styles, give a Percep"):
        network.compile("adam", "mse", styles=STYLES)


def test_compile_without_styles_is_kerass():
    network = StyleNet(["a"], 2, 0, seed=0)
    network.compile("adam", "mse", run_eagerly=True)
    photos = noise(2, 16, 16, 3)
    assert network.fit(photos, photos, verbose=0).history["loss"][0] < 0.5
    assert network.evaluate(photos, photos, verbose=0) < 0.5


def test_compile_takes_the_default_loss(tiny_backbone):
    network = StyleNet(["a", "b"], 2, 0, seed=0)
    network.compile("adam", styles=STYLES, run_eagerly=True)
    found = network.evaluate(
        noise(2, 16, 16, 3), np.array([0, 1]), verbose=0, return_dict=True
    )
    names = perceptual_loss(tfstyle.TrainingOptions()).term_names
    assert set(found) == {"loss", *names}
