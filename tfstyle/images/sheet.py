"""Contact sheets: pictures with captions, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 8
_WIDEST = 360  # pixels at which a picture is shown; smaller ones keep their size


def contact_sheet(
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    columns: int,
) -> np.ndarray:
    """Draws pictures side by side, each with its caption.

    Args:
      pictures: Pictures of one shape, each ``[1, H, W, 3]``, float in [0, 1].
      captions: One caption for each picture, of one or more lines.
      columns: Number of pictures in a row.

    Returns:
      The sheet, float32 ``[1, H, W, 3]`` in [0, 1].
    """
    width = min(_WIDEST, pictures[0].shape[2])
    height = round(width * pictures[0].shape[1] / pictures[0].shape[2])
    font = ImageFont.load_default(14)
    captions = [_wrapped(caption, width // 8) for caption in captions]
    lines = max(caption.count("\n") for caption in captions) + 1
    cell = (width + _GAP, height + 18 * lines + _GAP)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = (i % columns) * cell[0] + _GAP, i // columns * cell[1] + _GAP
        levels = np.rint(np.clip(picture[0], 0, 1) * 255).astype("uint8")
        thumbnail = Image.fromarray(levels).resize(
            (width, height), Image.Resampling.LANCZOS
        )
        sheet.paste(thumbnail, (x, y))
        draw.multiline_text((x, y + height + 2), caption, "black", font, spacing=2)
    return np.asarray(sheet, "float32")[None] / 255


def _wrapped(text: str, characters: int) -> str:
    return "\n".join(
        part for line in text.split("\n") for part in textwrap.wrap(line, characters)
    )
