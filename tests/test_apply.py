"""Tests of tfstyle/networks/apply.py, and of the pictures that a network is given."""

import pathlib

import numpy as np
import pytest
from conftest import lively_network

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.color import keep_colors
from tfstyle.images.tiles import choose_grid
from tfstyle.networks import apply, style_net
from tfstyle.networks.apply import apply_network
from tfstyle.networks.style_net import StyleNet, apply_style, save_network
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
def test_apply_network_makes_the_same_picture_by_tiles(network, size, pixels):
    picture, blend = uneven(*size), network.blend("a:1,b:2")
    whole = apply_network(network, picture, blend)
    grid = choose_grid(size, network.passes.field, pixels)
    assert len(grid) >= 3
    tiled = network.passes.by_tiles(picture, blend, grid)
    np.testing.assert_allclose(tiled, whole, atol=2e-5)


def test_apply_network_takes_tiles_where_memory_is_short(network, monkeypatch):
    picture, blend, grids = uneven(160, 160), network.blend(), []

    def by_tiles(picture, blend, grid):
        grids.append(grid)
        return picture

    monkeypatch.setattr(network.passes, "by_tiles", by_tiles)
    apply_network(network, picture, blend)
    assert not grids
    # What is left after the runtime and copies of the picture is for 100² pixels.
    left = network.passes.bytes_per_pixel * 100**2
    memory = (RUNTIME + apply._COPIES * picture.nbytes + left) / 1e9
    apply_network(network, picture, blend, max_memory=memory)
    assert len(grids) == 1
    assert np.prod(grids[0].shape) <= 100**2


def test_apply_network_refuses_too_little_memory(network):
    with pytest.raises(UsageError, match="raise max_memory"):
        apply_network(network, uneven(160, 160), network.blend(), max_memory=0.75)


def test_apply_network_refuses_too_small_pictures(network):
    with pytest.raises(UsageError, match=r"9×4 pixels is too small: .* 6 pixels"):
        apply_network(network, uneven(4, 9), network.blend())


def test_apply_style_reads_pictures_and_networks(network, tmp_path):
    save_network(network, tmp_path / "model.keras")
    photo = tmp_path / "photo.png"
    tfstyle.save_image(uneven(30, 40), photo)
    result = apply_style(photo, "b", model=tmp_path, size=20)
    assert result.shape == (15, 20, 3)
    assert result.dtype == np.float32
    same = apply_style(tfstyle.load_image(photo, 20), {"b": 2.0}, model=network)
    np.testing.assert_array_equal(result, same)
    other = apply_style(photo, "a", model=network, size=20)
    assert np.abs(result - other).mean() > 0.01


def test_apply_style_knows_the_bundled_styles():
    content = tfstyle.load_image(CAT, 96)
    starry = tfstyle.apply_style(content, "starry_night")
    scream = tfstyle.apply_style(content, "the_scream")
    assert starry.shape == content.shape[1:]
    red_of = [
        picture[..., 0].mean() - picture[..., 2].mean() for picture in (starry, scream)
    ]
    assert red_of[0] < 0 < red_of[1]  # a blue night and an orange sky


def test_apply_style_reads_the_bundled_network_once(monkeypatch, content):
    reads = []
    load = style_net.load_network
    monkeypatch.setattr(style_net, "load_network", lambda m: reads.append(m) or load(m))
    style_net._published.cache_clear()
    first, second = (apply_style(content, "waves") for _ in range(2))
    assert reads == ["bundled"]
    np.testing.assert_array_equal(first, second)


def test_stylize_keeps_colours_and_protected_parts(network, content):
    protect = np.zeros((32, 40, 3), "float32")
    protect[:, :20] = 1
    free = network.stylize(content)
    kept = network.stylize(content, protect=protect)
    np.testing.assert_array_equal(kept[:, :20], content[0, :, :20])
    np.testing.assert_allclose(kept[:, 21:], free[:, 21:], atol=1e-6)
    assert np.abs(free - content[0])[:, :20].mean() > 0.05
    colored = network.stylize(content, color="content")
    np.testing.assert_allclose(colored, keep_colors(free[None], content)[0], atol=1e-6)
    with pytest.raises(UsageError, match="color='match': choose one of style, content"):
        network.stylize(content, color="match")


def test_stylize_is_the_network_with_a_blend(network):
    picture = uneven(20, 30)
    for style in ("b", "a:1,b:3", {"a": 0.2, "b": 0.6}, None):
        wanted = network(picture, network.blend(style))[0]
        np.testing.assert_allclose(network.stylize(picture, style), wanted, atol=1e-5)


def test_stylize_passes_its_memory_limit_on(network):
    with pytest.raises(UsageError, match="raise max_memory"):
        network.stylize(uneven(160, 160), max_memory=0.75)


def test_apply_network_takes_several_pictures(network):
    pictures = np.concatenate([uneven(20, 30), 1 - uneven(20, 30)])
    blend = network.blend("a:1,b:1")
    found = apply_network(network, pictures, blend)
    np.testing.assert_allclose(found, network(pictures, blend), atol=1e-5)


def traces(network: StyleNet) -> list[int]:
    passes = network.passes
    functions = passes.whole, passes.tile, passes.tile_moments
    return [function.experimental_get_tracing_count() for function in functions]


def test_apply_network_traces_nothing_for_later_pictures():
    network = lively_network(["a", "b"])
    memory = (RUNTIME + network.passes.bytes_per_pixel * 64**2) / 1e9

    def run(seed, blend):
        picture = np.random.default_rng(seed).random((1, 96, 96, 3)).astype("float32")
        copies = apply._COPIES * picture.nbytes / 1e9
        tiled = apply_network(network, picture, network.blend(blend), memory + copies)
        whole = apply_network(network, picture, network.blend(blend))
        np.testing.assert_allclose(tiled, whole, atol=1e-4)

    run(0, "a")
    first = traces(network)
    assert first == [1, 1, len(network.norms)]
    run(1, "a:1,b:2")
    run(2, "b")
    assert traces(network) == first


def test_networks_do_not_share_their_graphs():
    picture = uneven(16, 20)
    networks = [lively_network(["a", "b"], width=width) for width in (2, 3)]
    for _ in range(2):
        for network in networks:
            np.testing.assert_allclose(
                network.stylize(picture), network(picture)[0], atol=1e-5
            )
    assert [traces(network) for network in networks] == [[1, 0, 0]] * 2
