"""Pictures: reading, writing, resizing, colour, masks.

A picture is one array everywhere in tfstyle: ``[N, H, W, 3]`` (NHWC), float32, RGB, in
[0, 1].
"""

from tfstyle.images.decoders import (
    MAX_PIXELS,
    SAVE_FORMATS,
    check_writable,
    encode_image,
    load_image,
    read_metadata,
    resize_image,
    save_image,
)

__all__ = [
    "MAX_PIXELS",
    "SAVE_FORMATS",
    "check_writable",
    "encode_image",
    "load_image",
    "read_metadata",
    "resize_image",
    "save_image",
]
