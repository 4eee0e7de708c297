"""The page of the studio, in Gradio."""

from __future__ import annotations

import base64
import collections
import dataclasses
import html
import io
import math
import pathlib
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
from PIL import Image

from tfstyle.errors import TfstyleError
from tfstyle.images import resize_image
from tfstyle.images.samples import SAMPLES
from tfstyle.options import Options, fields_of
from tfstyle.options.presets import preset_names
from tfstyle.options.text import to_text
from tfstyle.studio import jobs
from tfstyle.studio.requests import (
    MASK_USES,
    METHODS,
    Limits,
    Request,
    load_upload,
    option_values,
)
from tfstyle.studio.sessions import Entry, Session, Sessions
from tfstyle.studio.watch import Update

CSS = """
.gradio-container { max-width: 1280px !important; }
#studio { display: grid; grid-template-columns: 1fr 1fr; align-items: start; }
#outputs { grid-column: 2; grid-row: 1 / span 2; }
@media (max-width: 800px) {
  #studio { grid-template-columns: minmax(0, 1fr); }
  #outputs { grid-column: 1; grid-row: auto; }
}
#status p { font-size: 1.05rem; margin: 0; min-height: 1.6em; }
#status p.failed { color: #b91c1c; font-weight: 600; }
.dark #status p.failed { color: #fca5a5; }
#preview img { width: 100%; max-height: 70vh; object-fit: contain; }
#preview .empty { padding: 4rem 1rem; text-align: center; opacity: 0.7; }
"""

SWEPT = ("style_weight", "content_weight", "tv_weight", "style_scale", "size", "seed")
"""The options that the page offers to go through."""

_LABELS = {
    "size": "Size",
    "steps": "Steps",
    "backbone": "Feature network",
    "content_weight": "Content",
    "style_weight": "Style",
    "tv_weight": "Smoothness",
    "style_scale": "Size of strokes",
    "color": "Colours",
    "seed": "Seed",
}
_NO_PRESET = "none"
_BRUSH = "#e6007e"
_CANVAS_SIDE = 800  # of the picture that is painted on, in pixels
_PAIRS = (
    ("cat", "nocturne"),
    ("coffee", "waves"),
    ("rocket", "discs"),
    ("astronaut", "stained_glass"),
)
_AXIS = "log10 of the loss"


class Page:
    """The page: what is on it, and what each part does.

    Attributes:
      sessions: Those of its visitors.
    """

    def __init__(self, limits: Limits, style_names: Sequence[str]):
        """Prepares the page."""
        self._limits, self._style_names = limits, style_names
        self.sessions = Sessions()
        self._options: dict[str, Any] = {}

    def build(self) -> gr.Blocks:
        """Lays the page out and connects its parts."""
        with gr.Blocks(title="tfstyle studio", analytics_enabled=False) as blocks:
            gr.Markdown("# tfstyle studio")
            # On a phone the result stands right below the button, options after it.
            with gr.Row(elem_id="studio"):
                with gr.Column(min_width=280):
                    self._build_inputs()
                with gr.Column(min_width=280, elem_id="outputs"):
                    self._build_outputs()
                with gr.Column(min_width=280):
                    self._build_choices()
            self._connect()
            blocks.unload(self.sessions.end)
        return blocks

    def _build_inputs(self) -> None:
        choices = [(label, command) for command, label in METHODS.items()]
        self._method = gr.Radio(choices, value="stylize", label="Method")
        with gr.Row():
            # Samples would show a picture again that was hidden; columns stay hidden.
            with gr.Column(min_width=140) as self._content_part:
                self._content = _picture("Content picture")
            with gr.Column(min_width=140) as self._style_part:
                self._style = _picture("Style picture")
        self._options["style_name"] = gr.Dropdown(
            list(self._style_names),
            value=self._style_names[0],
            label="Trained style",
            visible=False,
        )
        with gr.Row():
            self._start = gr.Button("Start", variant="primary", elem_id="start")
            self._stop = gr.Button("Stop", interactive=False, elem_id="stop")
        gr.Examples(
            [
                [
                    str(SAMPLES / "content" / f"{content}.jpg"),
                    str(SAMPLES / "style" / f"{style}.jpg"),
                ]
                for content, style in _PAIRS
            ],
            [self._content, self._style],
            label="Samples",
        )

    def _build_choices(self) -> None:
        with gr.Accordion("Options", open=False):
            self._build_options()
        with gr.Accordion("Mask and second style", open=False) as self._mask_part:
            self._second = _picture("Second style picture")
            self._editor = gr.ImageEditor(
                label="Paint on the content picture",
                type="numpy",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(colors=[_BRUSH], color_mode="fixed"),
                elem_id="editor",
            )
            uses = [(f"Painted parts {text}", use) for use, text in MASK_USES.items()]
            self._mask_use = gr.Radio(uses, value="protect", label="Mask")
        with gr.Accordion("Sweep: one option, several values", open=False) as part:
            self._sweep_part = part
            self._swept = gr.Dropdown(list(SWEPT), value=SWEPT[0], label="Option")
            self._swept_values = gr.Textbox("0.3, 1, 3, 10", label="Values")
            self._start_sweep = gr.Button("Start the sweep", elem_id="start_sweep")

    def _build_options(self) -> None:
        values = option_values("stylize", {})
        fields = {field.name: field for field in fields_of(Options)}
        self._preset = gr.Dropdown(
            _presets("stylize"), value=_NO_PRESET, label="Published experiment"
        )
        makers: dict[str, Callable[..., Any]] = {
            "size": lambda **k: gr.Slider(64, self._limits.size, step=16, **k),
            "steps": gr.Textbox,
            "backbone": lambda **k: gr.Dropdown(list(fields["backbone"].choices), **k),
            "content_weight": gr.Number,
            "style_weight": gr.Number,
            "tv_weight": gr.Number,
            "style_scale": gr.Textbox,
            "color": lambda **k: gr.Dropdown(list(fields["color"].choices), **k),
            "seed": lambda **k: gr.Number(precision=0, **k),
        }
        for name, make in makers.items():
            self._options[name] = make(
                value=self._widget_value(name, values[name]),
                label=_LABELS[name],
                info=fields[name].help,
                elem_id=f"option_{name}",
            )
        self._options["content_layers"] = gr.Textbox(
            label="Layer", info="The layer that is inverted: relu3_1.", visible=False
        )
        for name in ("width", "height"):
            self._options[name] = gr.Textbox(
                label=f"{name.capitalize()} in pixels",
                info="Empty: as the style picture's.",
                visible=False,
            )

    def _build_outputs(self) -> None:
        self._status = gr.HTML(_status("Choose pictures and start."), elem_id="status")
        self._preview = gr.HTML(_EMPTY, elem_id="preview")
        self._slider = gr.ImageSlider(
            label="Before and after", visible=False, interactive=False, format="png"
        )
        self._files = gr.File(
            label="Download",
            file_count="multiple",
            visible=False,
            interactive=False,
            elem_id="files",
        )
        self._command = gr.Textbox(
            label="The same from the command line",
            visible=False,
            interactive=False,
            buttons=["copy"],
            elem_id="command",
        )
        self._curves = gr.LinePlot(
            x="step",
            y=_AXIS,
            color="loss",
            label="Loss",
            visible=False,
            elem_id="curves",
        )
        with gr.Accordion("Results of this session"):
            self._history = gr.Gallery(
                show_label=False,
                columns=4,
                fit_columns=False,
                height=200,
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                elem_id="history",
            )

    def _connect(self) -> None:
        fast: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        options = list(self._options.values())
        self._method.change(
            self._choose_method,
            [self._method],
            [
                *(self._content_part, self._style_part, self._preset),
                *(self._mask_part, self._sweep_part),
                *options,
            ],
            show_progress="hidden",
            **fast,
        )
        self._preset.input(
            self._choose_preset,
            [self._method, self._preset],
            [self._status, *options],
            show_progress="hidden",
            **fast,
        )
        for picture in (self._content, self._style, self._second):
            picture.upload(self._check, [picture], [picture, self._status], **fast)
        self._content.change(self._canvas, [self._content], [self._editor], **fast)
        asked = [
            *(self._method, self._content, self._style, self._second),
            *(self._editor, self._mask_use, self._preset, *options),
        ]
        shown = [
            *(self._status, self._preview, self._slider, self._files),
            *(self._command, self._curves, self._history),
        ]
        buttons = [self._start, self._start_sweep, self._stop]
        for button, work, inputs in (
            (self._start, self._run, asked),
            (
                self._start_sweep,
                self._run_sweep,
                [self._swept, self._swept_values, *asked],
            ),
        ):
            begun = button.click(self._begin, None, [*buttons, *shown], **fast)
            done = begun.then(
                work,
                inputs,
                shown,
                concurrency_id="run",
                concurrency_limit=1,
                api_visibility="private",
                show_progress_on=self._preview,
            )
            done.failure(_refused, None, [self._status], **fast)
            done.then(_end, None, buttons, **fast)
        self._stop.click(self._end_run, None, [self._status], **fast)
        self._history.select(self._show_again, None, shown[:-1], **fast)

    def _choose_method(self, command: str) -> list[Any]:
        """Shows what a method takes, with its defaults."""
        values = option_values(command, {})
        takes_style = command in ("stylize", "texture")
        return [
            gr.update(visible=command != "texture"),
            gr.update(visible=takes_style),
            gr.update(
                choices=_presets(command),
                value=_NO_PRESET,
                visible=command != "apply",
            ),
            gr.update(visible=command in ("stylize", "apply")),
            gr.update(visible=command == "stylize"),
            *self._option_updates(command, values),
        ]

    def _choose_preset(self, command: str, preset: str) -> list[Any]:
        chosen = {} if preset == _NO_PRESET else {"preset": preset}
        said = "" if preset == _NO_PRESET else f"Options of {preset}"
        values = option_values(command, chosen)
        return [_status(said), *self._option_updates(command, values)]

    def _option_updates(self, command: str, values: Any) -> list[Any]:
        updates = []
        for name in self._options:
            if name not in values or (name == "content_layers" and command != "invert"):
                updates.append(gr.update(visible=False))
            elif values[name] is None:  # nothing that a widget could show
                updates.append(gr.update(visible=True))
            else:
                value = self._widget_value(name, values[name])
                updates.append(gr.update(visible=True, value=value))
        return updates

    def _widget_value(self, name: str, value: Any) -> Any:
        """The value of an option, within what the page may ask for."""
        if name == "size":
            return min(value, self._limits.size)
        return value if isinstance(value, str | int | float) else to_text(value)

    def _check(self, path: str | None) -> tuple[Any, str]:
        """Sends back a file that is no picture."""
        try:
            if path:
                load_upload(path, 16)
        except TfstyleError as error:
            return None, _status(str(error), failed=True)
        return gr.skip(), _status("")

    def _canvas(self, path: str | None) -> Any:
        """The content picture to paint on."""
        try:
            picture = load_upload(path, _CANVAS_SIDE)[0] if path else None
        except TfstyleError:
            picture = None  # what is wrong has been told
        if picture is None:
            return None
        levels = np.rint(picture * 255).astype("uint8")
        return {"background": levels, "layers": [], "composite": levels}

    def _begin(self, request: gr.Request) -> list[Any]:
        """Before the run waits for its turn."""
        self.sessions.of(request).stop = threading.Event()
        buttons = [gr.update(interactive=on) for on in (False, False, True)]
        hidden = [gr.update(visible=False)] * 4
        waiting = _status("Waiting for its turn…")
        return [*buttons, waiting, gr.update(visible=True), *hidden, gr.skip()]

    def _end_run(self, request: gr.Request) -> str:
        self.sessions.of(request).stop.set()
        return _status("Stopping…")

    def _run(self, request: gr.Request, *given: Any) -> Iterator[list[Any]]:
        session = self.sessions.of(request)
        asked = self._request(given)
        folder = pathlib.Path(tempfile.mkdtemp(dir=session.folder.name))
        updates = jobs.run(asked, folder, session.stop, self._limits)
        yield from self._shown(asked, session, updates)

    def _run_sweep(
        self, request: gr.Request, name: str, values: str, *given: Any
    ) -> Iterator[list[Any]]:
        session = self.sessions.of(request)
        asked = dataclasses.replace(self._request(given), content=given[1])
        folder = pathlib.Path(tempfile.mkdtemp(dir=session.folder.name))
        updates = jobs.run_sweep(
            asked, name, values, folder, session.stop, self._limits
        )
        sheet = dataclasses.replace(asked, content=None)  # nothing to compare it with
        yield from self._shown(sheet, session, updates)

    def _request(self, given: Sequence[Any]) -> Request:
        command, content, style, second, painted, mask_use, preset, *rest = given
        known = option_values(command, {})
        options = {} if preset == _NO_PRESET else {"preset": preset}
        for name, value in zip(self._options, rest, strict=True):
            if name in known and value not in (None, ""):
                options[name] = str(value)
        if command != "invert":
            options.pop("content_layers", None)
        seconds = [second] if command == "stylize" else []
        return Request(
            command=command,
            content=content,
            styles=tuple(path for path in (style, *seconds) if path),
            mask=_painted(painted),
            mask_use=mask_use,
            options=options,
        )

    def _shown(
        self, asked: Request, session: Session, updates: Iterator[Update]
    ) -> Iterator[list[Any]]:
        """What the page shows of each update."""
        if session.stop.is_set():
            yield [_status("Stopped before it began"), *[gr.skip()] * 6]
            return
        last = None
        try:
            for update in updates:
                last = update.preview if update.preview is not None else last
                if update.files and last is not None:
                    entry = session.keep(last, asked.content, update)
                    yield [*_entry(entry), _gallery(session.history)]
                else:
                    yield _progress(update)
        except Exception as error:
            traceback.print_exc()
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            said = f"Something went wrong ({line}); the studio's terminal tells more"
            yield [_status(said, failed=True), *[gr.skip()] * 6]

    def _show_again(self, event: gr.SelectData, request: gr.Request) -> list[Any]:
        """Shows a result of the history."""
        history = self.sessions.of(request).history
        return [*_entry(history[len(history) - 1 - int(event.index)])]


_EMPTY = '<div class="empty">The picture appears here while it forms.</div>'


def _picture(label: str) -> gr.Image:
    return gr.Image(label=label, type="filepath", height=220, sources=["upload"])


def _as_chosen(self: gr.Image, payload: Any) -> str | None:
    """The path of a picture, whose file reaches tfstyle as it was, to the byte."""
    return payload and payload.path


# Gradio would decode and convert it; `load_image` is what decides about files. Set on
# the class, for a session makes a part of its own where one is updated or skipped.
gr.Image.preprocess = _as_chosen  # type: ignore[method-assign]


def _presets(command: str) -> list[str]:
    kinds = {"texture": "texture", "feature-inversion": "invert"}
    names = [
        name
        for name in preset_names()
        if next((c for kind, c in kinds.items() if kind in name), "stylize") == command
    ]
    return [_NO_PRESET, *names]


def _painted(value: dict[str, Any] | None) -> np.ndarray | None:
    """Where the brush has been, or None."""
    layers = [layer for layer in (value or {}).get("layers", []) if layer is not None]
    if not layers:
        return None
    mask = np.any([layer[..., 3] > 127 for layer in layers], axis=0)
    return mask if mask.any() else None


def _status(text: str, failed: bool = False) -> str:
    kind = 'class="failed" role="alert"' if failed else 'role="status"'
    return f"<p {kind}>{html.escape(text)}</p>"


def _image(picture: np.ndarray) -> str:
    """A picture within the page: it leaves no file on the server."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=88)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="The picture so far" src="data:image/jpeg;base64,{data}">'


def _progress(update: Update) -> list[Any]:
    preview, curves = gr.skip(), gr.skip()
    if update.preview is not None:
        preview = gr.update(value=_image(update.preview), visible=True)
    if update.losses:
        curves = gr.update(value=_table(update.losses), visible=True)
    status = _status(update.status, update.failed)
    return [status, preview, gr.skip(), gr.skip(), gr.skip(), curves, gr.skip()]


def _table(losses: list[tuple[int, str, float]]) -> pd.DataFrame:
    rows = [(step, kind, math.log10(value)) for step, kind, value in losses]
    return pd.DataFrame(rows, columns=["step", "loss", _AXIS])


def _entry(entry: Entry) -> list[Any]:
    """Status, preview, slider, files, command and curves of a result."""
    update = entry.update
    slider = gr.update(visible=False)
    preview = np.asarray(Image.open(entry.preview))
    if entry.content:
        shape = preview.shape[:2]
        # Scaled down where it is read: whole, it may have a hundred times the memory.
        before = load_upload(entry.content, max(shape))
        before = np.rint(resize_image(before, shape)[0] * 255)
        slider = gr.update(value=(before.astype("uint8"), preview), visible=True)
    files = [str(file) for file in update.files]
    return [
        _status(update.status, update.failed),
        gr.update(value=_image(preview), visible=not entry.content),
        slider,
        gr.update(value=files, visible=True),
        gr.update(value=update.command, visible=True),
        gr.skip(),
    ]


def _gallery(history: collections.deque[Entry]) -> list[tuple[str, str]]:
    """The last result first."""
    return [(str(e.preview), e.update.files[0].stem) for e in reversed(history)]


def _refused() -> str:
    """What Gradio would not even pass on, as a number out of range."""
    return _status("Not started: an option has a value that it cannot have", True)


def _end() -> list[Any]:
    return [gr.update(interactive=on) for on in (True, True, False)]
