"""Tests of tfstyle/options.py."""

import dataclasses
import pathlib

import pytest

from tfstyle.errors import UsageError
from tfstyle.options import CHOICES, Options, weighted_layers


def test_the_defaults_are_valid_and_frozen():
    options = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.size = 3


def test_every_option_has_a_help_text():
    for field in dataclasses.fields(Options):
        assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            *("backbone", "vgg"),
            "backbone='vgg': choose one of slim19, vgg19, vgg16, squeezenet",
        ),
        ("pooling", "mean", "pooling='mean': choose one of max, avg"),
        ("preprocessing", "tf", "preprocessing='tf': choose one of caffe, torch"),
        (
            *("normalization", "l2"),
            "normalization='l2': choose one of relative, sum, gatys, mean",
        ),
        ("optimizer", "sgd", "optimizer='sgd': choose one of auto, adam, lbfgs"),
        (
            *("schedule", "linear"),
            "schedule='linear': choose one of constant, cosine, exponential, piecewise",
        ),
        ("space", "lab", "space='lab': choose one of rgb, normalized"),
        ("size_of", "width", "size_of='width': choose one of longest, shortest"),
        (
            *("precision", "float16"),
            "precision='float16': choose one of auto, float32, bfloat16",
        ),
        ("max_memory", -0.5, "max_memory=-0.5: give a number of at least 0"),
        ("max_memory", float("nan"), "max_memory=nan: give a number of at least 0"),
        ("content_weight", -1.0, "content_weight=-1.0: give a number of at least 0"),
        ("style_weight", -0.1, "style_weight=-0.1: give a number of at least 0"),
        ("tv_weight", float("nan"), "tv_weight=nan: give a number of at least 0"),
        (
            *("final_learning_rate", -0.1),
            "final_learning_rate=-0.1: give a number of at least 0",
        ),
        ("learning_rate", 0.0, "learning_rate=0.0: give a number above 0"),
        ("learning_rate", -1.0, "learning_rate=-1.0: give a number above 0"),
        ("size", 0, "size=0: give a whole number of at least 1"),
        ("min_scale_size", 0, "min_scale_size=0: give a whole number of at least 1"),
        ("history", 0, "history=0: give a whole number of at least 1"),
        ("scales", -1, "scales=-1: give a whole number of at least 0"),
        ("style_size", -1, "style_size=-1: give a whole number of at least 0"),
        ("clamp_until", -1, "clamp_until=-1: give a whole number of at least 0"),
        ("decay_step", -5, "decay_step=-5: give a whole number of at least 0"),
        ("seed", -1, "seed=-1: give a whole number of at least 0"),
        ("margin", -1, "margin=-1: give a whole number of at least 0"),
        ("steps", 0, "steps=0: give whole numbers of at least 1"),
        ("steps", (), "steps=(): give at least one number"),
        ("noise", 1.1, "noise=1.1: give a number from 0 to 1"),
        ("noise", -0.1, "noise=-0.1: give a number from 0 to 1"),
        ("clamp", (1.0, 0.0), "clamp=(1.0, 0.0): give low,high in rising order"),
        ("clamp", (0.5, 0.5), "clamp=(0.5, 0.5): give low,high in rising order"),
        ("clamp", (0.5,), "clamp=(0.5,): give low,high in rising order"),
        ("clamp", (0, 1, 2), "clamp=(0, 1, 2): give low,high in rising order"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(option, value, message):
    with pytest.raises(UsageError) as caught:
        Options(**{option: value})
    assert str(caught.value) == message


@pytest.mark.parametrize("option", sorted(set(CHOICES) - {"preprocessing"}))
def test_a_choice_cannot_be_left_open(option):
    with pytest.raises(UsageError, match=f"^{option}=None: choose one of "):
        Options(**{option: None})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("preprocessing", None),
        ("tv_weight", 0.0),
        ("final_learning_rate", 0.0),
        ("scales", 0),
        ("max_memory", 0.0),
        ("max_memory", 0.25),
        ("noise", 0.0),
        ("noise", 1.0),
        ("clamp", ()),
        ("clamp", [-1.5, 1.5]),
        ("steps", 1),
        ("steps", [3]),
        ("init", pathlib.Path("start.png")),
    ],
)
def test_a_value_at_the_edge_is_accepted(option, value):
    assert getattr(Options(**{option: value}), option) == value


@pytest.mark.parametrize(("option", "choices"), CHOICES.items())
def test_every_choice_is_accepted(option, choices):
    for choice in choices:
        assert getattr(Options(**{option: choice}), option) == choice


@pytest.mark.parametrize("tv_weight", [0.0, 1.0])
def test_a_run_without_content_and_style_is_refused(tv_weight):
    with pytest.raises(UsageError) as caught:
        Options(content_weight=0.0, style_weight=0.0, tv_weight=tv_weight)
    assert str(caught.value) == (
        "content_weight and style_weight are both 0: give one of them"
    )
    Options(content_weight=0.0)
    Options(style_weight=0.0)


@pytest.mark.parametrize(
    ("steps", "scales", "expected"),
    [
        (7, 1, (7,)),
        (7, 3, (7, 7, 7)),
        ((200, 150, 100), 1, (200,)),
        ((200, 150, 100), 2, (200, 150)),
        ((200, 150, 100), 3, (200, 150, 100)),
        ((200, 150, 100), 5, (200, 150, 100, 100, 100)),
        ([4, 2], 3, (4, 2, 2)),
    ],
)
def test_steps_per_scale(steps, scales, expected):
    assert Options(steps=steps).steps_per_scale(scales) == expected


def test_one_of_several_steps_may_not_be_0():
    # Options do not know yet how many scales there will be.
    with pytest.raises(UsageError, match=r"^steps=\(9, 0\): give whole numbers of"):
        Options(steps=(9, 0))


# Layers with weights.


def test_layers_with_weights_are_taken_as_they_are():
    layers = {"relu1_1": 0.5, "relu2_1": 0.0}
    assert weighted_layers("style_layers", layers, {"x": 1.0}) == layers


@pytest.mark.parametrize("layers", [["a", "b", "c", "d"], ("a", "b", "c", "d")])
def test_names_alone_weigh_1_together(layers):
    expected = dict.fromkeys("abcd", 0.25)
    assert weighted_layers("style_layers", layers, {"x": 1.0}) == expected


def test_one_name_is_one_layer():
    assert weighted_layers("style_layers", "relu1_1", {"x": 1.0}) == {"relu1_1": 1.0}


def test_default_layers_weigh_1_together():
    default = {"x": 1.0, "y": 1.0}
    layers = weighted_layers("style_layers", None, default)
    assert layers == {"x": 0.5, "y": 0.5}
    assert default == {"x": 1.0, "y": 1.0}


@pytest.mark.parametrize("layers", [{}, [], (), {"a": 0.0, "b": 0.0}])
def test_layers_without_any_weight_are_refused(layers):
    with pytest.raises(UsageError) as caught:
        weighted_layers("content_layers", layers, {"x": 1.0})
    assert str(caught.value) == (
        "content_layers is empty: name at least one layer of weight above 0"
    )


@pytest.mark.parametrize(("weight", "shown"), [(-1.0, "-1.0"), (float("nan"), "nan")])
def test_a_weight_below_0_is_refused(weight, shown):
    with pytest.raises(UsageError) as caught:
        weighted_layers("style_layers", {"relu1_1": 1.0, "relu2_1": weight}, {})
    assert str(caught.value) == (
        f"style_layers=relu2_1:{shown}: a weight must be a number of at least 0"
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("tv_weight", float("inf"), "a number of at least 0"),
        ("content_weight", float("nan"), "a number of at least 0"),
        ("laplacian_weight", float("inf"), "a number of at least 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("max_memory", float("nan"), "a number of at least 0"),
        ("beta_2", 2.0, "a number from 0 to below 1"),
        ("color_strength", float("nan"), "a number from 0 to 1"),
        ("style_scale", (float("nan"),), "numbers from 0.05 to 20"),
    ],
)
def test_numbers_that_are_none_are_refused(name, value, wanted):
    with pytest.raises(UsageError, match=f"{name}=.*: give {wanted}"):
        Options(**{name: value})
