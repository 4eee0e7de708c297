"""Small pictures, and how tests look at loaded pictures, folders and messages."""

import numpy as np

RNG = np.random.default_rng(0)
COLOURS = np.array(
    [
        [[255, 0, 0], [0, 255, 0], [0, 0, 255]],
        [[10, 20, 30], [128, 128, 128], [255, 255, 255]],
    ],
    np.uint8,
)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def levels(image):
    """The 0-255 levels of a loaded picture, which must be whole numbers."""
    assert image.dtype == np.float32
    assert image.shape[0] == 1 and image.shape[-1] == 3
    scaled = image[0] * np.float32(255)
    np.testing.assert_allclose(scaled, np.rint(scaled), atol=1e-4)
    return np.rint(scaled).astype(int)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def message(excinfo):
    """The message of an error that was caught, which must be one line."""
    text = str(excinfo.value)
    assert "\n" not in text and text.isprintable()
    return text
