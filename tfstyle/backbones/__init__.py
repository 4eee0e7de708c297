"""The frozen networks that features are taken from."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from tfstyle.backend import check_backend
from tfstyle.errors import UsageError

if TYPE_CHECKING:
    from tfstyle.backbones.base import Backbone

NAMES = ("slim19", "vgg19", "vgg16", "squeezenet")


def get_backbone(name: str) -> Backbone:
    """A backbone by its name.

    Args:
      name: One of ``NAMES``.

    Returns:
      The backbone; no weights are read yet.

    Raises:
      UsageError: There is no such backbone.
    """
    check_backend()
    # Flags list the names, and must not wait seconds for TensorFlow.
    from tfstyle.backbones.slim19 import SLIM19
    from tfstyle.backbones.squeezenet import SQUEEZENET
    from tfstyle.backbones.vgg import VGG16, VGG19

    backbones = {b.name: b for b in (SLIM19, VGG19, VGG16, SQUEEZENET)}
    if name not in backbones:
        nearest = difflib.get_close_matches(name, NAMES, n=1, cutoff=0) or NAMES
        raise UsageError(f"there is no backbone {name!r}; did you mean {nearest[0]}?")
    return backbones[name]
