"""What the page calls things, and its messages in plain words."""

from __future__ import annotations

import re

LINES = {
    "stylize": "Paints your photograph anew, step by step, in the style of a painting.",
    "apply": "Any painting, or a learned style, in one pass: as soon as you choose it.",
    "texture": "A new picture of any size, of a painting's strokes and patterns.",
    "invert": "What a network still knows of a photograph at one of its layers.",
}
"""A line about each method."""

LABELS = {
    "content": "Photograph",
    "style": "Painting",
    "second": "Second painting",
    "style_weight": "Style",
    "strength": "Strength",
    "content_weight": "Photograph's weight",
    "style_scale": "Strokes",
    "tv_weight": "Smoothness",
    "color": "Colours",
    "size": "Size",
    "steps": "Steps",
    "backbone": "Network",
    "seed": "Seed",
    "content_layers": "Layer",
    "width": "Width",
    "height": "Height",
    "protect": "Mask",
    "content_mask": "Mask",
}
"""What options are called."""

COLORS = {
    "style": "the painting's",
    "content": "the photograph's",
    "match": "the photograph's, painted with from the start",
    "free": "as they come",
}
"""What the page calls where colours come from."""

SWEPT = ("style_weight", "content_weight", "tv_weight", "style_scale", "size", "seed")
"""The options that the page offers to compare values of."""

_NAMED = re.compile(r"(\w+)(?:=(.*?))?: (.*)", re.S)


def in_plain_words(message: str) -> tuple[str, str]:
    """Says a message as the page does.

    Args:
      message: One of the library, which may begin with an option's name and value.

    Returns:
      The option that it is about, or an empty text, and the message.
    """
    found = _NAMED.fullmatch(message)
    if not found or found[1] not in LABELS:
        is_sentence = re.match(r"[a-z]+ ", message)  # and no file's name
        return "", message[0].upper() + message[1:] if is_sentence else message
    name, value, wanted = found.groups()
    said = wanted if value is None else f"{value} does not fit: {wanted}"
    return name, f"{LABELS[name]}: {said}"
