"""Pictures: reading, writing, resizing, colour, masks.

A picture is one array everywhere in tfstyle: float32 ``[N, H, W, 3]`` (NHWC), RGB, in
[0, 1]. Rounding and clipping happen where a file is written, nowhere else. Nothing here
imports TensorFlow, so that a command can refuse a bad picture at once.
"""

from tfstyle.images.decoders import MAX_PIXELS
from tfstyle.images.loading import load_batch, load_image
from tfstyle.images.metadata import read_metadata
from tfstyle.images.resizing import resize_image
from tfstyle.images.saving import (
    SAVE_FORMATS,
    check_writable,
    encode_image,
    save_image,
)

__all__ = [
    "MAX_PIXELS",
    "SAVE_FORMATS",
    "check_writable",
    "encode_image",
    "load_batch",
    "load_image",
    "read_metadata",
    "resize_image",
    "save_image",
]
