"""Tests of options: types, ranges, texts, and what has no effect."""

import dataclasses
import pathlib
import typing

import numpy as np
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
from tfstyle.options.presets import preset_names, preset_options, preset_source
from tfstyle.options.text import from_text, to_text

pytestmark = pytest.mark.fast

CHOICES = {field.name: field.choices for field in fields_of(Options) if field.choices}


@pytest.mark.parametrize("kind", [Options, TrainingOptions])
def test_the_defaults_are_valid_and_frozen(kind):
    options = kind()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.size = 300


@pytest.mark.parametrize("kind", [Options, TrainingOptions])
def test_every_option_has_a_help_text(kind):
    for field in fields_of(kind):
        assert field.help.endswith("."), field.name


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"size": 31}, "size=31: give a whole number of at least 32"),
        ({"recolor": "no"}, "recolor='no': give True or False"),
        ({"ema": 1.0}, "ema=1.0: give a number from 0 to below 1"),
        ({"sample_steps": (1, 0)}, "sample_steps=(1, 0): give whole numbers of"),
        ({"steps": (10, 20)}, "steps=(10, 20): give a whole number of at least 1"),
        (
            {"learning_rate": 0.01, "final_learning_rate": 0.02},
            "final_learning_rate=0.02",
        ),
        ({"content_weight": 0.0, "style_weight": 0.0}, "content_weight and style_"),
    ],
)
def test_training_options_refuse_a_value_and_name_it(given, named):
    with pytest.raises(UsageError) as caught:
        TrainingOptions(**given)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("backbone", "vgg", "slim19, vgg19, vgg16, squeezenet"),
        ("pooling", "mean", "max, avg"),
        ("preprocessing", "tf", "caffe, torch"),
        ("normalization", "l2", "relative, sum, gatys, mean"),
        ("optimizer", "sgd", "auto, adam, lbfgs"),
        ("schedule", "linear", "constant, cosine, exponential, piecewise"),
        ("space", "lab", "rgb, normalized"),
        ("size_of", "width", "longest, shortest"),
        ("precision", "float16", "auto, float32, bfloat16"),
        ("color", "mean", "style, content, match, free"),
        ("max_memory", -0.5, "a number of at least 0"),
        ("max_memory", float("nan"), "a number of at least 0"),
        ("max_memory", "2", "a number of at least 0"),
        ("content_weight", -1.0, "a number of at least 0"),
        ("content_weight", float("nan"), "a number of at least 0"),
        ("style_weight", -0.1, "a number of at least 0"),
        ("style_weight", "2", "a number of at least 0"),
        ("style_weight", None, "a number of at least 0"),
        ("style_weight", True, "a number of at least 0"),
        ("laplacian_weight", float("inf"), "a number of at least 0"),
        ("tv_weight", float("nan"), "a number of at least 0"),
        ("tv_weight", float("inf"), "a number of at least 0"),
        ("final_learning_rate", -0.1, "a number of at least 0"),
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", -1.0, "a number above 0"),
        ("learning_rate", float("inf"), "a number above 0"),
        ("beta_2", 2.0, "a number from 0 to below 1"),
        ("beta_2", 1.0, "a number from 0 to below 1"),
        ("color_strength", float("nan"), "a number from 0 to 1"),
        ("color_strength", 1.1, "a number from 0 to 1"),
        ("color_strength", -0.1, "a number from 0 to 1"),
        ("size", 0, "a whole number of at least 1"),
        ("size", 9.0, "a whole number of at least 1"),
        ("size", True, "a whole number of at least 1"),
        ("size", (96, 64), "a whole number of at least 1"),
        ("history", 0, "a whole number of at least 1"),
        ("scales", -1, "a whole number of at least 0"),
        ("style_size", -1, "a whole number of at least 0"),
        ("clamp_until", -1, "a whole number of at least 0"),
        ("decay_step", -5, "a whole number of at least 0"),
        ("seed", -1, "a whole number of at least 0"),
        ("margin", -1, "a whole number of at least 0"),
        ("steps", 0, "whole numbers of at least 1"),
        ("steps", 2.5, "whole numbers of at least 1"),
        ("steps", "9", "whole numbers of at least 1"),
        # Options do not know yet how many scales there will be.
        ("steps", (9, 0), "whole numbers of at least 1"),
        ("style_scale", (0.0,), "numbers from 0.05 to 20"),
        ("style_scale", (1.0, 21.0), "numbers from 0.05 to 20"),
        ("style_scale", (float("nan"),), "numbers from 0.05 to 20"),
        ("style_scale", 1.0, "numbers from 0.05 to 20"),
        ("clamp", (1.0, 0.0), "low,high"),
        ("clamp", (0.5, 0.5), "low,high"),
        ("clamp", (0.5,), "low,high"),
        ("clamp", (0, 1, 2), "low,high"),
        ("clamp", ("0", "1"), "numbers"),
        ("style_layers", {"relu1_1": "x"}, "a mapping from layers to weights"),
        ("content_layers", {"relu1_1": None}, "a mapping from layers to weights"),
        ("allow_upscale", 1, "True or False"),
        ("jit_compile", "true", "True or False"),
        ("weights", 3, "a text"),
        ("content_layers", 3, "a mapping from layers to weights"),
    ],
)
def test_options_refuse_a_value_and_name_it_with_what_it_must_be(option, value, named):
    with pytest.raises(UsageError) as caught:
        Options(**{option: value})
    message = str(caught.value)
    assert message.startswith(f"{option}={value!r}") and "\n" not in message
    assert named in message


@pytest.mark.parametrize("option", ["steps", "style_scale"])
def test_options_refuse_a_list_without_numbers(option):
    with pytest.raises(UsageError, match=f"^{option} is empty"):
        Options(**{option: ()})


@pytest.mark.parametrize("option", sorted(set(CHOICES) - {"preprocessing", "pooling"}))
def test_a_choice_cannot_be_left_open(option):
    with pytest.raises(UsageError, match=f"^{option}=None") as caught:
        Options(**{option: None})
    assert all(choice in str(caught.value) for choice in CHOICES[option])


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


@pytest.mark.parametrize(
    ("option", "given", "text"),
    [
        ("steps", np.int64(3), "3"),
        ("steps", np.array([4, 2]), "4,2"),
        ("steps", [np.int32(4), 2], "4,2"),
        ("style_weight", np.float64(0.5), "0.5"),
        ("style_scale", np.array([0.5, 2.0]), "0.5,2.0"),
    ],
)
def test_numpys_numbers_are_as_pythons_own(option, given, text):
    assert to_text(getattr(Options(**{option: given}), option)) == text


def test_an_array_of_other_numbers_is_refused():
    with pytest.raises(UsageError, match=r"^steps=.*give whole numbers"):
        Options(steps=np.array([4.0, 2.5]))


@pytest.mark.parametrize(("option", "choices"), CHOICES.items())
def test_every_choice_is_accepted(option, choices):
    for choice in choices:
        needed = {"optimizer": "adam"} if option == "schedule" else {}
        assert getattr(Options(**{option: choice, **needed}), option) == choice


@pytest.mark.parametrize("tv_weight", [0.0, 1.0])
def test_a_run_without_content_and_style_is_refused(tv_weight):
    with pytest.raises(UsageError, match="content_weight and style_weight"):
        Options(content_weight=0.0, style_weight=0.0, tv_weight=tv_weight)
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
    assert "content_layers" in str(caught.value)
    assert "above 0" in str(caught.value)


@pytest.mark.parametrize(("weight", "shown"), [(-1.0, "-1.0"), (float("nan"), "nan")])
def test_a_weight_below_0_is_refused(weight, shown):
    with pytest.raises(UsageError) as caught:
        weighted_layers("style_layers", {"relu1_1": 1.0, "relu2_1": weight}, {})
    assert f"style_layers=relu2_1:{shown}" in str(caught.value)
    assert "at least 0" in str(caught.value)


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
        ({"color": "free", "color_strength": 0.5}, "color='style' or"),
        (
            {"optimizer": "adam", "schedule": "constant", "final_learning_rate": 0.1},
            "schedule='cosine' or 'exponential' or 'piecewise'",
        ),
    ],
)
def test_options_refuse_one_without_effect_and_name_what_it_needs(given, named):
    option = list(given)[-1]
    with pytest.raises(UsageError, match="has no effect with") as caught:
        Options(**given)
    message = str(caught.value)
    assert message.startswith(f"{option}={given[option]!r}") and named in message


def test_every_need_is_of_an_option_and_has_values_that_it_can_have():
    fields = {field.name: field for field in fields_of(Options)}
    for field in fields.values():
        for other, values in field.needs.items():
            assert values and all(fields[other].accepts(value) for value in values)


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


@pytest.mark.parametrize(
    ("style_loss", "content_weight", "style_scale", "pooling", "steps"),
    [
        ("gram", 0.05, 1.0, "max", (100, 60, 40)),
        ("wasserstein", 0.016, 1.5, "avg", (80, 50, 30)),
        ("neighbors", 0.01, 1.0, "avg", (80, 50, 20)),
    ],
)
def test_each_style_loss_has_defaults_of_its_own(
    style_loss, content_weight, style_scale, pooling, steps
):
    options = Options(style_loss=style_loss)
    assert options.content_weight == content_weight
    assert options.style_scale == (style_scale,)
    assert (options.pooling, options.steps) == (pooling, steps)
    given = Options(style_loss=style_loss, content_weight=0.3, pooling="max", steps=7)
    assert (given.content_weight, given.pooling, given.steps) == (0.3, "max", 7)
    assert STYLIZE.texts(options) == (
        {} if style_loss == "wasserstein" else {"style_loss": style_loss}
    )


def test_textures_inversions_and_trainings_have_gram_matrices_by_default():
    textured, inverted = TEXTURE.options({}), INVERT.options({})
    assert textured.style_loss == inverted.style_loss == "gram"
    assert (textured.pooling, textured.style_scale) == ("max", (1.0,))
    assert TrainingOptions().style_loss == "gram"
    chosen = TEXTURE.options({"style_loss": "wasserstein"})
    assert chosen.style_loss == "wasserstein"
    assert TEXTURE.texts(textured) == {} == INVERT.texts(inverted)


def test_a_training_refuses_neighbors():
    with pytest.raises(UsageError, match=r"style_loss='neighbors'.*wasserstein"):
        TrainingOptions(style_loss="neighbors")


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


OTHERS = {
    "bool": lambda field: not field.default,
    "int": lambda field: field.default + 64,
    "float": lambda field: (field.default_of(Options()) + 1 / 3) / 2,
    "ints": lambda field: (7, 5, 3),
    "floats": lambda field: (0.1, 1 / 3),
    "layers": lambda field: {"relu1_1": 1 / 3, "conv2_1": 2.0, "4": 1e-9},
    "text": lambda field: (field.choices or ("a b/c,d=e.png",))[-1],
}


@pytest.mark.parametrize(
    "field", fields_of(Options) + fields_of(TrainingOptions), ids=lambda f: f.name
)
def test_every_option_survives_as_text_in_full_precision(field):
    value = OTHERS[field.kind](field)
    assert field.accepts(value)
    again = from_text(field, to_text(value))
    assert again == value and type(again) is type(value)


@pytest.mark.parametrize("text", ["a:1,b", "a:x", "a:-1", ",", "a:0,b:0", "a:nan"])
def test_texts_of_layers_are_refused_with_the_option(text):
    field = next(field for field in fields_of(Options) if field.name == "style_layers")
    with pytest.raises(UsageError, match="style_layers") as caught:
        from_text(field, text)
    assert "\n" not in str(caught.value)


# Presets.


@pytest.mark.parametrize("name", preset_names())
def test_preset_options_of_runs_are_valid_and_differ_from_the_defaults(name):
    given = preset_options(name)
    options = Options(**given)
    assert options != Options()
    assert all(getattr(options, option) == value for option, value in given.items())
    experiment, part = preset_source(name)
    assert len(experiment) > 20 and part.endswith(".")


@pytest.mark.parametrize("name", preset_names("training"))
def test_preset_options_of_trainings_are_valid(name):
    given = preset_options(name, "training")
    options = TrainingOptions(**given)
    assert all(getattr(options, option) == value for option, value in given.items())


@pytest.mark.parametrize("kind", ["run", "training"])
def test_an_unknown_preset_is_refused_with_the_nearest(kind):
    known = preset_names(kind)[0]
    with pytest.raises(UsageError, match=f"did you mean .*{known}"):
        preset_options(known[:-1], kind)


# What type checkers and editors see.


def test_keywords_for_editors_are_the_options_with_their_types():
    hints = typing.get_type_hints(StylizeKeywords)
    assert not StylizeKeywords.__required_keys__
    assert hints == {field.name: field.hint for field in fields_of(Options)}
