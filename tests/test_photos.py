"""Tests of tfstyle/photos.py."""

import numpy as np
import pytest

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.folder import picture_files
from tfstyle.networks.photos import Photos

pytestmark = pytest.mark.fast


@pytest.fixture
def folder(tmp_path):
    """Six pictures of one grey each, in two folders, and a text."""
    (tmp_path / "more").mkdir()
    for i in range(6):
        name = f"more/{i}.PNG" if i % 2 else f"{i}.png"
        grey = np.full([20 + 4 * i, 50, 3], i / 10, "float32")
        tfstyle.save_image(grey, tmp_path / "picture.png")
        (tmp_path / "picture.png").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("none")
    return tmp_path


def test_every_epoch_has_every_photograph_once(folder):
    photos = Photos(picture_files(folder), 16, seed=0)
    greys = [photos.crop(i).mean().round(1) for i in range(12)]
    assert sorted(greys[:6]) == sorted(greys[6:]) == pytest.approx(np.arange(6) / 10)
    assert greys[:6] != greys[6:]


def test_a_crop_depends_on_seed_and_number_only(shared):
    files = picture_files(shared / "photos")[:5]
    one, two = Photos(files, 32, seed=1), Photos(files, 32, seed=1)
    crops = [one.crop(i) for i in range(8)]
    assert crops[0].shape == (32, 32, 3)
    assert crops[0].dtype == np.float32
    for i in (7, 0, 3):  # in any order
        np.testing.assert_array_equal(two.crop(i), crops[i])
    assert not np.array_equal(Photos(files, 32, seed=2).crop(0), crops[0])
    assert all(c.min() >= 0 and c.max() <= 1 for c in crops)


def test_crops_are_parts_of_several_sizes_and_mirrored(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 1, 96)[None, :, None], [64, 96, 3])
    tfstyle.save_image(ramp.astype("float32"), tmp_path / "ramp.png")
    photos = Photos(picture_files(tmp_path), 32, seed=0)
    slopes = [np.diff(photos.crop(i).mean((0, 2))).mean() * 96 for i in range(60)]
    sizes = np.abs(slopes)  # pixels of the photograph per pixel of the crop
    assert 0.9 < sizes.min() < 1.3
    assert 1.7 < sizes.max() < 2.2
    assert 10 < sum(slope < 0 for slope in slopes) < 50


def test_unreadable_photographs_are_skipped_and_told_of_once(folder):
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "4.png").write_bytes((folder / "0.png").read_bytes()[:60])
    told = []
    photos = Photos(picture_files(folder), 16, seed=0, warn=told.append)
    greys = {round(float(photos.crop(i).mean()), 1) for i in range(30)}
    assert greys == {0.0, 0.1, 0.3, 0.5}
    assert {file.name for file in photos.unreadable} == {"2.png", "4.png"}
    assert len(told) == 2
    assert all(line.startswith("skipped: ") and ".png" in line for line in told)


def test_photos_refuses_files_of_which_none_can_be_read(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(UsageError, match="none of the 1 photographs can be read"):
        Photos(picture_files(tmp_path), 16, seed=0).crop(0)
