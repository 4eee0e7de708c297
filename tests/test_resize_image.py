"""Tests of ``resize_image``."""

import numpy as np
import pytest
from pictures import RNG, message
from PIL import Image

from tfstyle.errors import UsageError
from tfstyle.images import resize_image

pytestmark = pytest.mark.fast


def test_resize_image_is_antialiased():
    checkerboard = np.indices((64, 64)).sum(0) % 2
    image = np.repeat(checkerboard[None, ..., None], 3, -1).astype(np.float32)
    small = resize_image(image, (16, 16))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small[:, 2:-2, 2:-2], 0.5, atol=0.01)


def test_resize_image_is_height_by_width_and_per_channel():
    image = RNG.random((1, 8, 12, 3)).astype(np.float32)
    box = Image.Resampling.BOX
    small = resize_image(image, (4, 3), resample=box)
    expected = image[0].reshape(4, 2, 3, 4, 3).mean((1, 3))
    np.testing.assert_allclose(small[0], expected, atol=1e-6)
    np.testing.assert_array_equal(resize_image(image, (8, 12)), image)
    assert resize_image(image[..., :1], (4, 3)).shape == (1, 4, 3, 1)


def test_resize_image_clips_overshoot():
    edge = np.zeros((1, 16, 16, 3), np.float32)
    edge[:, :, 8:] = 1
    large = resize_image(edge, (32, 32))
    assert large.min() == 0
    assert large.max() == 1


@pytest.mark.parametrize(
    ("image", "size", "text"),
    [
        (np.zeros((4, 4, 3)), (2, 2), r"image has shape \[4, 4, 3\]; give \[N, height"),
        (np.zeros((0, 4, 4, 3)), (2, 2), r"shape \[0, 4, 4, 3\]"),
        (np.zeros((1, 4, 4, 3), "uint8"), (2, 2), r"image holds uint8; give float"),
        ("a.png", (2, 2), "image is of type str; give an array or a tensor"),
        (np.zeros((1, 4, 4, 3)), (0, 2), "size is 0; give a whole number"),
        (np.zeros((1, 4, 4, 3)), (2, 2.5), "size is 2.5; give a whole number"),
        (np.zeros((1, 4, 4, 3)), 2, r"size is 2; give \(height, width\)"),
        (np.zeros((1, 4, 4, 3)), (1, 2, 3), r"size is \(1, 2, 3\); give \(height, w"),
        (np.zeros((1, 4, 4, 3)), (10**6, 10**6), "size is 1000000×1000000 pixels, ov"),
    ],
)
def test_resize_image_refuses_other_types_shapes_and_sizes(image, size, text):
    with pytest.raises(UsageError, match=text) as excinfo:
        resize_image(image, size)
    message(excinfo)


def test_resize_image_refuses_an_unknown_filter():
    with pytest.raises(UsageError, match="resample is 'soft'; give one of"):
        resize_image(np.zeros((1, 4, 4, 3)), (2, 2), resample="soft")


def test_resize_image_of_the_same_size_is_the_array_itself():
    image = RNG.random((2, 8, 12, 3)).astype(np.float32)
    assert resize_image(image, (8, 12)) is image
