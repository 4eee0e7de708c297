"""What the studio runs, without the page: requests become updates and pictures."""

from __future__ import annotations

import dataclasses
import pathlib
import queue
import shlex
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tfstyle.errors import NonFiniteLossError, UsageError, user_error
from tfstyle.images import save_image
from tfstyle.images.sheet import contact_sheet
from tfstyle.options import Options
from tfstyle.studio.requests import Job, Limits, Request, read_request, without_folder
from tfstyle.studio.watch import Update, Watch, shown
from tfstyle.stylizer import Stylizer

if TYPE_CHECKING:
    from tfstyle.optimizers.progress import Callback, Progress
    from tfstyle.stylizer.pictures import Pictures
    from tfstyle.stylizer.result import Result

_MOST_CELLS = 16  # of a sweep


class Engines:
    """The studio's stylizer, which keeps its network and graphs from run to run."""

    def __init__(self) -> None:
        self._last: Stylizer | None = None
        self._lock = threading.Lock()

    def stylizer(self, options: Options) -> Stylizer:
        """A stylizer with these options, on the last one's engine where that fits."""
        with self._lock:
            if self._last is None:
                found = Stylizer(**vars(options))
            else:
                found = self._last.with_options(**vars(options))
            _ = found.engine  # a network that cannot be built takes nobody's place
            self._last = found
            return found


_engines = Engines()


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
      What there is to show; the last update has the result, or says what went wrong.
    """
    return _with_errors(request, lambda: _run(request, folder, stop, limits))


def run_sweep(
    request: Request,
    name: str,
    text: str,
    folder: pathlib.Path,
    stop: threading.Event,
    limits: Limits,
) -> Iterator[Update]:
    """Stylizes with each of several values of the option ``name``.

    ``text`` has the values, with commas between them. Other arguments and updates are
    those of ``run``; the preview is a sheet of the finished pictures.
    """
    texts = [part.strip() for part in text.split(",") if part.strip()]
    return _with_errors(
        request, lambda: _sweep(request, name, texts, folder, stop, limits)
    )


def _with_errors(
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
            text = without_folder(text, path)
        yield Update(text, failed=True)


def _run(
    request: Request, folder: pathlib.Path, stop: threading.Event, limits: Limits
) -> Iterator[Update]:
    job = read_request(request, folder, limits)
    yield Update("Preparing…")
    began, problem, stopped_at = time.monotonic(), "", 0
    if job.command == "apply":
        picture = _applied(job, limits)
    else:
        pictures = _read(job)
        try:
            result = yield from _watched(_engines.stylizer(job.options), pictures, stop)
        except NonFiniteLossError as error:
            if error.result is None or not error.result.step:
                raise
            result, problem = error.result, f"{error}: this is the last good picture"
        picture = result.image
        stopped_at = result.step if result.stopped else 0
    said = f"Done in {time.monotonic() - began:.1f} s"
    if stopped_at:
        said = f"Stopped at step {stopped_at}: this is the picture so far"
    height, width = picture.shape[:2]
    path = folder / f"{job.name}.png"
    origin = job.origin.stopped(stopped_at) if stopped_at else job.origin
    save_image(picture, path, metadata=origin.metadata())
    words = ["tfstyle", job.command, *origin.words(), "--output=out.png"]
    yield Update(
        f"{problem or said} · {width}×{height}",
        preview=shown(picture),
        files=(path, *map(pathlib.Path, job.masks.values())),
        command=shlex.join(words),
        failed=bool(problem),
    )


def _applied(job: Job, limits: Limits) -> np.ndarray:
    from tfstyle.networks.blends import ANY
    from tfstyle.networks.style_net import apply_style

    how: dict[str, Any] = {"style": job.values.get("style_name")}
    if paintings := job.pictures.get("style"):
        how = {"style": paintings, "model": ANY, "strength": job.values["strength"]}
        how["content_mask"] = job.single("content_mask")
    return apply_style(
        job.single("content"),
        **how,
        size=job.values["size"],
        color=job.values["color"],
        protect=job.single("protect"),
        max_memory=limits.memory,
    )


def _read(job: Job) -> Pictures:
    """The pictures of a run, checked before the network is built."""
    stylizer, style = Stylizer(**vars(job.options)), job.pictures.get("style")
    if job.command == "texture":
        sides = job.values["width"], job.values["height"]
        return stylizer.read_texture(style, *sides)
    return stylizer.read(job.single("content"), style, **job.masks)


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
        read_request(
            dataclasses.replace(request, options={**request.options, name: text}),
            folder,
            limits,
        )
        for text in texts
    ]
    yield Update("Preparing…")
    job, sheet = jobs[0], folder / "sheet.png"
    cells = Stylizer(**vars(job.options)).sweep(
        job.single("content"),
        job.pictures["style"],
        {name: [each.values[name] for each in jobs]},
        callbacks=lambda _: [lambda progress: stop.is_set()],
        **job.masks,
    )
    pictures: list[np.ndarray] = []
    files = [sheet]
    for each, text, cell in zip(jobs, texts, cells, strict=False):  # it may stop early
        pictures.append(cell.result.images)
        files.append(folder / f"{each.name}_{name}={text.replace('/', '_')}.png")
        result, origin = cell.result, each.origin
        if result.stopped:
            origin = origin.stopped(result.step)
        save_image(result.image, files[-1], metadata=origin.metadata())
        captions = [f"{name}={text}" for text in texts[: len(pictures)]]
        drawn = contact_sheet(pictures, captions, columns=min(len(texts), 4))
        save_image(drawn, sheet, metadata={"Software": "tfstyle"})
        share = len(pictures) / len(texts)
        said = f"{len(pictures)} of {len(texts)} pictures"
        yield Update(said, shown(drawn[0]), share)
    words = [w for w in job.origin.words() if not w.startswith(f"--{name}=")]
    words = ["tfstyle", "sweep", *words, f"--{name}={','.join(texts)}"]
    yield Update(
        f"{'Stopped' if stop.is_set() else 'Done'}: {len(pictures)} pictures",
        files=tuple(files),
        command=shlex.join([*words, "--output=sweep"]),
    )


def _watched(
    stylizer: Stylizer, pictures: Pictures, stop: threading.Event
) -> Generator[Update, None, Result]:
    """Runs in a thread of its own, so that a page can follow the progress."""
    news: queue.SimpleQueue[Update | Result | BaseException] = queue.SimpleQueue()
    watch = Watch(stylizer.options)

    def report(progress: Progress) -> bool:
        if update := watch.update(progress):
            news.put(update)
        return stop.is_set()

    def work() -> None:
        callbacks: list[Callback] = [report]
        try:
            news.put(stylizer.run(pictures, callbacks))
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
