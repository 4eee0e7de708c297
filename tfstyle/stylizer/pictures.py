"""The pictures of a run: read, checked, and given their colours.

Nothing here imports TensorFlow, so that a bad picture is refused at once.
"""

from __future__ import annotations

import dataclasses
import numbers
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.images import load_batch, load_image, resize_image
from tfstyle.images.color import color_statistics, match_colors, mixed_statistics
from tfstyle.images.folder import picture_files
from tfstyle.images.loading import split_batch
from tfstyle.images.masks import (
    Mask,
    assign_styles,
    check_style_masks,
    read_mask,
    read_protection,
    regions_array,
)
from tfstyle.images.samples import resolve_sample
from tfstyle.options import NOISE_STARTS, Options


@dataclasses.dataclass(frozen=True)
class StylePicture:
    """A style picture.

    Attributes:
      picture: Float32 ``[1, H', W', 3]`` in [0, 1].
      regions: How much of each pixel counts for each region, ``[1, H', W', R]``; None
        if all of it does.
    """

    picture: np.ndarray
    regions: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class LoadedStyles:
    """Style pictures that have been read, to be used in several runs.

    Attributes:
      pictures: Float32 ``[1, H', W', 3]`` each, at the scale of their strokes.
      weights: The weight of each.
      files: Absolute paths of those that were read from files.
    """

    pictures: tuple[np.ndarray, ...]
    weights: tuple[float, ...]
    files: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of a run, all of them float32 in [0, 1].

    Attributes:
      content: Content pictures ``[N, H, W, 3]``; None if they have no weight.
      styles: Style pictures; empty if they have no weight.
      shares: The share of each style in each region, ``[styles, R]``.
      start: First pictures ``[N, H'', W'', 3]``, or ``noise`` or ``normal``.
      size: Height and width of the result.
      regions: How much of each pixel belongs to each region, ``[1, H, W, R]``; None if
        the whole picture is one.
      protect: How much of each pixel stays as in ``original``, ``[1, H, W, 1]``, or
        None.
      original: The content pictures as they were given, where they are needed again.
      warped: What the result should be where ``consistency`` is 1, ``[1, H, W, 3]``:
        the frame before, in a film; else None.
      consistency: ``[1, H, W, 1]``, or None.
      files: Absolute paths of all pictures that were read from files.
    """

    content: np.ndarray | None
    styles: tuple[StylePicture, ...]
    shares: np.ndarray
    start: np.ndarray | str
    size: tuple[int, int]
    regions: np.ndarray | None = None
    protect: np.ndarray | None = None
    original: np.ndarray | None = None
    warped: np.ndarray | None = None
    consistency: np.ndarray | None = None
    files: frozenset[str] = frozenset()

    @property
    def batch(self) -> int:
        """The number of pictures that are optimised at once."""
        return 1 if self.content is None else len(self.content)


def read_pictures(
    options: Options,
    content: Any,
    style: Any,
    *,
    content_mask: Any = None,
    style_mask: Any = None,
    protect: Any = None,
) -> Pictures:
    """Reads and checks the pictures of a run, given as in ``Stylizer.__call__``.

    Raises:
      UsageError: If a picture is missing, or cannot be used.
      ImageError: If a file is not a picture, or is damaged.
    """
    if content is None and options.needs_content:
        raise UsageError("no content picture: give one, or content_weight=0")
    contents = None
    if content is not None:
        contents = load_batch(
            content,
            options.size,
            size_of=options.size_of,
            allow_upscale=options.allow_upscale,
            name="content",
        )
    styles = read_styles(options, style)
    guide = contents
    if guide is None:
        guide = styles.pictures[0] if styles.pictures else None
    if guide is None:
        raise UsageError("no style picture: give one, or style_weight=0")
    if contents is None and not (content_mask is None and protect is None):
        raise UsageError("a content_mask or protect needs a content picture")
    size = guide.shape[1:3]
    regions, protection, parts, shares = _regions(
        size, styles, content_mask, style_mask, protect
    )
    others = [content_mask, style_mask, protect, options.init]
    given = [each for source in (content, *others) for each in split_batch(source)]
    pictures = Pictures(
        content=contents,
        styles=tuple(map(StylePicture, styles.pictures, parts)),
        shares=shares,
        start=_start(contents, styles.pictures, os.fspath(options.init)),
        size=size,
        regions=regions,
        protect=protection,
        files=_files(given) | styles.files,
    )
    return _without_weightless(_with_colors(pictures, options), options)


def read_styles(options: Options, source: Any) -> LoadedStyles:
    """Reads style pictures, given as in ``Stylizer.__call__``, at their strokes' scale.

    Raises:
      UsageError: If there is none though style has a weight, or the weights or
        ``style_scale`` do not fit.
      ImageError: If a file is not a picture, or is damaged.
    """
    if isinstance(source, LoadedStyles):
        return source
    weighted = weighted_sources(source)
    if not weighted:
        if options.needs_style:
            raise UsageError("no style picture: give one, or style_weight=0")
        return LoadedStyles((), ())
    weights = tuple(weight for _, weight in weighted)
    if min(weights) < 0 or not sum(weights) > 0:
        raise UsageError(
            f"the weights of the styles are {', '.join(f'{w:g}' for w in weights)}; "
            "give numbers of at least 0, not all 0"
        )
    scales = scale_of_each(options.style_scale, len(weighted))
    pictures = (
        at_scale(
            picture,
            scale,
            options.style_size or options.size,
            options.size_of,
            allow_upscale=options.allow_upscale,
        )
        for (picture, _), scale in zip(weighted, scales, strict=True)
    )
    return LoadedStyles(tuple(pictures), weights, _files(p for p, _ in weighted))


def scale_of_each(scales: Sequence[float], styles: int) -> tuple[float, ...]:
    """The scale of each style, where one may stand for all.

    Raises:
      UsageError: If there are neither one nor as many scales as styles.
    """
    if len(scales) not in (1, styles):
        raise UsageError(
            f"style_scale has {len(scales)} numbers for {styles} "
            f"style{'s' * (styles > 1)}; give one for all, or one for each"
        )
    return tuple(scales) * (styles // len(scales))


def _files(sources: Iterable[Any]) -> frozenset[str]:
    """Absolute paths, without links, of the pictures that are given by their paths."""
    return frozenset(
        os.path.realpath(source)
        for source in sources
        if isinstance(source, str | os.PathLike) and pathlib.Path(source).is_file()
    )


def weighted_sources(source: Any) -> list[tuple[Any, float]]:
    """Style pictures or their paths with their weights; a folder's share its weight.

    Raises:
      UsageError: If a weight is not a number, or a folder has no picture in it.
    """
    if source is None:
        return []
    if isinstance(source, Mapping):
        source = list(source.items())
    weighted: list[tuple[Any, float]] = []
    for item in split_batch(source):
        picture, weight = item if isinstance(item, tuple) else (item, 1.0)
        if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
            raise UsageError(f"style: the weight {weight!r} is not a number")
        weight, picture = float(weight), resolve_sample(picture)
        folder = (
            isinstance(picture, str | os.PathLike) and pathlib.Path(picture).is_dir()
        )
        pictures = picture_files(pathlib.Path(picture)) if folder else [picture]
        weighted += [(each, weight / len(pictures)) for each in pictures]
    return weighted


def at_scale(
    source: Any,
    scale: float,
    size: int,
    size_of: Literal["longest", "shortest"] = "longest",
    *,
    allow_upscale: bool = False,
) -> np.ndarray:
    """A style picture at the scale of its strokes.

    Args:
      source: The picture, see ``load_image``.
      scale: How many times as large as ``size`` it is to be.
      size: Length in pixels of the side that ``size_of`` names.
      size_of: The "longest" or the "shortest" side.
      allow_upscale: Whether a picture smaller than ``size`` is enlarged to it first;
        otherwise its own size stands for ``size``.

    Raises:
      UsageError: Same as in ``load_image``.
      ImageError: Same as in ``load_image``.
    """
    if scale != 1:
        source = load_image(source, name="style")
        side = max if size_of == "longest" else min
        shortened = size if allow_upscale else min(size, side(source.shape[1:3]))
        size, allow_upscale = max(round(shortened * scale), 1), True
    return load_image(
        source, size, size_of=size_of, allow_upscale=allow_upscale, name="style"
    )


def _regions(
    size: tuple[int, int],
    styles: LoadedStyles,
    content_mask: Any,
    style_mask: Any,
    protect: Any,
) -> tuple[np.ndarray | None, np.ndarray | None, list[np.ndarray | None], np.ndarray]:
    """Regions, protection, each style's regions, and the styles' shares of them."""
    mask: Mask | None = None
    if content_mask is not None:
        mask = read_mask("content_mask", content_mask, size)
    protection = None if protect is None else read_protection(protect, size)
    count = len(styles.pictures)
    parts: list[np.ndarray | None] = [None] * count
    if not count:
        return None, protection, parts, np.zeros((0, 1))
    if mask and set(mask) == {"white", "black"} and count == 1 and not style_mask:
        # One style for two regions: what is black stays as it is.
        black, mask = mask["black"], None
        protection = black if protection is None else np.maximum(protection, black)
    style_masks = _style_masks(style_mask, styles.pictures)
    shares, labels = assign_styles(styles.weights, mask, style_masks)
    if style_masks:
        parts = [regions_array(part, labels) for part in style_masks]
    regions = None if mask is None else regions_array(mask, labels)
    if protection is not None:
        free = 1 - protection
        regions = free if regions is None else regions * free
        if regions.max() <= 0.5:
            raise UsageError("nothing is left to stylize: all is protected")
    return regions, protection, parts, shares


def _style_masks(source: Any, styles: Sequence[np.ndarray]) -> list[Mask] | None:
    if source is None:
        return None
    sources = split_batch(source)
    check_style_masks(sources, styles)
    return [
        read_mask("style_mask", mask, style.shape[1:3])
        for mask, style in zip(sources, styles, strict=True)
    ]


def _with_colors(pictures: Pictures, options: Options) -> Pictures:
    """The pictures with what the colour option does to them."""
    content = pictures.content
    if content is None:
        return pictures
    needed = pictures.protect is not None or options.color == "content"
    pictures = dataclasses.replace(pictures, original=content if needed else None)
    if options.color == "free" or not pictures.styles:
        return pictures
    if not (options.needs_content and options.needs_style):
        return pictures
    strength = options.color_strength
    if options.color in ("match", "content"):
        wanted = color_statistics(content)
        styles = (
            dataclasses.replace(
                style, picture=match_colors(style.picture, wanted, strength=strength)
            )
            for style in pictures.styles
        )
        return dataclasses.replace(pictures, styles=tuple(styles))
    recolored = np.stack([in_style_colors(c, pictures, strength) for c in content])
    start = recolored if pictures.start is content else pictures.start
    return dataclasses.replace(pictures, content=recolored, start=start)


def in_style_colors(
    content: np.ndarray, pictures: Pictures, strength: float
) -> np.ndarray:
    """A picture in the colours of each region's styles, region by region.

    Args:
      content: ``[H, W, 3]`` in [0, 1], of any size.
      pictures: For the styles and regions.
      strength: How far its colours change, from 0 to 1.

    Returns:
      Float32 ``[H, W, 3]``.
    """
    recolored, size = np.zeros_like(content), content.shape[:2]
    regions = np.ones((1, *size, 1), "float32")
    if pictures.regions is not None:
        regions = resize_image(pictures.regions, size)
    rest = 1 - regions.sum(-1, keepdims=True)[0]  # what is protected
    for i in range(regions.shape[-1]):
        part = regions[0, ..., i]
        used = [s for s, share in enumerate(pictures.shares[:, i]) if share]
        wanted = mixed_statistics(
            [_style_colors(pictures.styles[s], i) for s in used],
            pictures.shares[used, i],
        )
        source = color_statistics(content, part)
        recolored += part[..., None] * match_colors(
            content, wanted, source=source, strength=strength
        )
    return recolored + rest * content


def _style_colors(style: StylePicture, region: int) -> Any:
    weights = None if style.regions is None else style.regions[..., region]
    return color_statistics(style.picture, weights)


def _without_weightless(pictures: Pictures, options: Options) -> Pictures:
    """The pictures without those that count for nothing."""
    return dataclasses.replace(
        pictures,
        content=pictures.content if options.needs_content else None,
        styles=pictures.styles if options.needs_style else (),
    )


def _first_picture(file: str) -> np.ndarray:
    try:
        return load_image(file)
    except UsageError as error:
        names = "content, style, noise or normal"
        raise UsageError(f"init={error}, or give {names}") from error


def _start(
    content: np.ndarray | None, styles: Sequence[np.ndarray], init: str
) -> np.ndarray | str:
    if init in NOISE_STARTS:
        return init
    pictures = {"content": content, "style": styles[0] if styles else None}
    picture = pictures[init] if init in pictures else _first_picture(init)
    if picture is None:
        raise UsageError(f"init={init}: there is no {init} picture to start from")
    batch = 1 if content is None else len(content)
    return picture if len(picture) == batch else np.repeat(picture, batch, axis=0)
