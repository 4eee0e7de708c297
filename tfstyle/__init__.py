"""Neural style transfer for TensorFlow and Keras.

Importing this package imports nothing else: each name brings what it needs when it is
first used, and TensorFlow comes with the first run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfstyle.backbones import check_backend
from tfstyle.errors import ImageError, TfstyleError, UsageError

if TYPE_CHECKING:
    from tfstyle import losses
    from tfstyle.apply import apply_style
    from tfstyle.export import export_network, export_optimizer
    from tfstyle.features import FeatureExtractor
    from tfstyle.images import load_image, resize_image, save_image
    from tfstyle.losses import PerceptualLoss
    from tfstyle.optimize import NonFiniteLossError, Progress
    from tfstyle.options import Options, TrainingOptions
    from tfstyle.pyramid import Result
    from tfstyle.recipes import invert_features, stylize, synthesize_texture
    from tfstyle.sweeps import sweep
    from tfstyle.training import train
    from tfstyle.transform_net import TransformNet, load_network

__version__ = "0.1.0"

__all__ = [
    "FeatureExtractor",
    "ImageError",
    "NonFiniteLossError",
    "Options",
    "PerceptualLoss",
    "Progress",
    "Result",
    "TfstyleError",
    "TrainingOptions",
    "TransformNet",
    "UsageError",
    "apply_style",
    "export_network",
    "export_optimizer",
    "invert_features",
    "load_image",
    "load_network",
    "losses",
    "resize_image",
    "save_image",
    "stylize",
    "sweep",
    "synthesize_texture",
    "train",
]

_IMPORTED_WHEN_USED = {
    "FeatureExtractor": "tfstyle.features",
    "PerceptualLoss": "tfstyle.losses",
    "losses": "tfstyle.losses",
    "NonFiniteLossError": "tfstyle.optimize",
    "Options": "tfstyle.options",
    "Progress": "tfstyle.optimize",
    "Result": "tfstyle.pyramid",
    "TrainingOptions": "tfstyle.options",
    "TransformNet": "tfstyle.transform_net",
    "apply_style": "tfstyle.apply",
    "export_network": "tfstyle.export",
    "export_optimizer": "tfstyle.export",
    "invert_features": "tfstyle.recipes",
    "load_image": "tfstyle.images",
    "load_network": "tfstyle.transform_net",
    "resize_image": "tfstyle.images",
    "save_image": "tfstyle.images",
    "stylize": "tfstyle.recipes",
    "sweep": "tfstyle.sweeps",
    "synthesize_texture": "tfstyle.recipes",
    "train": "tfstyle.training",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_WHEN_USED:
        raise AttributeError(f"module 'tfstyle' has no attribute {name!r}")
    check_backend()
    module = importlib.import_module(_IMPORTED_WHEN_USED[name])
    return module if name == "losses" else getattr(module, name)
