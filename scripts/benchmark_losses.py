"""Style losses beside their methods in PyTorch, for ``benchmark.py``."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from baselines import Task, Torch, has_torch
from benchmark_timing import (
    clocked,
    in_turns,
    loop_seconds,
    note,
    seconds_of,
    with_median,
)

import tfstyle
from tfstyle.options.options import StyleLoss

LOSSES = list(get_args(StyleLoss))
LARGEST_NEIGHBORS = 1024
"""The largest size for which Kolkin's method is published."""
GRAM_STEPS = 1000
"""Those of jcjohnson/neural-style, at one size."""
EQUAL_LOSS: Mapping[str, Any] = {
    "style_loss": "wasserstein",
    "normalization": "mean",
    "content_weight": 0.015,
    "tv_weight": 2.0,
    "pooling": "max",
    "style_scale": (1.0,),
    "color": "free",
    "margin": 0,
}
"""Options by which tfstyle lowers the loss of ``torch_peers.Wasserstein``: its weights,
divided by channels as there, of a picture without margin or change of colours."""
_EVERY = 10  # steps of Crowson's method between two looks at its picture

Pictures = Sequence[np.ndarray]
Row = dict[str, Any]


def measure_losses(
    losses: Sequence[str],
    pictures: Pictures,
    options: Mapping[str, Any],
    limit: float,
    put: Callable,
) -> None:
    """Puts the rows of style losses at one size.

    Args:
      losses: The style losses.
      pictures: Content and style, ``[1, H, W, 3]``, of the size.
      options: Options of tfstyle.
      limit: Seconds above which a schedule in PyTorch is not gone through.
      put: Receives a row, the style loss, and the name of the contestant.
    """
    for loss in losses:
        given = {**options, "size": max(pictures[0].shape), "style_loss": loss}
        peer = Peer(loss, pictures) if has_torch("cpu") else None
        if peer is None or not peer.takes_part:
            note(f"  {loss}: without PyTorch, which is not installed or not published")
            peer = None
        steps = {"tfstyle": functools.partial(our_step, pictures, given)}
        if peer:
            steps["PyTorch"] = peer.step_seconds
        found = in_turns(steps)
        wholes = in_turns({"tfstyle": lambda g=given: whole(pictures, g)}, "s in all")
        row = with_median(found["tfstyle"])
        put({**row, "whole": with_median(wholes["tfstyle"])}, loss, "tfstyle")
        if peer:
            row = with_median(found["PyTorch"])
            put({**row, "whole": peer.schedule(limit)}, loss, "PyTorch")


def our_step(pictures: Pictures, options: Mapping[str, Any]) -> float:
    """Seconds per step at full size."""
    stylizer = tfstyle.Stylizer(**{**options, "scales": 1, "steps": 100_000})
    return clocked(lambda clock: stylizer(*pictures, callbacks=[clock]))


def whole(pictures: Pictures, options: Mapping[str, Any]) -> float:
    """Seconds of a picture with everything before it: network, graphs, targets."""
    return seconds_of(lambda: tfstyle.Stylizer(**options)(*pictures))


class Peer:
    """What PyTorch does for a style loss."""

    def __init__(self, loss: str, pictures: Pictures):
        """Prepares nothing yet."""
        self._loss, self._pictures = loss, pictures
        self._size = max(pictures[0].shape)

    @property
    def takes_part(self) -> bool:
        """Whether the method is published for this size."""
        return self._loss != "neighbors" or self._size <= LARGEST_NEIGHBORS

    def step_seconds(self) -> float:
        """Seconds per step at full size, of a loss that is defined as tfstyle's."""
        if self._loss == "gram":
            return loop_seconds(self._gram_step())
        if self._loss == "wasserstein":
            return loop_seconds(self._method().phases()[-1].begin())
        # Beside hypercolumns, the last phase is by single layers.
        layers = tuple(f"block{i}_conv1" for i in range(1, 5))
        return loop_seconds(self._method(layers=layers).phases()[-2].begin())

    def schedule(self, limit: float) -> Row:
        """Seconds of the published schedule.

        Args:
          limit: Seconds above which they are steps times seconds per step.
        """
        if self._loss == "gram":
            seconds = GRAM_STEPS * loop_seconds(self._gram_step())
            return {**with_median([seconds]), "estimated": True}
        parts = [phase_seconds(phase) for phase in self._method().phases()]
        total = sum(part["targets"] + part["steps"] * part["step"] for part in parts)
        estimated = total > limit
        note(f"  PyTorch, {self._loss}: about {total:.0f} s for the schedule")
        if not estimated:
            total = seconds_of(self._method().paint)
        return {**with_median([total]), "estimated": estimated, "parts": parts}

    def _method(self, **options: Any) -> Any:
        import torch_peers

        kinds = {
            "wasserstein": torch_peers.Wasserstein,
            "neighbors": torch_peers.Neighbors,
        }
        network = torch_peers.Network.slim19()
        return kinds[self._loss](network, *self._pictures, self._size, **options)

    def _gram_step(self) -> Callable[[], float]:
        options = {"backbone": "slim19", "weights": "imagenet", "style_loss": "gram"}
        return Torch(Task(*self._pictures, options)).adam()


def phase_seconds(phase: Any) -> Row:
    """What a phase of a schedule takes: its targets, and a step."""
    began = time.perf_counter()
    step = phase.begin()
    targets = time.perf_counter() - began
    return {
        "phase": phase.name,
        "steps": phase.steps,
        "targets": targets,
        "step": loop_seconds(step),
    }


# The time to equal loss.


class Curve:
    """The loss of pictures over seconds, without those that it takes to see it."""

    def __init__(self, loss_of: Callable[[np.ndarray], float]):
        """Begins the clock."""
        self._loss_of, self._began = loss_of, time.perf_counter()
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def look(self, picture: np.ndarray) -> None:
        """Notes the loss of a picture."""
        seen = time.perf_counter()
        self.seconds.append(seen - self._began)
        self.losses.append(self._loss_of(picture))
        self._began += time.perf_counter() - seen

    def row(self) -> Row:
        """The curve as the report reads it."""
        return {"seconds": self.seconds, "losses": self.losses}


def measure_equal(
    pictures: Pictures, options: Mapping[str, Any], tries: Sequence[Any], put: Callable
) -> None:
    """Puts the loss curves of Crowson's method and of tfstyle on its loss.

    Args:
      pictures: Content and style, ``[1, H, W, 3]``, of one size.
      options: Options of tfstyle beside ``EQUAL_LOSS``.
      tries: ``steps`` of tfstyle, tried until it has the other's final loss.
      put: Receives a curve and the name of the contestant.
    """
    import torch_peers

    network = torch_peers.Network.slim19()
    method = torch_peers.Wasserstein(network, *pictures, max(pictures[0].shape))
    evaluate = method.loss(method.size)

    def loss_of(picture: np.ndarray) -> float:
        with torch_peers.torch.no_grad():
            return evaluate(torch_peers.tensor(picture)).item()

    theirs = their_curve(method, loss_of)
    put(theirs, "PyTorch")
    note(f"  PyTorch: {theirs['losses'][-1]:.5g} in {theirs['seconds'][-1]:.0f} s")
    for steps in tries:
        ours = our_curve(pictures, {**options, **EQUAL_LOSS, "steps": steps}, loss_of)
        put(ours, ",".join(map(str, steps)))
        note(f"  tfstyle: {ours['losses'][-1]:.5g} in {ours['seconds'][-1]:.0f} s")
        if min(ours["losses"]) <= theirs["losses"][-1]:
            break


def their_curve(method: Any, loss_of: Callable[[np.ndarray], float]) -> Row:
    """The curve of a method in its last phase, whose pictures have full size."""
    curve, last, count = Curve(loss_of), len(method.phases()) - 1, 0

    def heard(phase: int, loss: float, picture: Callable[[], np.ndarray]) -> None:
        nonlocal count
        count += phase == last
        if count and count % _EVERY == 0:
            curve.look(picture())

    curve.look(method.paint(heard))
    return curve.row()


def our_curve(
    pictures: Pictures,
    options: Mapping[str, Any],
    loss_of: Callable[[np.ndarray], float],
) -> Row:
    """The curve of tfstyle at its finest scale, with everything before it."""
    curve = Curve(loss_of)

    def heard(progress: Any) -> None:
        if progress.scale == progress.scales - 1:
            curve.look(progress.image())

    stylizer = tfstyle.Stylizer(size=max(pictures[0].shape), **options)
    curve.look(stylizer(*pictures, callbacks=[heard]).images)
    return curve.row()
