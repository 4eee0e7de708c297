"""The frozen networks that features are taken from."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING

from tfstyle.backend import check_backend
from tfstyle.errors import UsageError, did_you_mean
from tfstyle.options.options import BackboneName

if TYPE_CHECKING:
    from tfstyle.backbones.base import Backbone

NAMES: tuple[BackboneName, ...] = typing.get_args(BackboneName)


def get_backbone(name: str) -> Backbone:
    """Returns a backbone by its name; reads no weights.

    Raises:
      UsageError: If there is no such backbone.
    """
    check_backend()
    # Imported here because commands list the names before TensorFlow is needed.
    from tfstyle.backbones.slim19 import SLIM19
    from tfstyle.backbones.squeezenet import SQUEEZENET
    from tfstyle.backbones.vgg import VGG16, VGG19

    backbones = {b.name: b for b in (SLIM19, VGG19, VGG16, SQUEEZENET)}
    if name not in backbones:
        hint = did_you_mean(name, NAMES, most=1, cutoff=0)
        raise UsageError(f"there is no backbone {name!r}; {hint}")
    return backbones[name]
