"""Pieces of the page as HTML."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping

import numpy as np
from PIL import Image


def status(text: str, failed: bool = False, share: float | None = None) -> str:
    """The line that says what happens, with a bar where it is known how far it is.

    What changes several times a second is not read aloud.
    """
    kind = 'class="failed" role="alert"' if failed else 'role="status"'
    bar = ""
    if share is not None:
        kind = ""
        bar = f'<progress max="1" value="{share:.3f}" aria-label="Done"></progress>'
    return f"<p {kind}>{html.escape(text)}</p>{bar}"


def message(text: str) -> str:
    """What is wrong with a picture, for beside it."""
    return f'<p class="failed" role="alert">{html.escape(text)}</p>' if text else ""


def picture(levels: np.ndarray, says: str) -> str:
    """A picture within the page, uint8 ``[H, W, 3]``: it leaves no file."""
    return (
        f'<img class="picture-of-run" alt="{html.escape(says)}" src="{_data(levels)}">'
    )


def empty(styles: Mapping[str, np.ndarray]) -> str:
    """What stands where a picture will be: what to do, and some learned styles."""
    images = "".join(
        f'<img alt="A cat in the style {html.escape(titled(name))}" '
        f'src="{_data(levels)}">'
        for name, levels in styles.items()
    )
    return (
        '<div class="empty"><h2>Choose a photograph and a painting</h2>'
        "Then press Start, and watch the picture form here. "
        f"<div>{images}</div></div>"
    )


def titled(name: str) -> str:
    """A name as people write it."""
    return name.replace("_", " ").capitalize()


def _data(levels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
