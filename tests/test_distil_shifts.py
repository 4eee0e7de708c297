import itertools

import numpy as np
import pytest
import tensorflow as tf
from absl.testing import flagsaver
from conftest import draw, load_script

import tfstyle
from tfstyle.networks.style_net import load_network


@pytest.fixture(scope="module")
def distil():
    return load_script("distil_shifts")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        picture = draw(80, 96, (5 + i, 9, 14 - i))
        tfstyle.save_image(picture, folder / f"{i}.png")
    return folder


def test_shifts_of_four_steps_are_all_of_a_period(distil):
    found = [shift for step in range(4) for shift in distil.shifts_of(step)]
    assert sorted(found) == [*itertools.product(range(4), repeat=2)]


def test_a_sharper_kernel_gives_the_sharpened_picture(distil):
    random = np.random.default_rng(1)
    x = random.normal(size=(1, 20, 24, 3)).astype("float32")
    kernel = np.zeros((5, 5, 3, 2), "float32")
    kernel[1:4, 1:4] = random.normal(size=(3, 3, 3, 2))
    plain = tf.nn.conv2d(x, kernel, 1, "VALID").numpy()
    found = tf.nn.conv2d(x, distil.sharper(kernel, 0.7), 1, "VALID").numpy()
    rows = (plain[:, :-2] + 2 * plain[:, 1:-1] + plain[:, 2:]) / 4
    blurred = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4
    inner = plain[:, 1:-1, 1:-1]
    wanted = inner + 0.7 * (inner - blurred)
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], wanted, atol=1e-5)


def test_a_sharper_kernel_keeps_even_areas(distil):
    kernel = np.random.default_rng(2).normal(size=(3, 3, 4, 2)).astype("float32")
    sums = distil.sharper(kernel, 1.3).sum((0, 1))
    np.testing.assert_allclose(sums, kernel.sum((0, 1)), atol=1e-5)


def mean_over_shifts(network, blend, photo):
    """The mean picture, away from the border."""
    height, width = photo.shape[1] - 4, photo.shape[2] - 4
    drawn = [
        np.pad(
            network(photo[:, y : y + height, x : x + width], blend),
            [[0, 0], [y, 4 - y], [x, 4 - x], [0, 0]],
        )
        for y, x in itertools.product(range(4), repeat=2)
    ]
    return np.mean(drawn, 0)[:, 16:-16, 16:-16]


def test_a_network_learns_the_mean_of_its_shifted_pictures(
    distil, photos, tmp_path, capsys
):
    run = tmp_path / "run"
    flags = {
        "photos": str(photos),
        "run": str(run),
        "network": "bundled",
        "sharpness": 0.0,
    }
    few = {"steps": 60, "size": 64, "batch": 2, "save_every": 30}
    with flagsaver.flagsaver(**flags, **few):
        distil.main([])
        once = capsys.readouterr().out
        distil.main([])
    assert [line.split(":")[0] for line in once.splitlines()] == ["30", "60"]
    assert not capsys.readouterr().out  # nothing is left to do
    before, after = load_network("bundled"), load_network(run / "model.keras")
    photo = draw(100, 116, (6, 9, 13))
    errors = []
    for name in before.style_names:
        blend = before.blend(name)
        wanted = mean_over_shifts(before, blend, photo)
        errors.append(
            [
                np.square(network(photo, blend)[:, 16:-16, 16:-16] - wanted).mean()
                for network in (before, after)
            ]
        )
    had, has = np.mean(errors, 0)
    assert has < 0.8 * had
