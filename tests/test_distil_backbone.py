import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_script
from PIL import Image

from tfstyle.backbones import slim19, vgg
from tfstyle.backbones.base import CAFFE_MEAN_BGR
from tfstyle.backbones.weights import read_weights
from tfstyle.backbones.weights_assign import assign_weights

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "distil_backbone.py"
SHALLOW = vgg.convolutions((2, 2, 1))
COMPRESSED = (16, 32, 64, 128, 128)
EMBEDDINGS = dict(zip(range(1, 6), (64, 128, 256, 512, 512), strict=True))


@pytest.fixture(scope="module")
def distil():
    return load_script("distil_backbone")


def random_layers(layers, channels, rng):
    weights, inputs = {}, 3
    for layer in layers:
        outputs = channels[int(layer[5]) - 1]
        scale = np.sqrt(2 / (9 * inputs))
        kernel = rng.normal(0, scale, (3, 3, inputs, outputs))
        weights[f"{layer}/kernel"] = kernel.astype("float32")
        weights[f"{layer}/bias"] = rng.normal(0, 0.1, outputs).astype("float32")
        inputs = outputs
    return weights


def of_few_channels(rng, shape, ranks):
    """A random kernel that can be factored into three, without an error."""
    (inner, outer), (_, _, inputs, outputs) = ranks, shape
    into = rng.normal(0, np.sqrt(1 / inputs), (inputs, inner))
    middle = rng.normal(0, np.sqrt(2 / (9 * inner)), (3, 3, inner, outer))
    out = rng.normal(0, np.sqrt(1 / outer), (outer, outputs))
    return np.float32(np.einsum("ip,hwpr,ro->hwio", into, middle, out))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Files of the names and shapes of the teachers, with random values."""
    folder, rng = tmp_path_factory.mktemp("teachers"), np.random.default_rng(0)
    true = random_layers(SHALLOW, vgg.CHANNELS, rng)
    for layer, ranks in slim19.FACTORS.items():
        true[f"{layer}/kernel"] = of_few_channels(
            rng, true[f"{layer}/kernel"].shape, ranks
        )
    # Activations of about 1 from input of about 100.
    true["block1_conv1/kernel"] /= 64
    np.savez(folder / "true.npz", **true)
    small = random_layers(vgg.convolutions((2, 2, 4, 4, 1)), COMPRESSED, rng)
    small["block1_conv1/kernel"] /= 64
    small["preprocess/kernel"] = 255 * np.eye(3, dtype="float32")[None, None, ::-1]
    small["preprocess/bias"] = np.float32([-104.3, -116.8, -123.4])
    for block, full in EMBEDDINGS.items():
        inputs = COMPRESSED[block - 1]
        name = f"block{block}_conv1_embedding"
        kernel = rng.normal(0, np.sqrt(2 / inputs), (1, 1, inputs, full))
        small[f"{name}/kernel"] = kernel.astype("float32")
        small[f"{name}/bias"] = rng.normal(0, 0.1, full).astype("float32")
    np.savez(folder / "compressed.npz", **small)
    return folder


def in_three(distil, seen, parts):
    x = tf.einsum("nhwi,ip->nhwp", seen, distil.floats(parts["in/kernel"][0, 0]))
    x = distil.mirrored_convolution(x, parts["mid/kernel"])
    x = tf.einsum("nhwr,ro->nhwo", x, distil.floats(parts["out/kernel"][0, 0]))
    return x + distil.floats(parts["out/bias"])


def test_factored_finds_a_convolution_of_few_channels(distil):
    rng = np.random.default_rng(0)
    into, middle, out = (
        rng.normal(size=shape) for shape in ((12, 3), (3, 3, 3, 4), (4, 20))
    )
    kernel = np.einsum("ip,hwpr,ro->hwio", into, middle, out)
    seen = tf.constant(rng.uniform(size=(2, 24, 24, 12)), tf.float32)
    wanted = distil.mirrored_convolution(seen, kernel) + rng.normal(size=20)

    parts = distil.factored(kernel, seen, wanted, (3, 4))
    assert parts["mid/kernel"].shape == (3, 3, 3, 4)
    error = distil.relative_error(in_three(distil, seen, parts), wanted)
    assert float(error) < 1e-6


def test_factored_has_smaller_errors_with_more_channels(distil):
    rng = np.random.default_rng(1)
    kernel = rng.normal(size=(3, 3, 8, 10))
    seen = tf.constant(rng.uniform(size=(2, 24, 24, 8)), tf.float32)
    wanted = distil.mirrored_convolution(seen, kernel)
    errors = []
    for ranks in ((2, 2), (4, 5), (8, 10)):
        parts = distil.factored(kernel, seen, wanted, ranks)
        errors.append(
            float(distil.relative_error(in_three(distil, seen, parts), wanted))
        )
    assert errors[0] > errors[1] > 100 * errors[2]
    assert errors[2] < 1e-6


@pytest.fixture(scope="module")
def begun(distil, teachers):
    """The student as it begins, and the weights of its teachers."""
    compressed = distil.compressed_weights(str(teachers / "compressed.npz"))
    true, _ = read_weights(teachers / "true.npz")
    whole, _ = distil.build_student()
    pictures = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
    weights = distil.starting_weights(whole, true, compressed, pictures)
    assign_weights(whole, weights, "the teachers")
    return whole, true, compressed


def test_starting_weights_have_the_first_convolution_of_vgg19(distil, begun):
    whole, true, _ = begun
    image = tf.random.stateless_uniform([1, 32, 32, 3], [0, 2])

    bgr = image[..., ::-1] * 255 - np.float32(CAFFE_MEAN_BGR)
    kernel, bias = true["block1_conv1/kernel"], true["block1_conv1/bias"]
    by_hand = tf.nn.relu(distil.mirrored_convolution(bgr, kernel) + bias)
    got = whole(image)["block1_conv1"]
    np.testing.assert_allclose(got, by_hand, rtol=1e-3, atol=1e-3)


def test_starting_weights_compute_what_the_teachers_do(distil, begun):
    whole, true, compressed = begun
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])
    channels = {layer: true[f"{layer}/bias"].size for layer in SHALLOW}
    shallow = distil.frozen_network(
        lambda x: vgg.build(x, channels, "max", padding="reflect"),
        "caffe",
        true,
        SHALLOW,
    )
    got = whole(images)
    for tap, target in shallow(images).items():
        assert float(distil.relative_error(got[tap], target)) < 1e-4, tap
    for layer in ("block4_conv3", "block5_conv1_head"):
        known = compressed[f"{layer.replace('head', 'embedding')}/kernel"]
        np.testing.assert_array_equal(whole.get_layer(layer).kernel, known)


def test_with_average_pooling_shares_the_weights(distil, begun):
    whole, *_ = begun
    average = distil.with_average_pooling(whole)
    flat, stripes = np.full([1, 32, 32, 3], 0.5, "float32"), np.zeros([1, 32, 32, 3])
    stripes[:, :, ::2] = 1
    pairs = [(whole(x), average(x)) for x in (flat, np.float32(stripes))]
    same, other = (
        [np.array_equal(a[tap], b[tap]) for tap in ("block1_conv2", "block5_conv1")]
        for a, b in pairs
    )
    assert same == [True, True]
    assert other == [True, False]


def test_disturbed_is_a_picture_with_fine_grain_or_lattice(distil):
    grey = tf.fill([64, 64, 3], 0.5)
    changes = []
    for _ in range(12):
        image = distil.disturbed(grey).numpy()
        assert image.shape == (64, 64, 3) and 0 <= image.min() <= image.max() <= 1
        changes.append(image - 0.5)
    # Neighbours differ about as much as the picture itself does: nothing is coarse.
    fine = np.mean([np.diff(change, axis=1).var() for change in changes])
    assert fine > 0.5 * np.mean([change.var() for change in changes]) > 0


def test_augment_and_noise_picture_give_pictures(distil):
    image = tf.cast(tf.random.stateless_uniform([90, 120, 3], [0, 3]) * 255, tf.uint8)
    for _ in range(5):
        crop = distil.augment(distil.random_crop(image, 64)).numpy()
        assert crop.shape == (64, 64, 3)
        assert crop.min() >= 0
        assert crop.max() <= 1
    assert distil.noise_picture(64).shape == (64, 64, 3)


@pytest.mark.slow
def test_command_trains_and_writes_weights_and_record(teachers, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        pixels = rng.integers(0, 256, (90, 120, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    words = {
        "photos": tmp_path,
        "true_vgg": teachers / "true.npz",
        "compressed_vgg": teachers / "compressed.npz",
        "run": tmp_path / "run",
        "steps": 4,
        "steps_per_epoch": 2,
        "batch": 2,
        "crop": 64,
    }
    flags = [f"--{name}={value}" for name, value in words.items()]
    subprocess.run([sys.executable, SCRIPT, *flags], check=True)

    assert (tmp_path / "run" / "slim19.npz").stat().st_size < 4 * 2**20
    assert '"steps": 4' in (tmp_path / "run" / "slim19.json").read_text()
