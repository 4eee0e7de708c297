"""Files that are written whole or not at all, digests, and optional libraries."""

import hashlib

import pytest

from tfstyle.errors import MissingExtraError, TfstyleError, UsageError, one_line
from tfstyle.extras import import_extra
from tfstyle.files import as_path, beside, replaced, sha256, shown

pytestmark = pytest.mark.fast


# Messages.


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd\n  news"), "odd news"),
        (ValueError("a\n\x1b[31mb"), r"'a \x1b[31mb'"),
        (KeyError(), "KeyError"),
        (ValueError("c" * 999), "c" * 200),
    ],
)
def test_one_line_is_what_an_error_says(error, text):
    assert one_line(error) == text


def test_shown_is_a_path_with_escapes_if_it_must(tmp_path):
    assert shown(tmp_path / "Größe 1.png") == f"{tmp_path}/Größe 1.png"
    assert shown("a\nb\udcff.png") == r"'a\nb\udcff.png'"


def test_as_path_takes_text_and_paths_only(tmp_path):
    assert as_path(str(tmp_path), "path") == as_path(tmp_path, "path") == tmp_path
    for value in (3, None, b"a.png"):
        with pytest.raises(UsageError, match=r"output is of type .*; give a path"):
            as_path(value, "output")


# Files.


def test_replaced_shows_the_new_file_at_the_end_only(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    with replaced(file) as path:
        path.write_text("new")
        assert path.suffix == ".txt" and path.parent == tmp_path
        assert file.read_text() == "old"
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_beside_has_the_new_file_in_another_folder_meanwhile(tmp_path):
    (tmp_path / "scratch").mkdir()
    with beside(tmp_path / "file.txt", folder=tmp_path / "scratch") as path:
        path.write_text("new")
        assert path.parent == tmp_path / "scratch"
    assert (tmp_path / "file.txt").read_text() == "new"
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("error", [KeyError(), KeyboardInterrupt(), TfstyleError("x")])
def test_replaced_keeps_the_old_file_if_the_block_fails(tmp_path, error):
    file = tmp_path / "file.txt"
    file.write_text("old")
    with pytest.raises(type(error)), replaced(file) as path:
        path.write_text("half")
        raise error
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError("no space"), ValueError("no space")])
def test_replaced_names_the_file_that_could_not_be_written(tmp_path, error):
    file = tmp_path / "file.txt"
    with pytest.raises(TfstyleError) as caught, replaced(file):
        raise error
    assert str(file) in str(caught.value) and "no space" in str(caught.value)
    assert not isinstance(caught.value, UsageError)


def test_replaced_in_a_folder_that_is_not_there(tmp_path):
    with (
        pytest.raises(TfstyleError, match="nowhere"),
        replaced(tmp_path / "nowhere" / "file.txt") as path,
    ):
        path.write_text("new")


@pytest.mark.parametrize("length", [0, 3, (1 << 20) - 1, 1 << 20, 3_000_000])
def test_sha256_is_that_of_the_whole_file(tmp_path, length):
    content = bytes(range(251)) * (length // 251 + 1)
    file = tmp_path / "file"
    file.write_bytes(content[:length])
    assert sha256(file) == hashlib.sha256(content[:length]).hexdigest()
    assert sha256(str(file)) == sha256(file)


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_sha256_of_what_cannot_be_read_is_refused(tmp_path, kind):
    file = tmp_path if kind == "folder" else tmp_path / "missing.png"
    with pytest.raises(UsageError) as caught:
        sha256(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


# Optional libraries.


def test_import_extra_returns_the_module():
    import json.decoder

    assert import_extra("json", extra="video") is json
    assert import_extra("json.decoder", extra="video") is json.decoder


def test_import_extra_tells_how_to_install_what_is_missing():
    with pytest.raises(MissingExtraError) as caught:
        import_extra("tfstyle_has_no_such_library", extra="video")
    message = str(caught.value)
    assert "\n" not in message and "tfstyle_has_no_such_library" in message
    assert message.endswith("pip install 'tfstyle[video]'")
    assert isinstance(caught.value, UsageError) and isinstance(
        caught.value, ImportError
    )
    assert isinstance(caught.value.__cause__, ImportError)


def test_import_extra_of_a_library_that_is_broken(tmp_path, monkeypatch):
    (tmp_path / "tfstyle_broken.py").write_text("import tfstyle_no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match="tfstyle_no_such_part"):
        import_extra("tfstyle_broken", extra="video")
