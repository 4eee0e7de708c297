"""What the studio runs, without the page: requests become updates and pictures."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import queue
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags
from PIL import Image

from tfstyle.cli.flags import (
    define_recipe_flags,
    options_from,
    parse,
    recorded_options,
)
from tfstyle.errors import TfstyleError, UsageError, user_error
from tfstyle.images import load_image, save_image
from tfstyle.options import APPLY_COLORS
from tfstyle.options.provenance import Origin, origin_of
from tfstyle.stylizer.pictures import (
    Plan,
    make_options,
    plan_inversion,
    plan_stylize,
    plan_texture,
)
from tfstyle.stylizer.recipes import make_repeatable, run_plan
from tfstyle.stylizer.sweep import contact_sheet, sweep

if TYPE_CHECKING:
    from tfstyle.optimizers.loop import Callback, Progress
    from tfstyle.stylizer.run import Result

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

_PREVIEW_SIDE = 768
_SECONDS_BETWEEN = 0.4
_MOST_POINTS = 150  # of a curve
_LEAST_SHARE = 1e-4  # of the total; a picture that starts as its content has less
_MOST_CELLS = 16  # of a sweep
_READING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Limits:
    """What may be asked of a studio.

    Attributes:
      size: Longest side of a picture to make, in pixels.
      steps: Evaluations of the loss in a run.
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
      options: Flags and their texts.
    """

    command: str
    content: str | None = None
    styles: tuple[str, ...] = ()
    mask: np.ndarray | None = None
    mask_use: str = "protect"
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Update:
    """What a page shows of a run; what is None stays as it was.

    Attributes:
      status: One line.
      preview: The picture so far, ``[H, W, 3]`` uint8.
      losses: Rows of step, kind of loss (``total``, ``content``, ``style`` and the
        like) and the sum of the terms of that kind.
      files: The result, and the mask that it was made with.
      command: What makes the result again.
      failed: Whether the status tells of a problem.
    """

    status: str
    preview: np.ndarray | None = None
    losses: list[tuple[int, str, float]] | None = None
    files: tuple[pathlib.Path, ...] = ()
    command: str = ""
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class _Job:
    """A request that has been read.

    Attributes:
      command: One of ``METHODS``.
      values: Its flags.
      pictures: Paths by flag.
    """

    command: str
    values: flags.FlagValues
    pictures: dict[str, list[str]]

    @property
    def options(self) -> dict[str, Any]:
        return options_from(self.values)

    @property
    def origin(self) -> Origin:
        """What the result says of how it was made."""
        pictures = {
            flag: [(path, None) for path in paths]
            for flag, paths in self.pictures.items()
        }
        return origin_of(self.command, recorded_options(self.values), pictures)

    @property
    def name(self) -> str:
        """For what comes of it."""
        parts = [*self.pictures.get("input", self.pictures.get("content", []))]
        parts += self.pictures.get("style", [])
        if self.command == "apply" and self.values["style_name"].value:
            parts.append(self.values["style_name"].value)
        parts += [self.command] if self.command in ("texture", "invert") else []
        return "_".join(pathlib.Path(part).stem[:40] for part in parts)

    def single(self, flag: str) -> str | None:
        """The picture of a flag, if there is one."""
        return next(iter(self.pictures.get(flag, [])), None)

    def plan(self) -> Plan:
        """The run that was asked for."""
        styles = self.pictures.get("style")
        if self.command == "texture":
            sides = self.values["width"].value, self.values["height"].value
            return plan_texture(styles, *sides, **self.options)
        if self.command == "invert":
            return plan_inversion(self.single("content"), None, **self.options)
        masks = {flag: self.single(flag) for flag in ("content_mask", "protect")}
        return plan_stylize(self.single("content"), styles, **masks, **self.options)


def run(
    request: Request, folder: pathlib.Path, stop: threading.Event, limits: Limits
) -> Iterator[Update]:
    """Carries a request out.

    Args:
      request: What to do.
      folder: Where the result goes.
      stop: Ends the run with the picture so far.
      limits: What is refused.

    Yields:
      What there is to show; the last one has the result, or says what went wrong.
    """
    return _telling(request, lambda: _run(request, folder, stop, limits))


def run_sweep(
    request: Request,
    name: str,
    text: str,
    folder: pathlib.Path,
    stop: threading.Event,
    limits: Limits,
) -> Iterator[Update]:
    """Stylizes with each of several values of an option.

    Args:
      request: As of ``run``; a style transfer.
      name: The option.
      text: Its values with commas between them.
      folder: As of ``run``.
      stop: As of ``run``; ends the sweep, too.
      limits: As of ``run``.

    Yields:
      As ``run``; the preview is a sheet of what is done.
    """
    texts = [part.strip() for part in text.split(",") if part.strip()]
    return _telling(request, lambda: _sweep(request, name, texts, folder, stop, limits))


def load_upload(path: str, size: int) -> np.ndarray:
    """Reads a visitor's picture; one after the other, as each may take a gigabyte.

    Args:
      path: Of the picture.
      size: Its longest side in pixels, at most.

    Returns:
      float32 [1, H, W, 3], RGB in [0, 1].

    Raises:
      TfstyleError: It is no picture; the message has its name only.
    """
    try:
        with _READING:
            return load_image(path, size)
    except TfstyleError as error:
        raise TfstyleError(_without_folder(str(error), path)) from None


def flag_values(command: str, options: Mapping[str, str]) -> flags.FlagValues:
    """The flags of a method, a preset's first.

    Raises:
      UsageError: One is unknown, or its text is not of its kind.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("preset", None, "", values)
    if command == "apply":
        flags.DEFINE_string("style_name", None, "", values)
        flags.DEFINE_integer("size", None, "", 1, flag_values=values)
        flags.DEFINE_enum("color", "style", list(APPLY_COLORS), "", flag_values=values)
    else:
        define_recipe_flags(values, command)
    if command == "texture":
        for name in ("width", "height"):
            flags.DEFINE_integer(name, None, "", 1, flag_values=values)
    parse(values, [command, *(f"--{name}={text}" for name, text in options.items())])
    return values


def _telling(
    request: Request, start: Callable[[], Iterator[Update]]
) -> Iterator[Update]:
    """Updates, and a last one for what went wrong."""
    try:
        yield from start()
    except Exception as error:
        if not (told := user_error(error)):
            raise
        text = str(told)
        for path in (request.content, *request.styles):
            text = _without_folder(text, path)
        yield Update(text, failed=True)


def _without_folder(text: str, path: str | None) -> str:
    """A message that does not tell where uploads are kept."""
    # Only the folder, for a name that cannot be shown stands there with escapes.
    return text.replace(f"{pathlib.Path(path).parent}{os.sep}", "") if path else text


def _read(request: Request, folder: pathlib.Path, limits: Limits) -> _Job:
    values = flag_values(request.command, request.options)
    _check_limits(values, request.command, limits)
    if request.command != "apply":
        values["max_memory"].value = limits.memory
    return _Job(request.command, values, _pictures(request, folder))


def _check_limits(values: flags.FlagValues, command: str, limits: Limits) -> None:
    for name in ("size", "style_size", "width", "height"):
        if name in values and (values[name].value or 0) > limits.size:
            raise UsageError(
                f"{name}={values[name].value}: this studio makes pictures of at most "
                f"{limits.size} pixels a side"
            )
    if command == "apply":
        values["size"].value = values["size"].value or limits.size
        return
    options = make_options(options_from(values))
    if max(np.atleast_1d(options.steps)) > limits.steps:
        raise UsageError(f"steps: this studio takes at most {limits.steps} a scale")
    style_side = (options.style_size or options.size) * max(options.style_scale)
    if style_side > 2 * limits.size:
        raise UsageError(
            f"style_scale: the style would be {style_side:.0f} pixels long; this "
            f"studio takes at most {2 * limits.size}"
        )


def _pictures(request: Request, folder: pathlib.Path) -> dict[str, list[str]]:
    """The pictures that the method takes; a mask becomes one, too."""
    takes_content = request.command != "texture"
    takes_style = request.command in ("stylize", "texture")
    if takes_content and not request.content:
        raise UsageError("choose a content picture first")
    if takes_style and not request.styles:
        raise UsageError("choose a style picture first")
    pictures: dict[str, list[str]] = {}
    if takes_content and request.content:
        flag = "input" if request.command == "apply" else "content"
        pictures[flag] = [request.content]
    if takes_style:
        pictures["style"] = list(request.styles)
    if request.mask is not None and request.command in ("stylize", "apply"):
        by_regions = request.command == "stylize" and request.mask_use == "second"
        if by_regions and len(request.styles) < 2:
            raise UsageError("painted parts take the second style: choose one first")
        path = folder / f"{pathlib.Path(str(request.content)).stem[:40]}_mask.png"
        # White is protected; where there are regions, white takes the first style.
        white = request.mask != by_regions
        save_image(np.repeat(white[..., None], 3, axis=-1).astype("float32"), path)
        pictures["content_mask" if by_regions else "protect"] = [str(path)]
    return pictures


def _run(
    request: Request, folder: pathlib.Path, stop: threading.Event, limits: Limits
) -> Iterator[Update]:
    job = _read(request, folder, limits)
    yield Update("Preparing…")
    began, problem, stopped_at = time.monotonic(), "", 0
    if job.command == "apply":
        picture = _applied(job)
    else:
        from tfstyle.stylizer.run import BrokenRunError

        plan = job.plan()
        make_repeatable(plan.options)
        try:
            result = yield from _watched(
                lambda tell: run_plan(plan, [tell]), plan, stop
            )
        except BrokenRunError as error:
            if not error.result.history["step"]:
                raise
            result, problem = error.result, f"{error}: this is the last good picture"
        picture = result.image[0]
        stopped_at = int(result.history["step"][-1]) if result.stopped else 0
    said = f"Done in {time.monotonic() - began:.1f} s"
    if stopped_at:
        said = f"Stopped at step {stopped_at}: this is the picture so far"
    height, width = picture.shape[:2]
    path = folder / f"{job.name}.png"
    save_image(picture, path, metadata=job.origin.metadata())
    words = ["tfstyle", job.command, *job.origin.words(), "--output=out.png"]
    yield Update(
        f"{problem or said} · {width}×{height}",
        preview=_shown(picture),
        files=(path, *(pathlib.Path(job.pictures[flag][0]) for flag in _masks(job))),
        command=shlex.join(words),
        failed=bool(problem),
    )


def _masks(job: _Job) -> list[str]:
    return [flag for flag in ("content_mask", "protect") if flag in job.pictures]


def _applied(job: _Job) -> np.ndarray:
    from tfstyle.networks.apply import apply_style

    return apply_style(
        job.single("input"),
        job.values["style_name"].value,
        size=job.values["size"].value,
        color=job.values["color"].value or "style",
        protect=job.single("protect"),
    )[0]


def _sweep(
    request: Request,
    name: str,
    texts: list[str],
    folder: pathlib.Path,
    stop: threading.Event,
    limits: Limits,
) -> Iterator[Update]:
    if request.command != "stylize":
        raise UsageError("a sweep is for style transfer: choose that method")
    if not 1 < len(texts) <= _MOST_CELLS:
        raise UsageError(f"{name}: give 2 to {_MOST_CELLS} values with commas between")
    jobs = [
        _read(
            dataclasses.replace(request, options={**request.options, name: text}),
            folder,
            limits,
        )
        for text in texts
    ]
    yield Update("Preparing…")
    job, sheet = jobs[0], folder / "sheet.png"
    masks = {flag: job.single(flag) for flag in _masks(job)}
    make_repeatable(make_options(job.options))
    cells = sweep(
        job.single("content"),
        job.pictures["style"],
        {name: [each.options[name] for each in jobs]},
        callbacks=lambda _: [lambda progress: stop.is_set()],
        **{**job.options, **masks},
    )
    pictures: list[np.ndarray] = []
    for cell in cells:
        pictures.append(cell.result.image)
        captions = [f"{name}={text}" for text in texts[: len(pictures)]]
        drawn = contact_sheet(pictures, captions, columns=min(len(texts), 4))
        save_image(drawn, sheet, metadata={"Software": "tfstyle"})
        yield Update(f"{len(pictures)} of {len(texts)} pictures", _shown(drawn[0]))
    words = [w for w in job.origin.words() if not w.startswith(f"--{name}=")]
    words = ["tfstyle", "sweep", *words, f"--{name}={','.join(texts)}"]
    yield Update(
        f"{'Stopped' if stop.is_set() else 'Done'}: {len(pictures)} pictures",
        files=(sheet,),
        command=shlex.join([*words, "--output=sweep"]),
    )


def _watched(
    start: Callable[[Callback], Result], plan: Plan, stop: threading.Event
) -> Generator[Update, None, Result]:
    """Runs in a thread of its own, so that a page can be told of progress."""
    news: queue.SimpleQueue[Update | Result | BaseException] = queue.SimpleQueue()
    watch = _Watch(plan)

    def report(progress: Progress) -> bool:
        if update := watch.update(progress):
            news.put(update)
        return stop.is_set()

    def work() -> None:
        try:
            news.put(start(report))
        except BaseException as error:  # the page's thread tells of it
            news.put(error)

    thread = threading.Thread(target=work, name="tfstyle-run", daemon=True)
    thread.start()
    try:
        while isinstance(item := news.get(), Update):
            yield item
    finally:
        stop.set()  # a page that has gone away ends its run
        thread.join()
    if isinstance(item, BaseException):
        raise item
    return item


class _Watch:
    """What the reports of a run come to on a page."""

    def __init__(self, plan: Plan):
        self._plan = plan
        self._rows: list[tuple[int, dict[str, float]]] = []
        self._next = 0.0
        self._scale = -1
        self._pace = (0, 0.0)  # first step of the scale that was timed, and when

    def update(self, progress: Progress) -> Update | None:
        """What to show now, if it is time."""
        self._add(progress)
        if progress.scale != self._scale:
            # The first steps of a scale trace its graph: they say nothing of the rest.
            self._scale, self._pace = progress.scale, (progress.step, progress.seconds)
        if progress.seconds < self._next:
            return None
        self._next = progress.seconds + _SECONDS_BETWEEN
        height, width = progress.size
        parts = [
            f"Step {progress.step} of {progress.steps}",
            f"{width}×{height}",
            f"loss {progress.total:.4g}",
        ]
        if (left := self._seconds_left(progress)) is not None:
            parts.append(
                f"{left:.0f} s left" if left < 90 else f"{left / 60:.0f} min left"
            )
        return Update(" · ".join(parts), _shown(progress.image()[0]), self._losses())

    def _add(self, progress: Progress) -> None:
        for step, row in zip(progress.row_steps, progress.rows.tolist(), strict=True):
            kinds: dict[str, float] = {}
            for column, value in zip(progress.columns, row, strict=True):
                kind = column.split("/")[0]
                kinds[kind] = kinds.get(kind, 0.0) + value
            self._rows.append((int(step), kinds))

    def _losses(self) -> list[tuple[int, str, float]]:
        every = len(self._rows) // _MOST_POINTS + 1
        return [
            (step, kind.replace("_", " "), max(value, _LEAST_SHARE * kinds["total"]))
            for step, kinds in self._rows[::-every][::-1]
            for kind, value in kinds.items()
            if kinds["total"] > 0
        ]

    def _seconds_left(self, progress: Progress) -> float | None:
        step, seconds = self._pace
        if progress.step - step < 3:
            return None
        pace = (progress.seconds - seconds) / (progress.step - step)
        counts = self._plan.options.steps_per_scale(progress.scales)
        left = sum(counts[: progress.scale + 1]) - progress.step
        # A step of the next scale has four times the pixels.
        later = (
            count * 4.0**i for i, count in enumerate(counts[progress.scale + 1 :], 1)
        )
        return pace * (left + sum(later))


def _shown(picture: np.ndarray) -> np.ndarray:
    """A picture as a page shows it: uint8, and no larger than it can."""
    levels = np.rint(np.clip(picture, 0, 1) * 255).astype("uint8")
    every = -(-max(picture.shape[:2]) // _PREVIEW_SIDE)
    return np.asarray(Image.fromarray(levels).reduce(every))
