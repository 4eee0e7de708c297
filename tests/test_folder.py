"""Tests of ``picture_files`` and ``saved_as``."""

import pytest
from pictures import message

from tfstyle.errors import UsageError
from tfstyle.images.folder import SUFFIXES, picture_files, saved_as

pytestmark = pytest.mark.fast


def test_picture_files_are_those_of_all_folders_in_order(tmp_path):
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "b.png").touch()
    (tmp_path / "a.WebP").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more" / "c.JPG").touch()
    (tmp_path / "more" / "deep" / "d.tiff").touch()
    (tmp_path / "folder.png" / "e.gif").touch()
    names = [str(file.relative_to(tmp_path)) for file in picture_files(str(tmp_path))]
    assert names == [
        *("a.WebP", "b.png", "folder.png/e.gif", "more/c.JPG", "more/deep/d.tiff")
    ]


def test_picture_files_have_broken_links_to_be_named_when_read(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "none")
    assert picture_files(tmp_path) == [tmp_path / "a.png"]


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_picture_files_of_each_extension(tmp_path, suffix):
    (tmp_path / f"a{suffix}").touch()
    assert picture_files(tmp_path) == [tmp_path / f"a{suffix}"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "none: no such folder"),
        ("file.png", r"file\.png: is a file, not a folder"),
        ("empty", r"empty: there is no picture in this folder \(\.bmp, \.gif"),
        ("a\0", "no such folder"),
    ],
)
def test_picture_files_refuses_a_folder_of_no_use(tmp_path, name, said):
    (tmp_path / "file.png").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said) as excinfo:
        picture_files(tmp_path / name)
    message(excinfo)


def test_picture_files_refuses_another_type():
    with pytest.raises(UsageError, match="folder is of type int; give a path"):
        picture_files(3)


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("a.png", "a.png"),
        ("sub.gif/a.JPG", "sub.gif/a.JPG"),
        ("a.b.tiff", "a.b.png"),
        ("sub/a.gif", "sub/a.png"),
        ("a", "a.png"),
    ],
)
def test_saved_as_has_an_extension_that_can_be_written(name, saved):
    assert saved_as(name) == saved
