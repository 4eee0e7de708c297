"""Tests of options: types, ranges, texts, and what has no effect."""

import dataclasses
import pathlib
import typing

import pytest

from tfstyle.errors import UsageError
from tfstyle.options import (
    FRAMES,
    INVERT,
    STYLIZE,
    TEXTURE,
    Options,
    StylizeKeywords,
    TrainingOptions,
    fields_of,
    weighted_layers,
)
from tfstyle.options.text import from_text, to_text

pytestmark = pytest.mark.fast

CHOICES = {field.name: field.choices for field in fields_of(Options) if field.choices}


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
            "backbone='vgg': give one of slim19, vgg19, vgg16, squeezenet",
        ),
        ("pooling", "mean", "pooling='mean': give one of max, avg"),
        ("preprocessing", "tf", "preprocessing='tf': give one of caffe, torch"),
        (
            *("normalization", "l2"),
            "normalization='l2': give one of relative, sum, gatys, mean",
        ),
        ("optimizer", "sgd", "optimizer='sgd': give one of auto, adam, lbfgs"),
        (
            *("schedule", "linear"),
            "schedule='linear': give one of constant, cosine, exponential, piecewise",
        ),
        ("space", "lab", "space='lab': give one of rgb, normalized"),
        ("size_of", "width", "size_of='width': give one of longest, shortest"),
        (
            *("precision", "float16"),
            "precision='float16': give one of auto, float32, bfloat16",
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
        ("history", 0, "history=0: give a whole number of at least 1"),
        ("scales", -1, "scales=-1: give a whole number of at least 0"),
        ("style_size", -1, "style_size=-1: give a whole number of at least 0"),
        ("clamp_until", -1, "clamp_until=-1: give a whole number of at least 0"),
        ("decay_step", -5, "decay_step=-5: give a whole number of at least 0"),
        ("seed", -1, "seed=-1: give a whole number of at least 0"),
        ("margin", -1, "margin=-1: give a whole number of at least 0"),
        ("steps", 0, "steps=0: give whole numbers of at least 1"),
        ("steps", (), "steps is empty: give at least one number"),
        ("style_scale", (), "style_scale is empty: give at least one number"),
        ("style_weight", "2", "style_weight='2': give a number of at least 0"),
        ("steps", 2.5, "steps=2.5: give whole numbers of at least 1"),
        ("steps", "9", "steps='9': give whole numbers of at least 1"),
        ("size", (96, 64), "size=(96, 64): give a whole number of at least 1"),
        ("size", 9.0, "size=9.0: give a whole number of at least 1"),
        ("size", True, "size=True: give a whole number of at least 1"),
        ("allow_upscale", 1, "allow_upscale=1: give True or False"),
        ("weights", 3, "weights=3: give a text"),
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
    with pytest.raises(UsageError, match=f"^{option}=None: give one of "):
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
        ("clamp", ()),
        ("clamp", [-1.5, 1.5]),
        ("steps", 1),
        ("steps", [3]),
        ("init", pathlib.Path("start.png")),
    ],
)
def test_a_value_at_the_edge_is_accepted(option, value):
    needed = {"optimizer": "adam"} if option == "final_learning_rate" else {}
    assert getattr(Options(**{option: value, **needed}), option) == value


@pytest.mark.parametrize(("option", "choices"), CHOICES.items())
def test_every_choice_is_accepted(option, choices):
    for choice in choices:
        needed = {"optimizer": "adam"} if option == "schedule" else {}
        assert getattr(Options(**{option: choice, **needed}), option) == choice


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


# Options that have no effect.


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"optimizer": "lbfgs", "schedule": "constant"}, "optimizer='adam'"),
        ({"optimizer": "lbfgs", "beta_2": 0.5}, "optimizer='adam'"),
        ({"optimizer": "lbfgs", "decay_step": 5}, "optimizer='adam'"),
        ({"optimizer": "lbfgs", "final_learning_rate": 0.1}, "optimizer='adam'"),
        ({"optimizer": "lbfgs", "clamp_until": 3}, "optimizer='adam'"),
        ({"beta_2": 0.5}, "optimizer='adam'"),
        ({"optimizer": "adam", "history": 5}, "optimizer='auto' or 'lbfgs'"),
        ({"optimizer": "adam", "decay_step": 5}, "schedule='piecewise'"),
        ({"noise": 0.5}, "init='noise' or 'normal'"),
        ({"color": "free", "color_strength": 0.5}, "color='style' or"),
    ],
)
def test_an_option_without_effect_is_refused_with_what_it_needs(given, named):
    with pytest.raises(UsageError, match="has no effect with") as caught:
        Options(**given)
    assert named in str(caught.value)


def test_an_option_at_its_default_needs_nothing():
    Options(optimizer="lbfgs", beta_2=0.99, schedule="cosine", clamp_until=0)


# Kinds of runs.


def test_a_recipe_has_its_own_defaults_and_lacks_what_it_does_not_use():
    assert STYLIZE.options({}) == Options()
    texture = TEXTURE.options({"tv_weight": 0.25})
    assert (texture.init, texture.tv_weight, texture.content_weight) == (
        *("noise", 0.25),
        0.0,
    )
    assert INVERT.options({}).style_weight == 0
    assert "content_weight" not in TEXTURE.names and "style_layers" not in INVERT.names
    assert not {"size", "init"} & set(FRAMES.names)
    with pytest.raises(UsageError, match="texture has no option 'content_weight'"):
        TEXTURE.options({"content_weight": 1.0})


def test_a_misspelt_option_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="did you mean style_weight"):
        STYLIZE.options({"style_wieght": 1})


def test_texts_of_a_recipe_are_its_differences_and_parse_back():
    given = {"steps": (5, 3), "style_layers": {"relu1_1": 0.5}, "allow_upscale": True}
    options = STYLIZE.options(given)
    texts = STYLIZE.texts(options)
    assert texts == {
        "steps": "5,3",
        "style_layers": "relu1_1:0.5",
        "allow_upscale": "true",
    }
    assert STYLIZE.options(STYLIZE.parse(texts)) == options
    assert STYLIZE.texts(Options()) == {}


def test_parsing_a_preset_leaves_out_what_a_recipe_does_not_have():
    values = TEXTURE.parse({"preset": "gatys-vgg19", "steps": "7"})
    assert values["steps"] == (7,) and values["backbone"] == "vgg19"
    assert "content_layers" not in values


# Texts.


@pytest.mark.parametrize("kind", [Options, TrainingOptions])
def test_every_default_survives_as_text(kind):
    for field in fields_of(kind):
        if field.default is not None:
            assert from_text(field, to_text(field.default)) == field.default, field


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "5, 3,", (5, 3)),
        ("clamp", "", ()),
        ("style_layers", "a,b", {"a": 0.5, "b": 0.5}),
        ("style_layers", "a:1,b:2e-3", {"a": 1.0, "b": 0.002}),
        ("learning_rate", "1e-3", 0.001),
        ("jit_compile", "True", True),
        ("init", "noise", "noise"),
    ],
)
def test_texts_become_values(name, text, value):
    field = next(field for field in fields_of(Options) if field.name == name)
    assert from_text(field, text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("steps", "1,x"), ("size", "9.5"), ("jit_compile", "maybe"), ("tv_weight", "")],
)
def test_texts_of_another_type_are_refused(name, text):
    field = next(field for field in fields_of(Options) if field.name == name)
    with pytest.raises(UsageError, match=f"{name}={text}: give {field.wanted}"):
        from_text(field, text)


def test_keywords_for_editors_are_the_options_with_their_types():
    hints = typing.get_type_hints(StylizeKeywords)
    assert hints == {field.name: field.hint for field in fields_of(Options)}
