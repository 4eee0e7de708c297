"""The page of the studio, in Gradio."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from tfstyle.errors import TfstyleError
from tfstyle.images import resize_image
from tfstyle.images.samples import SAMPLES
from tfstyle.options import APPLY_COLORS, Options, fields_of
from tfstyle.options.presets import preset_names
from tfstyle.options.text import to_text
from tfstyle.studio import jobs, views
from tfstyle.studio.chart import loss_chart
from tfstyle.studio.requests import (
    MASK_USES,
    METHODS,
    Limits,
    Request,
    load_upload,
    option_values,
)
from tfstyle.studio.sessions import Session, Sessions
from tfstyle.studio.watch import Update
from tfstyle.studio.words import COLORS, LABELS, LINES, SWEPT, in_plain_words

_NO_PRESET = "none"
_BRUSH = "#e6007e"
_CANVAS_SIDE = 800  # of the picture that is painted on, in pixels
_MASK = "Paint parts that stay, and a second painting"
_SIDE = "In pixels. Empty: as the painting's."

_RELATIVE = {
    "style_weight": (2.0, 4.0, "Less ↔ more of the painting"),
    "style_scale": (1.0, 2.0, "Finer ↔ coarser"),
    "tv_weight": (2.0, 4.0, "Grain ↔ smooth"),
}
"""Sliders around a method's own value: their ends, the factor of a step of 1, words."""

_TO_STATUS = """() => {
  if (innerWidth <= 800) document.getElementById("outputs").scrollIntoView();
}"""

_AT_ONCE = """(method, ...pictures) => {
  const ready = method === "apply" && pictures.every(Boolean);
  if (ready) setTimeout(() => document.getElementById("start").click(), 100);
}"""
"""A pass takes a second: it begins as soon as there is what it needs."""

Shown = dict[Any, Any]
"""What a part of the page shows from now on, by part."""


class Page:
    """The page: what is on it, and what each part does.

    Attributes:
      sessions: Those of its visitors.
    """

    def __init__(self, limits: Limits, styles: Mapping[str, np.ndarray]):
        """Prepares the page.

        Args:
          limits: What may be asked for.
          styles: The learned styles, each with a picture in it, uint8 ``[H, W, 3]``.
        """
        self._limits, self._styles = limits, styles
        self.sessions = Sessions()
        self._options: dict[str, Any] = {}
        self._messages: dict[str, gr.HTML] = {}
        self._samples: dict[str, gr.Gallery] = {}

    def build(self) -> gr.Blocks:
        """Lays the page out and connects its parts."""
        with gr.Blocks(title="tfstyle studio", analytics_enabled=False) as blocks:
            gr.HTML('<h1 id="title">tfstyle <small>studio</small></h1>', padding=False)
            # On a phone the result stands right below the button, options after it.
            with gr.Row(elem_id="studio"):
                with gr.Column(min_width=280, elem_id="inputs"):
                    self._build_inputs()
                with gr.Column(min_width=280, elem_id="outputs"):
                    self._build_outputs()
                with gr.Column(min_width=280, elem_id="choices"):
                    self._build_choices()
            self._connect()
            blocks.unload(self.sessions.end)
        return blocks

    def _build_inputs(self) -> None:
        choices = [(label, command) for command, label in METHODS.items()]
        self._method = gr.Radio(
            choices, value="stylize", label="Method", elem_id="method"
        )
        self._line = gr.HTML(_line("stylize"), elem_id="method-line", padding=False)
        with gr.Row():
            with gr.Column(min_width=150) as self._content_part:
                self._content = self._picture("content")
            with gr.Column(min_width=150) as self._style_part:
                self._style = self._picture("style")
        self._options["style_name"] = gr.State(next(iter(self._styles)))
        with gr.Column(visible=False) as self._learned_part:
            self._learned = _thumbnails(
                [(levels, views.titled(name)) for name, levels in self._styles.items()],
                label="Or a learned style",
                selected_index=0,
                elem_id="learned",
                elem_classes="thumbnails",
            )
        with gr.Row():
            self._start = gr.Button("Start", variant="primary", elem_id="start")
            self._stop = gr.Button("Stop", interactive=False, elem_id="stop")

    def _picture(self, name: str) -> gr.Image:
        """A place for a picture of a visitor, with a line for what is wrong with it."""
        picture = gr.Image(
            label=LABELS[name],
            type="filepath",
            height=210,
            sources=["upload"],
            placeholder="Drop an image file here",
            buttons=[],
            elem_classes="picture",
        )
        self._messages[name] = gr.HTML(padding=False, elem_classes="note")
        self._samples[name] = _thumbnails(
            [(path, views.titled(path.stem)) for path in _samples(name)],
            elem_classes="thumbnails",
        )
        return picture

    def _build_choices(self) -> None:
        with gr.Accordion("Adjust", open=True):
            self._build_adjustments()
        with gr.Accordion("Advanced", open=False) as self._advanced:
            self._build_advanced()
        with gr.Accordion(_MASK, open=False) as self._mask_part:
            self._second = self._picture("second")
            self._editor = gr.ImageEditor(
                label="Paint on the photograph",
                type="numpy",
                sources=(),
                transforms=(),
                layers=False,
                brush=gr.Brush(colors=[_BRUSH], color_mode="fixed"),
                elem_id="editor",
            )
            uses = [(f"Painted parts {text}", use) for use, text in MASK_USES.items()]
            self._mask_use = gr.Radio(uses, value="protect", label="Mask")
        with gr.Accordion("Compare several values", open=False) as self._sweep_part:
            names = [(LABELS[name], name) for name in SWEPT]
            self._swept = gr.Dropdown(names, value=SWEPT[0], label="Of")
            self._swept_values = gr.Textbox("0.3, 1, 3, 10", label="Values")
            self._start_sweep = gr.Button("Compare", elem_id="start_sweep")

    def _build_adjustments(self) -> None:
        for name, (end, _, words) in _RELATIVE.items():
            self._options[name] = gr.Slider(
                *(-end, end),
                value=0,
                step=end / 4,
                label=LABELS[name],
                info=words,
                buttons=[],
                elem_classes="relative",
                elem_id=f"option_{name}",
            )
        self._options["strength"] = gr.Slider(
            *(0, 1),
            value=1,
            step=0.05,
            label=LABELS["strength"],
            info="Photograph ↔ painting",
            visible=False,
            buttons=[],
            elem_classes="relative",
            elem_id="option_strength",
        )
        self._options["color"] = gr.Dropdown(
            _colors("stylize"),
            value=option_values("stylize", {})["color"],
            label=LABELS["color"],
            elem_id="option_color",
        )
        self._options["size"] = gr.Slider(
            *(64, self._limits.size),
            value=self._shown_value("size", option_values("stylize", {})["size"]),
            step=16,
            label=LABELS["size"],
            info="Longest side, in pixels.",
            elem_id="option_size",
        )
        self._options["content_layers"] = gr.Textbox(
            label=LABELS["content_layers"],
            info="The layer that is shown: relu3_1.",
            visible=False,
        )
        for name in ("width", "height"):
            self._options[name] = gr.Textbox(
                label=LABELS[name], info=_SIDE, visible=False
            )

    def _build_advanced(self) -> None:
        values = option_values("stylize", {})
        fields = {field.name: field for field in fields_of(Options)}
        self._preset = gr.Dropdown(
            _presets("stylize"), value=_NO_PRESET, label="Published experiment"
        )
        makers: dict[str, Callable[..., Any]] = {
            "steps": gr.Textbox,
            "backbone": lambda **k: gr.Dropdown(list(fields["backbone"].choices), **k),
            "seed": lambda **k: gr.Number(precision=0, **k),
        }
        infos = {
            "steps": "At each size, from coarse to fine. More take longer.",
            "backbone": "What looks at the pictures.",
            "seed": "Another number gives another picture, where chance plays a part.",
        }
        for name, make in makers.items():
            self._options[name] = make(
                value=self._shown_value(name, values[name]),
                label=LABELS[name],
                info=infos[name],
                elem_id=f"option_{name}",
            )

    def _build_outputs(self) -> None:
        self._status = gr.HTML(views.status("Ready."), elem_id="status", padding=False)
        with gr.Column(elem_id="wall"):
            self._preview = gr.HTML(
                views.empty(self._styles), elem_id="preview", padding=False
            )
            self._slider = gr.ImageSlider(
                label="Photograph and picture",
                visible=False,
                interactive=False,
                format="png",
                buttons=[],
                elem_id="slider",
            )
            self._try = gr.Button("Try it with samples", elem_id="try")
        with gr.Row():
            self._save = gr.DownloadButton(
                "Save the picture", variant="primary", visible=False, elem_id="save"
            )
            self._compare = gr.Button(_COMPARE, visible=False, elem_id="compare")
        self._files = gr.File(
            label="All files",
            file_count="multiple",
            visible=False,
            interactive=False,
            elem_id="files",
        )
        with gr.Accordion("How the loss fell", open=False, visible=False) as part:
            self._curves_part = part
            self._curves = gr.HTML(elem_id="curves", padding=False)
        with gr.Accordion("Make it again", open=False, visible=False) as part:
            self._command_part = part
            self._command = gr.Textbox(
                label="In a terminal",
                interactive=False,
                buttons=["copy"],
                elem_id="command",
            )
        self._history = _thumbnails(
            label="Results of this session",
            visible=False,
            elem_id="history",
            elem_classes="thumbnails",
        )

    def _connect(self) -> None:
        fast: dict[str, Any] = {"queue": False, "api_visibility": "private"}
        quiet: dict[str, Any] = {"show_progress": "hidden", **fast}
        options = list(self._options.values())
        parts = [self._content_part, self._style_part, self._learned_part]
        parts += [self._mask_part, self._sweep_part, self._advanced]
        chosen = [self._line, *parts, self._preset, *options]
        self._method.change(
            self._choose_method, [self._method, self._style], chosen, **quiet
        )
        self._preset.input(
            self._choose_preset,
            [self._method, self._preset],
            [self._status, *options],
            **quiet,
        )
        name = self._options["style_name"]
        now = {"fn": None, "js": _AT_ONCE, **quiet}
        learned = self._learned.select(
            self._choose_learned, None, [name, self._style], **quiet
        )
        learned.then(inputs=[self._method, self._content], **now)
        self._style.change(
            self._style_in_use,
            [self._method, self._style, name],
            [self._learned, self._options["strength"]],
            **quiet,
        )
        for picture in (self._content, self._style):
            picture.change(inputs=[self._method, self._content, self._style], **now)
        for name, picture in self._pictures.items():
            both = [picture, self._messages[name]]
            picture.upload(self._check, [picture], both, **fast)
            self._samples[name].select(_sample_chooser(name), None, both, **quiet)
        canvas = [self._editor, self._mask_part]
        self._content.change(self._canvas, [self._content], canvas, **fast)
        self._editor.input(
            self._mask_in_use, [self._editor], [self._mask_part], **quiet
        )
        self._connect_runs(fast)
        seen = [self._preview, self._slider, self._compare]
        self._compare.click(self._toggle, None, seen, **quiet)

    def _connect_runs(self, fast: dict[str, Any]) -> None:
        asked = [
            *(self._method, self._content, self._style, self._second),
            *(self._editor, self._mask_use, self._preset, *self._options.values()),
        ]
        shown = [
            *(self._status, self._preview, self._slider, self._try, self._save),
            *(self._compare, self._files, self._curves_part, self._curves),
            *(self._command_part, self._command, self._history, self._advanced),
            *(*self._messages.values(), *self._fields.values()),
        ]
        buttons = [self._start, self._start_sweep, self._stop]
        samples = self._try.click(
            self._choose_samples,
            None,
            [self._method, self._content, self._style],
            **fast,
        )
        swept = [self._swept, self._swept_values, *asked]
        for begins, work, inputs in (
            (self._start.click, self._run, asked),
            (samples.then, self._run, asked),
            (self._start_sweep.click, self._run_sweep, swept),
        ):
            begun = begins(self._begin, None, [*buttons, *shown], js=_TO_STATUS, **fast)
            done = begun.then(
                work,
                inputs,
                shown,
                concurrency_id="run",
                concurrency_limit=1,
                api_visibility="private",
                show_progress="minimal",
                show_progress_on=self._status,
            )
            done.failure(_refused, None, [self._status], **fast)
            done.then(_end, None, buttons, **fast)
        self._stop.click(self._end_run, None, [self._status], **fast)
        self._history.select(self._show_again, None, shown, **fast)

    @property
    def _pictures(self) -> dict[str, gr.Image]:
        return {"content": self._content, "style": self._style, "second": self._second}

    @property
    def _fields(self) -> dict[str, Any]:
        """The parts that a message may stand in."""
        fields = {n: part for n, part in self._options.items() if n != "style_name"}
        return {**fields, "values": self._swept_values}

    def _choose_method(self, command: str, style: str | None) -> Shown:
        """Shows what a method takes, with its defaults."""
        values = option_values(command, {})
        if not style:
            values.pop("strength", None)
        return {
            self._line: _line(command),
            self._content_part: gr.update(visible=command != "texture"),
            self._style_part: gr.update(visible=command != "invert"),
            self._learned_part: gr.update(visible=command == "apply"),
            self._mask_part: gr.update(visible=command in ("stylize", "apply")),
            self._sweep_part: gr.update(visible=command == "stylize"),
            self._advanced: gr.update(visible=command != "apply"),
            self._preset: gr.update(
                choices=_presets(command),
                value=_NO_PRESET,
                visible=command != "apply",
            ),
            **self._option_updates(command, values),
        }

    def _choose_preset(self, command: str, preset: str) -> Shown:
        chosen = {} if preset == _NO_PRESET else {"preset": preset}
        said = "" if preset == _NO_PRESET else f"Options of {preset}"
        values = option_values(command, chosen)
        return {
            self._status: views.status(said),
            **self._option_updates(command, values),
        }

    def _choose_learned(self, event: gr.SelectData) -> tuple[str, None]:
        """The name of a learned style, which takes the place of a painting."""
        return list(self._styles)[int(event.index)], None

    def _style_in_use(self, command: str, style: str | None, name: str) -> list[Any]:
        """A painting takes the place of a learned style, and has a strength."""
        chosen = list(self._styles).index(name)
        classes = ["thumbnails", "unused"] if style else ["thumbnails"]
        return [
            gr.update(selected_index=chosen, elem_classes=classes),
            gr.update(visible=command == "apply" and bool(style)),
        ]

    def _choose_samples(self) -> Shown:
        return {
            self._method: "stylize",
            self._content: str(SAMPLES / "content" / "cat.jpg"),
            self._style: str(SAMPLES / "style" / "nocturne.jpg"),
        }

    def _option_updates(self, command: str, values: Mapping[str, Any]) -> Shown:
        updates: Shown = {}
        for name, part in self._options.items():
            if name == "style_name":
                continue
            if name not in values or (name == "content_layers" and command != "invert"):
                updates[part] = gr.update(visible=False)
            elif values[name] is None:  # nothing that a widget could show
                updates[part] = gr.update(visible=True)
            else:
                value = self._shown_value(name, values[name])
                updates[part] = gr.update(visible=True, value=value)
        if "color" in values:
            choices = {"choices": _colors(command), "value": values["color"]}
            updates[self._options["color"]] = gr.update(visible=True, **choices)
        return updates

    def _shown_value(self, name: str, value: Any) -> Any:
        """The value of an option, within what the page may ask for."""
        if name in _RELATIVE:
            return 0
        if name == "size":
            return min(value, self._limits.size)
        return value if isinstance(value, str | int | float) else to_text(value)

    def _check(self, path: str | None) -> tuple[Any, str]:
        """Sends back a file that is no picture."""
        try:
            if path:
                load_upload(path, 16)
        except TfstyleError as error:
            return None, views.message(str(error))
        return gr.skip(), ""

    def _canvas(self, path: str | None) -> tuple[Any, Any]:
        """The photograph to paint on, and the name of a part without a mask."""
        try:
            picture = load_upload(path, _CANVAS_SIDE)[0] if path else None
        except TfstyleError:
            picture = None  # what is wrong has been told
        unpainted = gr.update(label=_MASK)
        if picture is None:
            return None, unpainted
        levels = np.rint(picture * 255).astype("uint8")
        canvas = {"background": levels, "layers": [], "composite": levels}
        return canvas, unpainted

    def _mask_in_use(self, painted: dict[str, Any] | None) -> Any:
        """Says that there is a mask, where it is folded away, too."""
        in_use = _painted(painted) is not None
        return gr.update(label=f"{_MASK} · mask in use" if in_use else _MASK)

    def _begin(self, request: gr.Request) -> Shown:
        """Before the run waits for its turn."""
        session = self.sessions.of(request)
        session.stop, session.shown = threading.Event(), None
        hidden = [self._slider, self._try, self._save, self._compare, self._files]
        hidden += [self._curves_part, self._command_part]
        return {
            **dict.fromkeys(hidden, gr.update(visible=False)),
            **{self._start: gr.update(interactive=False)},
            **{self._start_sweep: gr.update(interactive=False)},
            self._stop: gr.update(interactive=True),
            self._status: views.status("Waiting for its turn…"),
            self._preview: gr.update(visible=True),
            **dict.fromkeys(self._messages.values(), ""),
            **{part: _without_message(part) for part in self._fields.values()},
        }

    def _end_run(self, request: gr.Request) -> str:
        self.sessions.of(request).stop.set()
        return views.status("Stopping…")

    def _run(self, request: gr.Request, *given: Any) -> Iterator[Shown]:
        session = self.sessions.of(request)
        asked = self._request(given)
        folder = pathlib.Path(tempfile.mkdtemp(dir=session.folder.name))
        updates = jobs.run(asked, folder, session.stop, self._limits)
        yield from self._shown(asked, session, updates)

    def _run_sweep(
        self, request: gr.Request, name: str, values: str, *given: Any
    ) -> Iterator[Shown]:
        session = self.sessions.of(request)
        asked = self._request(given)
        folder = pathlib.Path(tempfile.mkdtemp(dir=session.folder.name))
        updates = jobs.run_sweep(
            asked, name, values, folder, session.stop, self._limits
        )
        sheet = dataclasses.replace(asked, content=None)  # nothing to compare it with
        yield from self._shown(sheet, session, updates, {name: "values"})

    def _request(self, given: Sequence[Any]) -> Request:
        command, content, style, second, painted, mask_use, preset, *rest = given
        options = {} if preset == _NO_PRESET else {"preset": preset}
        usual = option_values(command, options)
        for name, value in zip(self._options, rest, strict=True):
            if name not in usual or value in (None, ""):
                continue
            if name not in _RELATIVE:
                options[name] = str(value)
            elif value:
                options[name] = _times(usual[name], _RELATIVE[name][1] ** value)
        if command != "invert":
            options.pop("content_layers", None)
        seconds = [second] if style and command in ("stylize", "apply") else []
        return Request(
            command=command,
            content=content,
            styles=tuple(path for path in (style, *seconds) if path),
            mask=_painted(painted),
            mask_use=mask_use,
            options=options,
        )

    def _shown(
        self,
        asked: Request,
        session: Session,
        updates: Iterator[Update],
        places: Mapping[str, str] | None = None,
    ) -> Iterator[Shown]:
        """What the page shows of each update.

        ``places`` are the fields of messages that do not stand beside their option.
        """
        if session.stop.is_set():
            yield {self._status: views.status("Stopped before it began")}
            return
        last = None
        try:
            for update in updates:
                last = update.preview if update.preview is not None else last
                if update.files and last is not None:
                    content = None if asked.command == "texture" else asked.content
                    session.shown = session.keep(last, content, update)
                    yield {
                        **self._result(session),
                        self._history: _gallery(session),
                    }
                elif update.failed:
                    yield self._problem(update.status, places or {})
                else:
                    yield self._progress(update)
        except Exception as error:
            traceback.print_exc()
            line = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            said = f"Something went wrong ({line}); the studio's terminal tells more"
            yield {self._status: views.status(said, failed=True)}

    def _progress(self, update: Update) -> Shown:
        share = update.share if update.preview is not None else None
        shown: Shown = {self._status: views.status(update.status, share=share)}
        if update.preview is not None:
            shown[self._preview] = views.picture(update.preview, "The picture so far")
        if update.losses:
            shown[self._curves_part] = gr.update(visible=True)
            shown[self._curves] = loss_chart(update.losses, update.scales)
        return shown

    def _problem(self, text: str, places: Mapping[str, str]) -> Shown:
        """A message, beside the field that it is about."""
        name, said = in_plain_words(text)
        shown: Shown = {self._status: views.status(said, failed=True)}
        name = places.get(name, name)
        if name in self._messages:
            shown[self._messages[name]] = views.message(said)
        elif name in self._fields:
            part = self._fields[name]
            classes = [*part.elem_classes, "wrong"]
            shown[part] = gr.update(info=said, elem_classes=classes)
            if name in ("steps", "backbone", "seed"):
                shown[self._advanced] = gr.update(open=True)
        return shown

    def _result(self, session: Session) -> Shown:
        """A finished result, whole."""
        entry = session.shown
        assert entry
        session.comparing = False
        update, path = entry.update, str(entry.update.files[0])
        preview = np.asarray(Image.open(entry.preview))
        several = len(update.files) > 1
        return {
            self._status: views.status(update.status, update.failed),
            self._preview: gr.update(
                value=views.picture(preview, "The picture"), visible=True
            ),
            self._slider: gr.update(visible=False),
            self._try: gr.update(visible=False),
            self._save: gr.update(value=path, visible=True),
            self._compare: gr.update(value=_COMPARE, visible=bool(entry.content)),
            self._files: gr.update(
                value=[str(file) for file in update.files] if several else None,
                visible=several,
            ),
            self._command_part: gr.update(visible=True),
            self._command: update.command,
        }

    def _toggle(self, request: gr.Request) -> Shown:
        """Compares the result with the photograph, or shows it whole again."""
        session = self.sessions.of(request)
        entry = session.shown
        if not entry or not entry.content:
            return {self._compare: gr.update(visible=False)}
        session.comparing = not session.comparing
        slider = gr.update(visible=False)
        if session.comparing:
            preview = np.asarray(Image.open(entry.preview))
            shape = preview.shape[:2]
            # Scaled down where it is read: whole, it may have a hundred times the
            # memory.
            before = load_upload(entry.content, max(shape))
            before = np.rint(resize_image(before, shape)[0] * 255).astype("uint8")
            slider = gr.update(value=(before, preview), visible=True)
        return {
            self._slider: slider,
            self._preview: gr.update(visible=not session.comparing),
            self._compare: _WHOLE if session.comparing else _COMPARE,
        }

    def _show_again(self, event: gr.SelectData, request: gr.Request) -> Shown:
        """Shows a result of the history."""
        session = self.sessions.of(request)
        session.shown = session.history[len(session.history) - 1 - int(event.index)]
        return {**self._result(session), self._curves_part: gr.update(visible=False)}


_COMPARE, _WHOLE = "Compare with the photograph", "Show the whole picture"


def _as_chosen(self: gr.Image, payload: Any) -> str | None:
    """The path of a picture, whose file reaches tfstyle as it was, to the byte."""
    return payload and payload.path


# Gradio would decode and convert it; `load_image` is what decides about files. Set on
# the class, for a session makes a part of its own where one is updated or skipped.
gr.Image.preprocess = _as_chosen  # type: ignore[method-assign]


def _thumbnails(pictures: Sequence[Any] = (), **options: Any) -> gr.Gallery:
    """Pictures of which one is chosen by a click."""
    return gr.Gallery(
        list(pictures),
        columns=5,
        fit_columns=False,
        height="auto",
        object_fit="cover",
        allow_preview=False,
        interactive=False,
        buttons=[],
        **{"show_label": "label" in options, **options},
    )


def _samples(name: str) -> list[pathlib.Path]:
    """The sample pictures for a place on the page."""
    folder = SAMPLES / ("content" if name == "content" else "style")
    return sorted(folder.glob("*.jpg"))


def _sample_chooser(name: str) -> Callable[[gr.SelectData], tuple[str, str]]:
    """Gives the sample that was chosen, and no message."""

    def choose(event: gr.SelectData) -> tuple[str, str]:
        return str(_samples(name)[int(event.index)]), ""

    return choose


def _line(command: str) -> str:
    return f"<p>{LINES[command]}</p>"


def _colors(command: str) -> list[tuple[str, str]]:
    names = APPLY_COLORS if command == "apply" else tuple(COLORS)
    return [(COLORS.get(name, name), name) for name in names]


def _presets(command: str) -> list[str]:
    kinds = {"texture": "texture", "feature-inversion": "invert"}
    names = [
        name
        for name in preset_names()
        if next((c for kind, c in kinds.items() if kind in name), "stylize") == command
    ]
    return [_NO_PRESET, *names]


def _times(value: Any, factor: float) -> str:
    """The text of an option's value, or of each of its values, times a factor."""
    return ",".join(f"{each * factor:.4g}" for each in np.atleast_1d(value))


def _painted(value: dict[str, Any] | None) -> np.ndarray | None:
    """Where the brush has been, or None."""
    layers = [layer for layer in (value or {}).get("layers", []) if layer is not None]
    if not layers:
        return None
    mask = np.any([layer[..., 3] > 127 for layer in layers], axis=0)
    return mask if mask.any() else None


def _without_message(part: Any) -> Any:
    return gr.update(info=part.info, elem_classes=part.elem_classes)


def _gallery(session: Session) -> Any:
    """The last result first."""
    previews = [str(entry.preview) for entry in reversed(session.history)]
    return gr.update(value=previews, visible=True)


def _refused() -> str:
    """What Gradio would not even pass on, as a number out of range."""
    return views.status("Not started: an option has a value that it cannot have", True)


def _end() -> list[Any]:
    return [gr.update(interactive=on) for on in (True, True, False)]
