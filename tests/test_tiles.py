"""How pictures are cut into tiles."""

import itertools

import pytest

from tfstyle.errors import UsageError
from tfstyle.images.tiles import Field, Grid, Side, Span, choose_grid, cut, widest_field

pytestmark = pytest.mark.fast


@pytest.mark.parametrize("length", [96, 97, 111, 200, 1001])
@pytest.mark.parametrize("tiles", [1, 2, 3, 7])
@pytest.mark.parametrize("halo", [Field(16, 20, 33), Field(8, 0, 5), Field(1, 1, 1)])
def test_cut_leaves_no_gap_and_no_overlap(length, tiles, halo):
    side = cut(length, tiles, halo)
    room = length - sum(
        -(-n // halo.stride) * halo.stride for n in (halo.before, halo.after)
    )
    if tiles > 1 and room < tiles * halo.stride:
        assert side is None
        return
    assert len(side.spans) == tiles
    ends = [0, *[span.core_end for span in side.spans]]
    assert ends[:-1] == [span.core_begin for span in side.spans]
    assert ends[-1] == length
    for span in side.spans:
        end = span.begin + side.tile
        assert span.begin % halo.stride == span.core_begin % halo.stride == 0
        assert 0 <= span.begin <= span.core_begin < span.core_end <= end <= length
        assert span.begin == 0 or span.core_begin - span.begin >= halo.before
        assert end == length or end - span.core_end >= halo.after


def test_cut_into_one_tile_may_be_shorter_than_the_halo():
    halo = Field(16, 70, 70)
    assert cut(50, 1, halo) == Side(50, 50, (Span(0, 0, 50),))
    assert cut(50, 2, halo) is None


def test_choose_grid_takes_the_least_work():
    halo = Field(8, 10, 10)
    assert len(choose_grid((300, 400), halo, 120_000)) == 1
    grid = choose_grid((300, 400), halo, 40_000)
    assert grid.shape[0] * grid.shape[1] <= 40_000
    work = len(grid) * grid.shape[0] * grid.shape[1]
    assert work < 1.4 * 300 * 400
    for tiles in ((1, 4), (4, 1), (2, 3), (3, 3)):
        other = Grid(cut(300, tiles[0], halo), cut(400, tiles[1], halo))
        pixels = other.shape[0] * other.shape[1]
        assert pixels > 40_000 or len(other) * pixels >= work


def test_choose_grid_refuses_tiles_that_cannot_be_small_enough():
    with pytest.raises(UsageError, match=r"a tile of 0\.0\d megapixels, the least for"):
        choose_grid((300, 400), Field(16, 70, 70), 100)


@pytest.mark.parametrize("size", [(300, 400), (97, 211)])
@pytest.mark.parametrize("halo", [Field(8, 10, 10), Field(16, 70, 70), Field(2, 0, 3)])
@pytest.mark.parametrize("most", [64_000, 27_000, 9_000])
def test_choose_grid_finds_no_grid_with_less_work(size, halo, most):
    sides = [
        [side for n in range(1, 64) if (side := cut(length, n, halo))]
        for length in size
    ]
    work = [
        len(grid) * grid.shape[0] * grid.shape[1]
        for grid in itertools.starmap(Grid, itertools.product(*sides))
        if grid.shape[0] * grid.shape[1] <= most
    ]
    if not work:
        with pytest.raises(UsageError):
            choose_grid(size, halo, most)
        return
    grid = choose_grid(size, halo, most)
    assert grid.size == size
    assert grid.shape[0] * grid.shape[1] <= most
    assert len(grid) * grid.shape[0] * grid.shape[1] == min(work)


def test_grid_lists_its_tiles_by_rows():
    halo = Field(2, 3, 3)
    grid = Grid(cut(40, 2, halo), cut(50, 3, halo))
    assert len(list(grid)) == len(grid) == 6
    assert [row for row, _ in grid] == [
        *[grid.rows.spans[0]] * 3,
        *[grid.rows.spans[1]] * 3,
    ]
    assert [column for _, column in grid] == [*grid.columns.spans] * 2


def test_choose_grid_refuses_a_pixel_below_the_least_in_one_line_with_remedies():
    halo = Field(16, 70, 70)
    sides = [
        min(side.tile for n in range(1, 256) if (side := cut(length, n, halo)))
        for length in (3072, 4096)
    ]
    least = sides[0] * sides[1]
    assert sides == [176, 176]  # a core of one stride, and its halo in whole strides
    assert choose_grid((3072, 4096), halo, least).shape == (176, 176)
    with pytest.raises(UsageError) as caught:
        choose_grid((3072, 4096), halo, least - 1)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"a tile of {least / 1e6:.2f} megapixels, the least")
    for remedy in ("raise max_memory", "shallower layers", "a smaller size"):
        assert remedy in message


def test_widest_field_is_a_pixel_wide_at_least():
    fields = [Field(1, 3, 0), Field(4, 2, 0)]
    assert widest_field(fields) == Field(4, 3, 1)
    assert widest_field([*fields, Field(2, 0, 5)]) == Field(4, 3, 5)
