"""Whether a run that goes on is the same as the one that was begun."""

import numpy as np
import pytest

from tfstyle.errors import UsageError
from tfstyle.options.identity import check_results, check_same, digest, settings_text

pytestmark = pytest.mark.fast

SAVED = {"size": 512, "style_weight": 1.0, "content": "a" * 64, "gone": 3}


def test_check_same_accepts_equal_settings_and_ignores_what_is_no_setting_now():
    check_same("run.npz", SAVED, {"size": 512, "style_weight": 1}, "start over")


def test_check_same_names_each_difference_the_place_and_the_way_out():
    now = {"size": 256, "style_weight": 1.0, "content": "b" * 64, "seed": 0}
    with pytest.raises(UsageError) as caught:
        check_same("run.npz", SAVED, now, "choose another folder")
    message = str(caught.value)
    assert message.startswith("run.npz: ") and message.endswith("choose another folder")
    assert "\n" not in message
    assert "size (512, now 256)" in message
    assert "seed (None, now 0)" in message
    # Digests say nothing to a reader, and equal settings are no difference.
    assert "content" in message and "aaa" not in message and "bbb" not in message
    assert "style_weight" not in message


def test_check_same_of_a_setting_that_was_none():
    check_same("x", {}, {"preprocessing": None}, "start over")
    with pytest.raises(UsageError, match=r"preprocessing \(None, now torch\)"):
        check_same("x", {"preprocessing": None}, {"preprocessing": "torch"}, "")


def test_check_same_shows_nothing_unprintable_from_a_file():
    saved = {"color": "\x1b[2J\nfree"}
    with pytest.raises(UsageError) as caught:
        check_same("x", saved, {"color": "free"}, "start over")
    assert str(caught.value).isprintable()


def test_check_results_compares_all_settings_of_one_command():
    saved = settings_text({"command": "apply", "style": "a", "size": 3})
    check_results("out", saved, {"size": 3, "style": "a", "command": "apply"}, "")
    for now, said in (
        ({"command": "apply", "style": "a"}, "size (3, now None)"),
        ({"command": "apply", "style": "a", "size": 3, "x": 1}, "x (None, now 1)"),
        ({"command": "sweep", "seed": 1}, "command (apply, now sweep); go"),
    ):
        with pytest.raises(UsageError) as caught:
            check_results("out", saved, now, "go")
        assert str(caught.value).startswith("out: ") and said in str(caught.value)
    for damaged in ("{", "[1]", b"\xff"):
        with pytest.raises(UsageError, match=r"out/\.tfstyle\.json: is damaged"):
            check_results("out", damaged, {"command": "apply"}, "")


def test_digest_differs_for_other_values_shapes_and_orders():
    array = np.arange(6.0, dtype="float32")
    values = [
        array,
        array + 1,
        array.reshape(2, 3),
        array.reshape(3, 2),
        [array],
        [array, array + 1],
        [array + 1, array],
        None,
        [],
    ]
    found = [digest(value) for value in values]
    assert len(set(found)) == len(found)
    assert all(isinstance(text, str) for text in found)


def test_digest_is_that_of_the_values_not_of_their_place_in_memory():
    array = np.random.default_rng(0).random((3, 4, 2)).astype("float32")
    column = np.asfortranarray(array)
    wide = np.repeat(array, 2, axis=1)[:, ::2]
    assert digest(array) == digest(array.copy()) == digest(column) == digest(wide)
    assert digest([array, None]) == digest([array.copy(), None])
    assert len(digest(array)) == 64


def test_digest_of_an_empty_array():
    assert digest(np.zeros((0, 3))) != digest(np.zeros((3, 0)))
