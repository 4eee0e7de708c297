"""Tests of tfstyle/networks/training_data.py."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import draw

import tfstyle
from tfstyle.errors import UsageError
from tfstyle.images.color import match_colors
from tfstyle.images.folder import picture_files
from tfstyle.networks.training_data import SAMPLE_SIZE, Photos, batches, sample_photo
from tfstyle.networks.training_subjects import NamedStyles

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


def test_crop_depends_on_seed_and_number_only(shared):
    files = picture_files(shared / "photos")[:5]
    one, two = Photos(files, 32, seed=1), Photos(files, 32, seed=1)
    crops = [one.crop(i) for i in range(8)]
    assert crops[0].shape == (32, 32, 3)
    assert crops[0].dtype == np.float32
    for i in (7, 0, 3):  # in any order
        np.testing.assert_array_equal(two.crop(i), crops[i])
    assert not np.array_equal(Photos(files, 32, seed=2).crop(0), crops[0])
    assert all(c.min() >= 0 and c.max() <= 1 for c in crops)


def test_crop_takes_parts_of_several_sizes_and_mirrors_them(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 1, 96)[None, :, None], [64, 96, 3])
    tfstyle.save_image(ramp.astype("float32"), tmp_path / "ramp.png")
    photos = Photos(picture_files(tmp_path), 32, seed=0)
    slopes = [np.diff(photos.crop(i).mean((0, 2))).mean() * 96 for i in range(60)]
    sizes = np.abs(slopes)  # pixels of the photograph per pixel of the crop
    assert 0.9 < sizes.min() < 1.3
    assert 1.7 < sizes.max() < 2.2
    assert 10 < sum(slope < 0 for slope in slopes) < 50


def test_crop_skips_unreadable_photographs_and_tells_of_each_once(folder):
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


def test_sample_photo_takes_the_first_that_can_be_read_out_of_the_training(folder):
    files = picture_files(folder)
    files[0].write_bytes(b"no picture")
    photo, left = sample_photo(files)
    np.testing.assert_array_equal(photo, tfstyle.load_image(files[1]))
    assert left == [files[0], *files[2:]]


def test_sample_photo_takes_the_chosen_picture(folder):
    files = picture_files(folder)
    photo, left = sample_photo(files, np.zeros([500, 900, 3], "float32"))
    assert photo.shape == (1, round(SAMPLE_SIZE * 5 / 9), SAMPLE_SIZE, 3)
    assert left == files


def test_sample_photo_leaves_one_photograph_to_train_on(folder):
    files = picture_files(folder)[:1]
    assert sample_photo(files)[1] == files
    files[0].write_bytes(b"no picture")
    with pytest.raises(UsageError, match="none of the 1 photographs can be read"):
        sample_photo(files)


OPTIONS = {"size": 32, "batch_size": 4}
STYLES = [
    draw(20, 20, (4, 5, 7)),
    draw(20, 24, (20, 30, 9)) ** 2,
    draw(8, 8, (9, 3, 5)),
]


def batches_of(folder, first_step=0, context=None, **options):
    chosen = tfstyle.TrainingOptions(**{**OPTIONS, "steps": 3, **options})
    photos = Photos(picture_files(folder), chosen.size, chosen.seed)
    styles = NamedStyles({str(i): style for i, style in enumerate(STYLES)}, chosen)
    context = context or tf.distribute.InputContext()
    found = batches(photos, styles.example, styles.style, chosen, first_step, context)
    return list(found.as_numpy_iterator())


def test_batches_take_every_style_in_turns(folder):
    styles = [numbers.tolist() for _, _, numbers in batches_of(folder)]
    assert styles == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]


def test_batches_want_content_in_the_colours_of_the_style(shared):
    photos, contents, numbers = batches_of(shared / "photos", steps=1)[0]
    for photo, content, number in zip(photos, contents, numbers, strict=True):
        wanted = match_colors(photo, STYLES[number])
        np.testing.assert_allclose(content, wanted, atol=1e-6)
        assert np.abs(content - photo).mean() > 0.01
    photos, contents, _ = batches_of(shared / "photos", steps=1, recolor=False)[0]
    np.testing.assert_array_equal(contents, photos)


def test_batches_depend_on_the_step_only(folder):
    for later, batch in zip(batches_of(folder, 2), batches_of(folder)[2:], strict=True):
        for a, b in zip(later, batch, strict=True):
            np.testing.assert_array_equal(a, b)


def test_batches_are_shared_by_workers_and_devices(folder):
    whole = batches_of(folder)
    for worker in range(2):
        context = tf.distribute.InputContext(2, worker, num_replicas_in_sync=4)
        parts = batches_of(folder, context=context)
        # One picture for each device, two devices for each worker.
        assert [len(numbers) for _, _, numbers in parts] == [1] * 6
        for i, (photos, _, _) in enumerate(parts):
            wanted = whole[i // 2][0][2 * worker + i % 2]
            np.testing.assert_array_equal(photos[0], wanted)
    with pytest.raises(UsageError, match="give a multiple of the 3 devices"):
        batches_of(folder, context=tf.distribute.InputContext(1, 0, 3))
