"""How much memory a run may take, and the tiles that keep it within that."""

from __future__ import annotations

import dataclasses
import logging
import math
import pathlib
from collections.abc import Sequence

import psutil

from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.errors import UsageError
from tfstyle.images.tiles import Grid, choose_grid
from tfstyle.losses import PerceptualLoss
from tfstyle.losses.neighbors import CELL, MOST_REFERENCES
from tfstyle.losses.tiled import halo_of
from tfstyle.options import Options
from tfstyle.raw_tensorflow import gpu_memory

GIGABYTE = 1e9
CGROUP = pathlib.Path("/sys/fs/cgroup")
SHARE = 0.6
"""Of the machine's or the GPU's memory, where no limit is given."""

# Measured on CPUs with TensorFlow 2.21, see scripts/benchmark.py.
_PLANNED = 0.85  # of the limit; the allocator keeps some pieces of coarser scales
RUNTIME = 0.75e9
"""What TensorFlow takes before the first picture."""
_ACTIVATIONS = 1.5  # peak of one step, in sizes of all tensors of the network
# Of the picture: in the host's hands, the optimizer's, the gradient, passing ones.
_ADAM_COPIES = 7.5
_LBFGS_COPIES = 6.0  # without passing ones
_COPIES_PER_PAIR = 2.4
_PASSING_COPIES = 8.0  # of L-BFGS, between one pass over the tiles and the next
_NEXT_COPIES = 3.0  # of the last scale's picture, while it is enlarged
_COLUMN_COPIES = 5.0  # of the hypercolumns of a tile's cells
_REFERENCE_COPIES = 7.0  # of those of the style's cells
_KEPT_COPIES = 2.8  # of the content features, which tiles are written into
_LEAST_TILE = 384**2  # smaller ones are mostly halo
_GOOD_TILE = 768**2


@dataclasses.dataclass(frozen=True)
class Cut:
    """How the pictures of a scale are cut.

    Attributes:
      content: The content picture and what is optimised.
      styles: The style pictures.
      keep_content: Whether the content picture's features are kept.
    """

    content: Grid
    styles: tuple[Grid, ...]
    keep_content: bool

    @property
    def tiles(self) -> int:
        """The tiles of the picture that has more."""
        return max(len(grid) for grid in (self.content, *self.styles))


class MemoryPlanner:
    """Cuts pictures so that a run stays within its memory.

    Attributes:
      limit: Bytes that a run may take.
    """

    def __init__(
        self,
        loss: PerceptualLoss,
        options: Options,
        regions: int = 0,
        last: tuple[int, int] = (0, 0),
    ):
        """Finds out what the network takes, and what there is.

        Args:
          loss: Over a ``FeatureExtractor``.
          options: For ``max_memory``, ``optimizer`` and ``history``.
          regions: How many regions the picture has, if any.
          last: Height and width of the last scale. Coarser ones leave room for it,
            since TensorFlow keeps what it has once had.
        """
        assert isinstance(loss.features, FeatureExtractor)
        self._extract, self._content_layers = loss.features, tuple(loss.content_layers)
        self._style_layers, self._regions = loss.style_layers, regions
        self._last = math.prod(last)
        self._options = options
        self._halo = halo_of(loss)
        self._columns = sum(self._extract.channels[layer] for layer in loss.strides)
        self._most_pixels = math.inf
        self.limit = memory_limit(options.max_memory)

    def pairs(
        self, size: tuple[int, int], style_sizes: Sequence[tuple[int, int]], batch: int
    ) -> int:
        """How many pairs of vectors L-BFGS may remember; 0 means Adam.

        They are ``history``, or with ``optimizer=auto`` as many as fit. The arguments
        are those of ``cut``.
        """
        options, area = self._options, batch * math.prod(size)
        if options.optimizer != "auto":
            return options.history if options.optimizer == "lbfgs" else 0

        def fitting(tile: int, kept: float) -> int:
            pixels = min(batch * tile, area)
            room = max(pixels * self._per_pixel, _passing(size, batch, 1)) + kept
            free = self._planned - self._fixed(size, style_sizes, batch, 1) - room
            return 1 + math.floor(free / (_COPIES_PER_PAIR * 12 * area))

        pairs = fitting(_GOOD_TILE, self._kept(size, batch))
        if pairs > 0:
            return min(pairs, options.history)
        # For one pair a step may take longer: with it, L-BFGS comes further than Adam.
        return int(fitting(_LEAST_TILE, 0.0) > 0)

    def cut(
        self,
        size: tuple[int, int],
        style_sizes: Sequence[tuple[int, int]],
        batch: int,
        pairs: int,
    ) -> Cut:
        """Cuts the pictures of one scale.

        Args:
          size: Height and width of what is optimised.
          style_sizes: Heights and widths of the style pictures.
          batch: How many pictures are optimised at once.
          pairs: From ``pairs``.

        Returns:
          One tile each where there is memory enough, or the largest tiles that fit.

        Raises:
          UsageError: If nothing fits; the message says what would help.
        """
        fixed = self._fixed(size, style_sizes, batch, pairs)
        kept = self._kept(size, batch)
        tile = batch * min(_LEAST_TILE, math.prod(size)) * self._per_pixel
        least = max(tile, _passing(size, batch, pairs))
        keep = self._planned - fixed - kept >= least
        # Tiles of a useful size may take what is otherwise set aside.
        room = max(self._planned - fixed - kept * keep, least)
        if fixed + room > max(self.limit, self._planned):
            raise UsageError(self._too_large(size, fixed + least, pairs))
        pixels = min(room / self._per_pixel, self._most_pixels)
        content = choose_grid(size, self._halo, pixels / batch)
        styles = (choose_grid(style, self._halo, pixels) for style in style_sizes)
        return Cut(content, tuple(styles), keep)

    def spare(
        self,
        size: tuple[int, int],
        style_sizes: Sequence[tuple[int, int]],
        batch: int,
        pairs: int,
    ) -> float:
        """Bytes that a scale leaves to others if it is computed as one tile, or 0.

        The arguments are those of ``cut``.
        """
        pixels = max(batch * math.prod(size), *map(math.prod, style_sizes), 0)
        used = self._fixed(size, style_sizes, batch, pairs) + self._kept(size, batch)
        return max(self._planned - used - pixels * self._per_pixel, 0.0)

    def shrink(self, cut: Cut, batch: int) -> None:
        """Halves the tiles from now on: those of ``cut`` took more than there was."""
        largest = max(
            batch * math.prod(cut.content.shape),
            *(math.prod(grid.shape) for grid in cut.styles),
        )
        self._most_pixels = largest / 2
        logging.getLogger("tfstyle").warning(
            "out of memory at %d tile(s) of %d×%d pixels; going on with smaller ones",
            cut.tiles,
            *reversed(cut.content.shape),
        )

    def _fixed(
        self,
        size: tuple[int, int],
        style_sizes: Sequence[tuple[int, int]],
        batch: int,
        pairs: int,
    ) -> float:
        """What is there besides tiles."""
        copies = _LBFGS_COPIES + pairs * _COPIES_PER_PAIR if pairs else _ADAM_COPIES
        area = math.prod(size)
        pixels = copies * batch * area
        pixels += sum(math.prod(style) for style in style_sizes)
        if area < self._last:
            pixels += _NEXT_COPIES * batch * self._last
        searched = _REFERENCE_COPIES * 4 * MOST_REFERENCES * self._columns
        return RUNTIME + searched + 12 * pixels + self._guides_per_pixel * area

    @property
    def _planned(self) -> float:
        """Bytes that estimates may add up to."""
        return _PLANNED * self.limit

    @property
    def _per_pixel(self) -> float:
        """Bytes of one step per pixel of a tile."""
        per_region = sum(
            self._extract.channels[layer] * 4 / stride**2
            for layer, stride in self._guided_strides.items()
        )
        per_cell = _COLUMN_COPIES * 4 * self._columns / CELL**2
        activations = _ACTIVATIONS * self._extract.bytes_per_pixel
        return activations + per_cell + self._regions * per_region

    @property
    def _guides_per_pixel(self) -> float:
        """Bytes of the guides of all layers, and of the regions themselves."""
        cells = 1 + sum(1 / stride**2 for stride in self._guided_strides.values())
        return 4 * self._regions * cells

    @property
    def _guided_strides(self) -> dict[str, int]:
        return {
            layer: self._extract.fields[layer].stride for layer in self._style_layers
        }

    def _kept(self, size: tuple[int, int], batch: int) -> float:
        """Bytes of the content picture's features, as they are made."""
        fields, dtypes = self._extract.fields, self._extract.dtypes
        channels = self._extract.channels
        per_pixel = sum(
            channels[layer] * dtypes[layer].size / fields[layer].stride ** 2
            for layer in self._content_layers
        )
        return _KEPT_COPIES * batch * math.prod(size) * per_pixel

    def _too_large(self, size: tuple[int, int], needed: float, pairs: int) -> str:
        name, remedy = "Adam", "raise max_memory or choose a smaller size"
        if pairs:
            name = f"L-BFGS with history={pairs}"
            remedy += ", a shorter history or optimizer=auto"
        return (
            f"{name} needs {needed / GIGABYTE:.1f} GB for {size[1]}×{size[0]} pixels, "
            f"of {self.limit / GIGABYTE:.1f} GB that the run may take; {remedy}"
        )


def _passing(size: tuple[int, int], batch: int, pairs: int) -> float:
    """Bytes of passing copies, which take turns with tiles."""
    return 12 * _PASSING_COPIES * batch * math.prod(size) if pairs else 0.0


def memory_limit(max_memory: float) -> float:
    """Bytes of so many gigabytes; of a safe share of what there is if 0."""
    return max_memory * GIGABYTE or SHARE * machine_memory()


def machine_memory() -> float:
    """Bytes of the first GPU, or of the machine, or the container's limit."""
    if (gpu := gpu_memory()) is not None:
        return gpu
    machine = float(psutil.virtual_memory().total)
    for limit in ("memory.max", "memory/memory.limit_in_bytes"):
        file = CGROUP / limit
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            machine = min(machine, float(text))
    return machine
