"""Plans of runs: options and pictures, read and checked.

Nothing here imports TensorFlow, so that wrong input is refused at once.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfstyle.errors import UsageError
from tfstyle.images import load_image
from tfstyle.images.color import color_statistics, match_colors, mixed_statistics
from tfstyle.images.masks import (
    Mask,
    assign_styles,
    check_style_masks,
    read_mask,
    read_protection,
    regions_array,
)
from tfstyle.networks.photos import picture_files
from tfstyle.options import Options

NOISE_STARTS = ("noise", "normal")
INVERSION: dict[str, Any] = {"init": "noise", "content_weight": 1.0, "tv_weight": 1.0}
TEXTURE: dict[str, Any] = {"init": "noise", "tv_weight": 0.0}


@dataclasses.dataclass(frozen=True)
class Style:
    """A style picture.

    Attributes:
      picture: ``[1, H', W', 3]``.
      regions: How much of each pixel counts for each region, ``[1, H', W', R]``, or
        None if all of it does.
    """

    picture: np.ndarray
    regions: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run whose options and pictures have been read and checked.

    Attributes:
      content: Content pictures ``[N, H, W, 3]``, or None if they have no weight.
      styles: Style pictures; empty if they have no weight.
      shares: The share of each style in each region, ``[styles, R]``.
      start: First pictures ``[N, H'', W'', 3]``, or ``noise`` or ``normal``.
      size: Height and width of the result.
      options: Everything else.
      regions: How much of each pixel belongs to each region, ``[1, H, W, R]`` in
        [0, 1], or None if the whole picture is one.
      protect: How much of each pixel stays as in ``original``, ``[1, H, W, 1]`` in
        [0, 1], or None.
      original: The content pictures as they were given, where they are needed again.
    """

    content: np.ndarray | None
    styles: tuple[Style, ...]
    shares: np.ndarray
    start: np.ndarray | str
    size: tuple[int, int]
    options: Options
    regions: np.ndarray | None = None
    protect: np.ndarray | None = None
    original: np.ndarray | None = None


def plan_stylize(
    content: Any,
    style: Any,
    *,
    content_mask: Any = None,
    style_mask: Any = None,
    protect: Any = None,
    **options: Any,
) -> Plan:
    """Reads and checks what ``stylize`` needs."""
    chosen = make_options(options)
    if content is None and chosen.needs_content:
        raise UsageError("no content picture: give one, or content_weight=0")
    contents = _batch(content, chosen)
    styles, weights = _read_styles(style, chosen)
    guide = contents if contents is not None else styles[0] if styles else None
    if guide is None:
        raise UsageError("no style picture: give one, or style_weight=0")
    size = guide.shape[1:3]
    if contents is None and not all(x is None for x in (content_mask, protect)):
        raise UsageError("a content_mask or protect needs a content picture")
    regions, protection, parts, shares = _regions(
        size, styles, weights, content_mask, style_mask, protect
    )
    plan = Plan(
        content=contents,
        styles=tuple(map(Style, styles, parts)),
        shares=shares,
        start=_start(contents, styles, os.fspath(chosen.init)),
        size=size,
        options=chosen,
        regions=regions,
        protect=protection,
    )
    return _without_weightless(_with_colors(plan))


def plan_inversion(content: Any, layer: str | None, **options: Any) -> Plan:
    """Reads and checks what ``invert_features`` needs."""
    chosen = {**INVERSION, **options, "style_weight": 0.0}
    if layer is not None:
        chosen["content_layers"] = {layer: 1.0}
    return plan_stylize(content, None, **chosen)


def plan_texture(
    style: Any,
    width: int | None,
    height: int | None,
    *,
    style_mask: Any = None,
    **options: Any,
) -> Plan:
    """Reads and checks what ``synthesize_texture`` needs."""
    for name, side in (("width", width), ("height", height)):
        if side is not None and side < 1:
            raise UsageError(f"{name}={side}: give a whole number of at least 1")
    without = {"content_weight": 0.0, "laplacian_weight": 0.0}
    plan = plan_stylize(
        None, style, style_mask=style_mask, **TEXTURE | options | without
    )
    size = (height or plan.size[0], width or plan.size[1])
    return dataclasses.replace(plan, size=size)


def make_options(options: dict[str, Any]) -> Options:
    """Options from keywords.

    Raises:
      UsageError: A name or a value is not one that options can have.
    """
    known = {field.name for field in dataclasses.fields(Options)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(f"there is no option {unknown[0]!r}; see tfstyle.Options")
    return Options(**options)


def _load(
    source: Any, size: int, options: Options, enlarge: bool = False
) -> np.ndarray:
    return load_image(
        source,
        size,
        size_of=options.size_of,  # type: ignore[arg-type]
        allow_upscale=options.allow_upscale or enlarge,
    )


def _batch(sources: Any, options: Options) -> np.ndarray | None:
    """One picture, or several of one size."""
    if sources is None:
        return None
    if not isinstance(sources, list | tuple):
        return _load(sources, options.size, options)
    pictures = [_load(source, options.size, options) for source in sources]
    sizes = sorted({picture.shape[1:3] for picture in pictures})
    if len(sizes) > 1:
        shown = ", ".join(f"{width}×{height}" for height, width in sizes)
        raise UsageError(
            f"the content pictures have several sizes ({shown}); a batch needs one, so "
            "leave those of another size to another run"
        )
    if not pictures:
        raise UsageError("no content picture: the list is empty")
    return np.concatenate(pictures)


def _read_styles(source: Any, options: Options) -> tuple[list[np.ndarray], list[float]]:
    """Style pictures at their scales, and their weights."""
    weighted = weighted_sources(source)
    if not weighted:
        if options.needs_style:
            raise UsageError("no style picture: give one, or style_weight=0")
        return [], []
    weights = [weight for _, weight in weighted]
    if min(weights) < 0 or not sum(weights) > 0:
        raise UsageError(
            f"the weights of the styles are {', '.join(f'{w:g}' for w in weights)}; "
            "give numbers of at least 0, not all 0"
        )
    scales = tuple(options.style_scale)
    if len(scales) not in (1, len(weighted)):
        raise UsageError(
            f"style_scale has {len(scales)} numbers for {len(weighted)} styles; give "
            "one for all, or one for each"
        )
    pictures = [
        _scaled_style(picture, scale, options)
        for (picture, _), scale in zip(
            weighted, scales * (len(weighted) // len(scales)), strict=True
        )
    ]
    return pictures, weights


def _scaled_style(source: Any, scale: float, options: Options) -> np.ndarray:
    size = options.style_size or options.size
    picture = _load(source, size, options)
    if scale == 1:
        return picture
    longest = options.size_of == "longest"
    side = (max if longest else min)(picture.shape[1:3])
    return _load(source, max(round(side * scale), 1), options, enlarge=True)


def weighted_sources(source: Any) -> list[tuple[Any, float]]:
    """Pictures with their weights; a folder's share its weight."""
    if source is None:
        return []
    if isinstance(source, Mapping):
        source = list(source.items())
    elif not isinstance(source, list | tuple):
        source = [source]
    weighted: list[tuple[Any, float]] = []
    for item in source:
        picture, weight = item if isinstance(item, tuple) else (item, 1.0)
        folder = (
            isinstance(picture, str | os.PathLike) and pathlib.Path(picture).is_dir()
        )
        pictures = picture_files(pathlib.Path(picture)) if folder else [picture]
        weighted += [(each, weight / len(pictures)) for each in pictures]
    return weighted


def _regions(
    size: tuple[int, int],
    styles: Sequence[np.ndarray],
    weights: Sequence[float],
    content_mask: Any,
    style_mask: Any,
    protect: Any,
) -> tuple[np.ndarray | None, np.ndarray | None, list[np.ndarray | None], np.ndarray]:
    """Regions, protection, each style's regions, and the styles' shares of them."""
    mask: Mask | None = None
    if content_mask is not None:
        mask = read_mask("content_mask", content_mask, size)
    protection = None if protect is None else read_protection(protect, size)
    parts: list[np.ndarray | None] = [None] * len(styles)
    if not styles:
        return None, protection, parts, np.zeros((0, 1))
    if mask and set(mask) == {"white", "black"} and len(styles) == 1 and not style_mask:
        # One style for two regions: what is black is left as it is.
        black, mask = mask["black"], None
        protection = black if protection is None else np.maximum(protection, black)
    style_masks = _style_masks(style_mask, styles)
    shares, labels = assign_styles(weights, mask, style_masks)
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
    sources = list(source) if isinstance(source, list | tuple) else [source]
    check_style_masks(sources, styles)
    return [
        read_mask("style_mask", mask, style.shape[1:3])
        for mask, style in zip(sources, styles, strict=True)
    ]


def _with_colors(plan: Plan) -> Plan:
    """The plan with what the colour option does to its pictures."""
    options, content = plan.options, plan.content
    if content is None:
        return plan
    needed = plan.protect is not None or options.color == "content"
    plan = dataclasses.replace(plan, original=content if needed else None)
    if options.color == "free" or not plan.styles:
        return plan
    if not (options.needs_content and options.needs_style):
        return plan
    how: dict[str, Any] = {
        "matching": options.color_matching,
        "strength": options.color_strength,
    }
    if options.color == "style":
        recolored = np.stack([_in_style_colors(c, plan, how) for c in content])
        return _replaced_content(plan, recolored)
    wanted = color_statistics(content)
    styles = (
        dataclasses.replace(style, picture=match_colors(style.picture, wanted, **how))
        for style in plan.styles
    )
    return dataclasses.replace(plan, styles=tuple(styles))


def _replaced_content(plan: Plan, content: np.ndarray) -> Plan:
    start = content if plan.start is plan.content else plan.start
    return dataclasses.replace(plan, content=content, start=start)


def _in_style_colors(
    content: np.ndarray, plan: Plan, how: Mapping[str, Any]
) -> np.ndarray:
    """A content picture in the colours of each region's styles, region by region."""
    recolored = np.zeros_like(content)
    whole = np.ones((1, *plan.size, 1), "float32")
    regions = whole if plan.regions is None else plan.regions
    rest = 1 - regions.sum(-1, keepdims=True)[0]  # what is protected
    for i in range(regions.shape[-1]):
        part = regions[0, ..., i]
        used = [s for s, share in enumerate(plan.shares[:, i]) if share]
        wanted = mixed_statistics(
            [_style_colors(plan.styles[s], i) for s in used], plan.shares[used, i]
        )
        source = color_statistics(content, part)
        recolored += part[..., None] * match_colors(
            content, wanted, source=source, **how
        )
    return recolored + rest * content


def _style_colors(style: Style, region: int) -> Any:
    weights = None if style.regions is None else style.regions[..., region]
    return color_statistics(style.picture, weights)


def _without_weightless(plan: Plan) -> Plan:
    """The plan without the pictures that count for nothing."""
    return dataclasses.replace(
        plan,
        content=plan.content if plan.options.needs_content else None,
        styles=plan.styles if plan.options.needs_style else (),
    )


def _start(
    content: np.ndarray | None, styles: Sequence[np.ndarray], init: str
) -> np.ndarray | str:
    if init in NOISE_STARTS:
        return init
    pictures = {"content": content, "style": styles[0] if styles else None}
    picture = pictures[init] if init in pictures else load_image(init)
    if picture is None:
        raise UsageError(f"init={init}: there is no {init} picture to start from")
    batch = 1 if content is None else len(content)
    return picture if len(picture) == batch else np.repeat(picture, batch, axis=0)
