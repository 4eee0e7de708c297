"""What a page asks for: requests, their limits, and how they are read."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfstyle.errors import TfstyleError, UsageError
from tfstyle.images import load_image, save_image
from tfstyle.options import APPLY_COLORS, RECIPES, Options, check_choice
from tfstyle.options.provenance import Origin, origin_of

METHODS = {
    "stylize": "Style transfer",
    "apply": "Real-time style",
    "texture": "Texture",
    "invert": "Feature inversion",
}
"""The commands that the studio carries out, with what the page calls them."""

MASK_USES = {
    "protect": "stay as they are",
    "second": "take the second style",
}
"""What painted parts do."""

_APPLY = {"style_name": None, "strength": 1.0, "size": None, "color": "style"}
_SIDES = ("width", "height")
_READING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What may be asked of a studio.

    Attributes:
      size: Longest side of a picture to make, in pixels.
      steps: Evaluations of the loss at a scale.
      memory: Gigabytes for a run; 0 for a safe share of what there is.
    """

    size: int = 2048
    steps: int = 5000
    memory: float = 0.0


@dataclasses.dataclass(frozen=True)
class Request:
    """What a page asks for.

    Attributes:
      command: One of ``METHODS``.
      content: Path of the content picture, or None.
      styles: Paths of style pictures.
      mask: The painted parts of the content picture, ``[H, W]`` of bool, or None.
      mask_use: One of ``MASK_USES``.
      options: Texts by the names of options; ``preset`` among them.
    """

    command: str
    content: str | None = None
    styles: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    mask_use: str = "protect"
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Job:
    """A request that has been read and checked.

    Attributes:
      command: One of ``METHODS``.
      values: Values of all its options by name.
      texts: Texts of those that are not at their defaults.
      pictures: Paths by argument.
    """

    command: str
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    pictures: Mapping[str, list[str]]

    @property
    def options(self) -> Options:
        """The options of a run; not for ``apply``."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: self.values[name] for name in names})

    @property
    def origin(self) -> Origin:
        """What the result says about how it was made."""
        pictures = {
            flag: [(path, None) for path in paths]
            for flag, paths in self.pictures.items()
        }
        return origin_of(self.command, self.texts, pictures)

    @property
    def name(self) -> str:
        """A name for the result."""
        parts = self.pictures.get("content", []) + self.pictures.get("style", [])
        if name := self.values.get("style_name"):
            parts.append(name)
        parts += [self.command] if self.command in ("texture", "invert") else []
        return "_".join(pathlib.Path(part).stem[:40] for part in parts)

    @property
    def masks(self) -> dict[str, str]:
        """The masks that the picture is made with."""
        names = ("content_mask", "protect")
        return {name: self.pictures[name][0] for name in names if name in self.pictures}

    def single(self, flag: str) -> str | None:
        """The picture of an argument, if there is one."""
        return next(iter(self.pictures.get(flag, [])), None)


def option_values(command: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The options of a method that a page can set, with their values.

    Args:
      command: One of ``METHODS``.
      texts: Texts by the names of options; ``preset`` among them.

    Returns:
      Values by name, defaults included.

    Raises:
      UsageError: If an option does not exist, or has a value that it cannot have.
    """
    given = {name: text for name, text in texts.items() if name != "preset"}
    if command == "apply":
        return {**_APPLY, **_apply_values(given)}
    sides = {}
    if command == "texture":
        sides = {name: _side(name, given.pop(name, None)) for name in _SIDES}
    recipe = RECIPES[command]
    preset = {"preset": texts["preset"]} if texts.get("preset") else {}
    options = recipe.options(recipe.parse({**preset, **given}))
    return {**{name: getattr(options, name) for name in recipe.names}, **sides}


def read_request(request: Request, folder: pathlib.Path, limits: Limits) -> Job:
    """Reads and checks a request; ``folder`` gets a painted mask.

    Raises:
      UsageError: If an option or a picture is missing, or cannot be used.
    """
    values = option_values(request.command, request.options)
    if request.command == "apply":
        # A painting takes the place of a learned style, which is drawn in full.
        del values["style_name" if request.styles else "strength"]
        texts = {n: str(v) for n, v in values.items() if v not in (None, _APPLY[n])}
        _check_sides(values, limits)
        values["size"] = values["size"] or limits.size
    else:
        recipe = RECIPES[request.command]
        given = {name: values[name] for name in recipe.names}
        options = recipe.options(given)
        texts = recipe.texts(options)
        sides = {name: values[name] for name in _SIDES if values.get(name)}
        texts |= {name: str(side) for name, side in sides.items()}
        _check_sides({**vars(options), **sides}, limits)
        _check_work(options, limits)
        values = {**values, **vars(options), "max_memory": limits.memory}
    return Job(request.command, values, texts, _pictures(request, folder))


def load_upload(path: str, size: int) -> np.ndarray:
    """Reads a visitor's picture; one at a time, as each may take a gigabyte.

    Args:
      path: The picture.
      size: Its longest side in pixels, at most.

    Returns:
      Float32 ``[1, H, W, 3]``, RGB in [0, 1].

    Raises:
      TfstyleError: If it is not a picture; the message has only its name.
    """
    try:
        with _READING:
            return load_image(path, size)
    except TfstyleError as error:
        raise TfstyleError(without_folder(str(error), path)) from None


def without_folder(text: str, path: str | None) -> str:
    """A message that does not say where uploads are kept."""
    # Only the folder: a name that cannot be shown stands there with escapes.
    return text.replace(f"{pathlib.Path(path).parent}{os.sep}", "") if path else text


def _apply_values(texts: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = dict(texts)
    if "size" in texts:
        found["size"] = _side("size", texts["size"])
    if "strength" in texts:
        found["strength"] = _share("strength", texts["strength"])
    check_choice("color", found.get("color", "style"), APPLY_COLORS)
    return found


def _side(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name}={text}: give a whole number of at least 1")
    return int(text)


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise UsageError(f"{name}={text}: give a number from 0 to 1")
    return share


def _check_sides(values: Mapping[str, Any], limits: Limits) -> None:
    for name in ("size", "style_size", *_SIDES):
        if (values.get(name) or 0) > limits.size:
            raise UsageError(
                f"{name}={values[name]}: this studio makes pictures of at most "
                f"{limits.size} pixels a side"
            )


def _check_work(options: Options, limits: Limits) -> None:
    if max(np.atleast_1d(options.steps)) > limits.steps:
        raise UsageError(f"steps: this studio takes at most {limits.steps} a scale")
    style_side = (options.style_size or options.size) * max(options.style_scale)
    if style_side > 2 * limits.size:
        raise UsageError(
            f"style_scale: the style would be {style_side:.0f} pixels long; this "
            f"studio takes at most {2 * limits.size}"
        )


def _pictures(request: Request, folder: pathlib.Path) -> dict[str, list[str]]:
    """The pictures that the method takes; a painted mask becomes one, too."""
    takes_content = request.command != "texture"
    needs_style = request.command in ("stylize", "texture")
    takes_style = needs_style or (request.command == "apply" and bool(request.styles))
    if takes_content and not request.content:
        raise UsageError("content: choose a photograph first")
    if needs_style and not request.styles:
        raise UsageError("style: choose a painting first")
    pictures: dict[str, list[str]] = {}
    if takes_content and request.content:
        pictures["content"] = [request.content]
    if takes_style:
        pictures["style"] = list(request.styles)
    if request.mask is not None and request.command in ("stylize", "apply"):
        by_regions = request.mask_use == "second"
        if by_regions and len(request.styles) < 2:
            raise UsageError("second: choose one for the painted parts first")
        path = folder / f"{pathlib.Path(str(request.content)).stem[:40]}_mask.png"
        # White is protected; where there are regions, white takes the first style.
        white = request.mask != by_regions
        save_image(np.repeat(white[..., None], 3, axis=-1).astype("float32"), path)
        pictures["content_mask" if by_regions else "protect"] = [str(path)]
    return pictures
