import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import load_script
from PIL import Image

from tfstyle.backbones import vgg
from tfstyle.backbones.base import CAFFE_MEAN_BGR
from tfstyle.backbones.weights_assign import assign_weights

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "distil_backbone.py"
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


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Files of the names and shapes of the teachers, with random values."""
    folder, rng = tmp_path_factory.mktemp("teachers"), np.random.default_rng(0)
    true = random_layers(vgg.convolutions((2, 2, 1)), vgg.CHANNELS, rng)
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


def test_student_weights_compute_the_same_as_the_compressed_teacher(distil, teachers):
    deep, compressed = distil.compressed_teacher(str(teachers / "compressed.npz"))
    _, true = distil.true_teacher(str(teachers / "true.npz"))
    whole, student = distil.build_student()
    assign_weights(
        whole, distil.student_weights(whole, compressed, true), "the teachers"
    )
    images = tf.random.stateless_uniform([2, 64, 64, 3], [0, 1])

    wanted, got = deep(images), student(images)
    for tap, target in wanted.items():
        assert float(tf.reduce_mean(target)) > 0.01
        assert float(distil.relative_error(got[tap], target)) < 1e-8


def test_student_weights_begin_with_the_true_first_convolution(distil, teachers):
    _, compressed = distil.compressed_teacher(str(teachers / "compressed.npz"))
    _, true = distil.true_teacher(str(teachers / "true.npz"))
    whole, _ = distil.build_student()
    assign_weights(
        whole, distil.student_weights(whole, compressed, true), "the teachers"
    )
    image = tf.random.stateless_uniform([1, 32, 32, 3], [0, 2])

    bgr = image[..., ::-1] * 255 - np.float32(CAFFE_MEAN_BGR)
    padded = tf.pad(bgr, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
    kernel, bias = true["block1_conv1/kernel"], true["block1_conv1/bias"]
    by_hand = tf.nn.relu(tf.nn.conv2d(padded, kernel, 1, "VALID") + bias)
    got = whole(image)["block1_conv1"]
    np.testing.assert_allclose(got, by_hand, rtol=1e-3, atol=1e-3)


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
