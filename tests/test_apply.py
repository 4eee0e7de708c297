"""Tests of networks that are applied to pictures of any size."""

import pathlib

import numpy as np
import pytest
from conftest import lively_network

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.color import keep_colors
from tfstyle.images.tiles import choose_grid
from tfstyle.networks import apply
from tfstyle.networks.apply import apply_network, apply_style
from tfstyle.networks.style_net import save_network
from tfstyle.stylizer.memory import RUNTIME

CAT = pathlib.Path(__file__).parents[1] / "data" / "content" / "cat.jpg"


@pytest.fixture(scope="module")
def network():
    return lively_network(["a", "b"])


def uneven(height: int, width: int) -> np.ndarray:
    """A picture whose parts have very different statistics."""
    picture = np.random.default_rng(8).uniform(size=[1, height, width, 3])
    picture *= np.linspace(0, 1, width)[:, None] ** 2
    return picture.astype("float32")


@pytest.mark.parametrize(
    ("size", "pixels"), [((150, 141), 9000), ((203, 97), 8000), ((131, 264), 20000)]
)
def test_tiles_make_the_whole_picture(network, size, pixels):
    picture, blend = uneven(*size), network.blend("a:1,b:2")
    whole = apply_network(network, picture, blend)
    grid = choose_grid(size, network.field, pixels)
    assert len(grid) >= 3
    tiled = apply._by_tiles(network, picture, blend, grid)
    np.testing.assert_allclose(tiled, whole, atol=2e-5)


def test_little_memory_means_tiles(network, monkeypatch):
    picture, blend, grids = uneven(160, 160), network.blend(), []

    def by_tiles(network, picture, blend, grid):
        grids.append(grid)
        return picture

    monkeypatch.setattr(apply, "_by_tiles", by_tiles)
    apply_network(network, picture, blend)
    assert not grids
    # What is left after the runtime and copies of the picture is for 100² pixels.
    left = network.bytes_per_pixel * 100**2
    memory = (RUNTIME + apply._COPIES * picture.nbytes + left) / 1e9
    apply_network(network, picture, blend, max_memory=memory)
    assert len(grids) == 1
    assert np.prod(grids[0].shape) <= 100**2


def test_too_little_memory_is_told(network):
    with pytest.raises(UsageError, match="raise max_memory"):
        apply_network(network, uneven(160, 160), network.blend(), max_memory=0.75)


def test_too_small_pictures_are_refused(network):
    with pytest.raises(UsageError, match=r"9×4 pixels is too small: .* 6 pixels"):
        apply_network(network, uneven(4, 9), network.blend())


def test_apply_style_reads_pictures_and_networks(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    photo = tmp_path / "photo.png"
    tfstyle.save_image(uneven(30, 40), photo)
    result = apply_style(photo, "b", model=tmp_path, size=20)
    assert result.shape == (1, 15, 20, 3)
    same = apply_style(tfstyle.load_image(photo, 20), {"b": 2.0}, model=network)
    np.testing.assert_array_equal(result, same)
    other = apply_style(photo, "a", model=network, size=20)
    assert np.abs(result - other).mean() > 0.01


def test_the_bundled_styles_stylize():
    content = tfstyle.load_image(CAT, 96)
    starry = tfstyle.apply_style(content, "starry_night")
    scream = tfstyle.apply_style(content, "the_scream")
    assert starry.shape == content.shape
    red_of = [
        picture[..., 0].mean() - picture[..., 2].mean() for picture in (starry, scream)
    ]
    assert red_of[0] < 0 < red_of[1]  # a blue night and an orange sky


def test_the_bundled_network_is_read_once(monkeypatch, content):
    reads = []
    load = apply.load_network
    monkeypatch.setattr(apply, "load_network", lambda m: reads.append(m) or load(m))
    apply._bundled.cache_clear()
    first, second = (apply.apply_style(content, "waves") for _ in range(2))
    assert reads == ["bundled"]
    np.testing.assert_array_equal(first, second)


def test_colours_and_protected_parts_stay(content):
    network = lively_network(["one", "two"])
    protect = np.zeros((32, 40, 3), "float32")
    protect[:, :20] = 1
    free = apply_style(content, model=network)
    kept = apply_style(content, model=network, protect=protect)
    np.testing.assert_array_equal(kept[:, :, :20], content[:, :, :20])
    np.testing.assert_allclose(kept[:, :, 21:], free[:, :, 21:], atol=1e-6)
    assert np.abs(free - content)[:, :, :20].mean() > 0.05
    colored = apply_style(content, model=network, color="content")
    np.testing.assert_allclose(colored, keep_colors(free, content), atol=1e-6)
    with pytest.raises(UsageError, match="color='match': choose one of style, content"):
        apply_style(content, model=network, color="match")


def test_tiles_of_later_pictures_trace_nothing():
    network = lively_network(["a", "b"])

    def picture(seed):
        return np.random.default_rng(seed).random((1, 96, 96, 3)).astype("float32")

    grid = choose_grid((96, 96), network.field, 64 * 64)
    assert len(grid) > 1
    blend = network.blend("a")
    counts = []
    for seed in range(3):
        tiled = apply._by_tiles(network, picture(seed), blend, grid)
        whole = apply_network(network, picture(seed), blend)
        np.testing.assert_allclose(tiled, whole, atol=1e-4)
        functions = apply._stylized_tile(network), apply._tile_moments(network)
        counts.append([f.experimental_get_tracing_count() for f in functions])
    assert counts[0] == counts[1] == counts[2]
    assert counts[0] == [1, len(network.norms)]
