"""Optimising pictures: ``Stylizer``, and what it is made of.

``stylizer`` has the public names. It reads ``pictures``, keeps an ``engine`` (network
and graphs), and makes a ``run`` of each call: from coarse to fine (``scales``), the
values of a ``canvas`` minimise a ``problem`` (the loss and its targets), cut as
``memory`` allows; a ``checkpoint`` keeps the state and a ``result`` what came of it.
``sweep`` and ``film`` are many runs on one engine.
"""

from tfstyle.stylizer.stylizer import (
    Stylizer,
    invert_features,
    stylize,
    synthesize_texture,
)

__all__ = ["Stylizer", "invert_features", "stylize", "synthesize_texture"]
