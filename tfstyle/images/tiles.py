"""How a picture is cut into overlapping tiles.

A tile is a part of the picture, its core, with a halo as wide as a network sees. Tiles
begin at multiples of the network's stride, so that each pool of a tile sees the windows
that it sees in the whole picture.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

from tfstyle.errors import UsageError

_MOST_TILES_PER_SIDE = 256


@dataclasses.dataclass(frozen=True)
class Field:
    """Which pixels a layer's features see, along one side.

    The feature at ``i`` sees the pixels from ``i·stride − before`` up to, but without,
    ``(i + 1)·stride + after``.
    """

    stride: int = 1
    before: int = 0
    after: int = 0

    def windowed(self, size: int, stride: int, padding: int) -> Field:
        """The field after a convolution or pool.

        Args:
          size: Length of its window.
          stride: Its stride.
          padding: Features that are added on the left.
        """
        stride_after = self.stride * stride
        end = self.after + (size - 1 - padding) * self.stride + self.stride
        return Field(
            stride_after, self.before + padding * self.stride, end - stride_after
        )


def widest_field(fields: Iterable[Field]) -> Field:
    """The coarsest stride of several fields, and what lies around a core for all.

    At least one pixel lies after the core, for differences between neighbours.
    """
    fields = list(fields)
    return Field(
        max(field.stride for field in fields),
        max(field.before for field in fields),
        max(1, *(field.after for field in fields)),
    )


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one side.

    Attributes:
      begin: The first pixel of the tile.
      core_begin: The first pixel of its core.
      core_end: The pixel after its core.
    """

    begin: int
    core_begin: int
    core_end: int


@dataclasses.dataclass(frozen=True)
class Side:
    """How one side of a picture is cut.

    Attributes:
      length: Length of the side.
      tile: Length of every tile, halo included.
      spans: The tiles; their cores follow each other without a gap.
    """

    length: int
    tile: int
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True)
class Grid:
    """How a picture is cut into tiles of one shape."""

    rows: Side
    columns: Side

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of every tile, halo included."""
        return self.rows.tile, self.columns.tile

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        return self.rows.length, self.columns.length

    def __len__(self) -> int:
        return len(self.rows.spans) * len(self.columns.spans)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        for row in self.rows.spans:
            for column in self.columns.spans:
                yield row, column


def cut(length: int, tiles: int, halo: Field) -> Side | None:
    """Cuts a side into tiles of equal length that begin at multiples of the stride.

    Args:
      length: Length of the side in pixels.
      tiles: Number of tiles.
      halo: The coarsest stride, and what must lie around a core.

    Returns:
      The side; None where there is no room for so many tiles.
    """
    if tiles == 1:
        return Side(length, length, (Span(0, 0, length),))
    stride = halo.stride
    before = math.ceil(halo.before / stride) * stride
    after = math.ceil(halo.after / stride) * stride
    step = (length - before - after) // (tiles * stride) * stride
    if step <= 0:
        return None
    begins = [i * step for i in range(tiles)]
    cores = [0, *[begin + before for begin in begins[1:]], length]
    spans = (Span(*span) for span in zip(begins, cores[:-1], cores[1:], strict=True))
    return Side(length, length - begins[-1], tuple(spans))


def choose_grid(size: tuple[int, int], halo: Field, most_pixels: float) -> Grid:
    """The grid with the least work among those whose tiles are small enough.

    Args:
      size: Height and width of the picture.
      halo: Same as in ``cut``.
      most_pixels: Pixels of a tile at most, halo included.

    Returns:
      The grid; of one tile where the whole picture is small enough.

    Raises:
      UsageError: If even the smallest tiles are larger.
    """
    rows, columns = (_cuts(side, halo) for side in size)
    work = {}
    smallest = math.prod(size)
    for row in rows:
        for column in columns:
            pixels = row.tile * column.tile
            smallest = min(smallest, pixels)
            if pixels <= most_pixels:
                grid = Grid(row, column)
                work[len(grid) * pixels] = grid
    if not work:
        raise UsageError(
            f"a tile of {smallest / 1e6:.2f} megapixels, the least for these layers, "
            "takes more memory than is left; raise max_memory, use shallower layers or "
            "a smaller size"
        )
    return work[min(work)]


def _cuts(length: int, halo: Field) -> list[Side]:
    cuts = (cut(length, tiles, halo) for tiles in range(1, _MOST_TILES_PER_SIDE))
    return [side for side in cuts if side]
