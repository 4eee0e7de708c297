"""The chart of the losses, drawn as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 24


def loss_chart(
    losses: Sequence[tuple[int, str, float]], scales: Sequence[tuple[int, str]]
) -> str:
    """Draws the losses of a run on a logarithmic axis.

    Args:
      losses: Rows of step, kind of loss and a value above 0.
      scales: First step and name of each scale, which dashed lines mark.

    Returns:
      An SVG element.
    """
    kinds = list(dict.fromkeys(kind for _, kind, _ in losses))
    last = max(step for step, _, _ in losses)
    logs = [math.log10(value) for _, _, value in losses]
    low, high = math.floor(min(logs)), math.ceil(max(logs))
    high += high == low

    def x(step: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / max(last, 1)

    def y(log: float) -> float:
        share = (log - low) / (high - low)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    parts = []
    for power in range(low, high + 1, 1 + (high - low) // 5):
        parts += [
            _line("grid", _LEFT, y(power), _WIDTH - _RIGHT, y(power)),
            _text(_LEFT - 6, y(power) + 4, f"{10.0**power:g}", "end"),
        ]
    for step, name in scales:
        parts += [
            _line("scale", x(step), _TOP, x(step), _HEIGHT - _BOTTOM),
            _text(x(step) + 4, _HEIGHT - _BOTTOM - 6, name),
        ]
    for number, kind in enumerate(kinds):
        points = " ".join(
            f"{x(step):.1f},{y(log):.1f}"
            for (step, each, _), log in zip(losses, logs, strict=True)
            if each == kind
        )
        parts += [
            f'<polyline class="kind-{number % 4}" points="{points}"/>',
            f'<g class="kind-{number % 4}" stroke="none">'
            f"{_text(_LEFT + 130 * number, 14, f'— {kind}')}</g>",
        ]
    parts.append(_text(_WIDTH - _RIGHT, _HEIGHT - 6, f"step {last}", "end"))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Loss by step: {html.escape(", ".join(kinds))}">'
        f"{''.join(parts)}</svg>"
    )


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line class="{kind}" {ends}/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" stroke="none">'
        f"{html.escape(text)}</text>"
    )
