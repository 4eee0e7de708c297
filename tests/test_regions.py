"""Tests of masks, and of runs with masks."""

import functools
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf

import tfstyle
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.errors import UsageError
from tfstyle.images import masks as regions
from tfstyle.images.masks import assign_styles, read_mask, read_protection
from tfstyle.images.tiles import Field
from tfstyle.losses import (
    gram_matrix,
)
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.options import Options
from tfstyle.stylizer import Stylizer, memory
from tfstyle.stylizer.guides import guides
from tfstyle.stylizer.run import Run

SIZE = (32, 40)
_MASKS = ("content_mask", "style_mask", "protect")


def read(content, style, **options):
    masks = {name: options.pop(name, None) for name in _MASKS}
    return Stylizer(**options).read(content, style, **masks)


def halves(first=1.0, second=0.0, height=32, width=40):
    mask = np.full((height, width, 3), second, "float32")
    mask[:, : width // 2] = first
    return mask


def labelled(*colours):
    """Upright stripes in labels' colours, as a JPEG leaves them."""
    mask = np.zeros((32, 40, 3), "float32")
    for i, colour in enumerate(colours):
        mask[:, i * 40 // len(colours) :] = regions.LABELS[colour]
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, mask.shape)
    return np.clip(mask + noise, 0, 1).astype("float32")


# Masks.


def test_a_grey_mask_is_soft():
    mask = read_mask("m", halves(1.0, 0.25), SIZE)
    assert list(mask) == ["white", "black"]
    np.testing.assert_allclose(mask["white"][0, :, :20], 1.0)
    np.testing.assert_allclose(mask["white"][0, :, 20:], 0.25)
    np.testing.assert_allclose(mask["black"], 1 - mask["white"])


def test_labels_survive_noise_and_keep_their_order():
    mask = read_mask("m", labelled("blue", "black", "red", "white"), SIZE)
    assert list(mask) == ["white", "black", "red", "blue"]
    for place, label in ((5, "blue"), (15, "black"), (25, "red"), (35, "white")):
        for name, part in mask.items():
            assert part[0, 16, place, 0] == (name == label)
    np.testing.assert_allclose(sum(mask.values()), 1.0)


def test_a_fringe_is_no_region():
    mask = labelled("red", "blue")
    mask[5, 19] = mask[6, 19] = (1, 0, 1)  # 2 of 1280 pixels
    assert list(read_mask("m", mask, SIZE)) == ["red", "blue"]


def test_a_mask_is_resized_softly_and_stretched_with_a_notice(caplog):
    mask = read_mask("content_mask", labelled("red", "green"), (16, 20))
    assert not caplog.records
    assert mask["red"].shape == (1, 16, 20, 1)
    np.testing.assert_allclose(mask["red"] + mask["green"], 1.0, atol=1e-6)
    read_mask("content_mask", halves(), (20, 20))
    assert [record.getMessage() for record in caplog.records] == [
        "content_mask: 40×32 pixels are stretched to the proportions of 20×20"
    ]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((8, 8)), "protect: no part is white; paint white what is kept"),
        (np.ones((8, 8)), "protect: all is white; paint"),
        (labelled("white", "red", "black"), "protect: the mask has colours"),
    ],
)
def test_what_protects_nothing_is_refused(mask, said):
    with pytest.raises(UsageError, match=said):
        read_protection(mask, SIZE)


# Which style each region takes.


def test_regions_take_styles_in_order():
    mask = read_mask("m", labelled("red", "white", "blue"), SIZE)
    shares, labels = assign_styles([1, 5, 2], mask, None)
    assert labels == ["white", "red", "blue"]
    np.testing.assert_array_equal(shares, np.eye(3))


def test_without_masks_weights_are_shares():
    shares, labels = assign_styles([3, 1], None, None)
    assert labels == ["white"]
    np.testing.assert_allclose(shares, [[0.75], [0.25]])


def test_labels_blend_the_styles_that_have_them():
    mask = read_mask("m", labelled("red", "blue"), SIZE)
    both = read_mask("m", labelled("red", "blue", "green"), SIZE)
    shares, labels = assign_styles([1, 3], mask, [both, {"blue": both["blue"]}])
    assert labels == ["red", "blue"]
    np.testing.assert_allclose(shares, [[1, 0.25], [0, 0.75]])


def test_what_does_not_fit_together_is_refused():
    mask = read_mask("m", labelled("red", "blue"), SIZE)
    one = {"red": mask["red"]}
    for arguments, said in (
        (([1, 1, 1], mask, None), r"2 regions \(red, blue\), but there are 3 styles"),
        (([1], mask, None), r"2 regions \(red, blue\), but there is 1 style; give"),
        (([1], one, None), "content_mask has one region only, red; paint each"),
        (([1], mask, [one]), "no style has a region for blue, which content_mask has"),
        (([1], None, [one]), "no part of a style_mask is white"),
        (([1, 1], mask, [mask]), "style_mask: 1 mask for 2 styles; give one for each"),
    ):
        with pytest.raises(UsageError, match=said):
            assign_styles(*arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"style": []}, "no style picture"),
        ({"weights": (0, 0)}, "the weights of the styles are 0, 0; give numbers"),
        ({"weights": (1, -1)}, "the weights of the styles are 1, -1; give numbers"),
        ({"style_scale": (1, 2, 3)}, "style_scale has 3 numbers for 2 styles; give"),
        ({"style_scale": (0,)}, "numbers from 0.05 to 20"),
        ({"protect": halves(1, 0.9)}, "protect: all is white"),
        ({"color_strength": 1.5}, "color_strength=1.5: give a number from 0 to 1"),
    ],
)
def test_a_plan_that_cannot_be(content, style, options, said):
    options = dict(options)
    weights = options.pop("weights", (1, 1))
    styles = options.pop("style", [(style, weight) for weight in weights])
    with pytest.raises(UsageError, match=said):
        read(content, styles, **options)


def test_what_is_masked_must_not_be_all_protected(content, style):
    with pytest.raises(UsageError, match="nothing is left to stylize: all is"):
        read(content, style, content_mask=halves(), protect=halves())


def test_masks_need_a_content_picture(style):
    with pytest.raises(UsageError, match="needs a content picture"):
        read(None, style, content_weight=0.0, protect=halves())


def test_styles_have_sizes_and_folders_share_their_weight(tmp_path, content, style):
    for name in ("a.png", "b.png"):
        tfstyle.save_image(style, tmp_path / name)
    plan = read(
        content, {str(tmp_path): 1.0, str(tmp_path / "a.png"): 3.0}, style_scale=(0.5,)
    )
    np.testing.assert_allclose(plan.shares[:, 0], [0.125, 0.125, 0.75])
    assert [s.picture.shape for s in plan.styles] == [(1, 18, 14, 3)] * 3
    plan = read(content, [style, style], style_scale=(2.0, 0.25), size=20)
    assert [s.picture.shape[1:3] for s in plan.styles] == [(40, 31), (5, 4)]


# Guides.


def test_guides_are_means_over_the_cells_of_a_layer():
    parts = np.random.default_rng(1).random((1, 13, 10, 2)).astype("float32")

    class Extractor:
        fields: ClassVar = {
            "a": Field(1, 1, 1),
            "b": Field(4, 3, 3),
            "c": Field(2, 0, 3),
        }

        @staticmethod
        def shapes(height, width):
            return {"a": (13, 10, 7), "b": (3, 2, 7), "c": (6, 4, 7)}

    made = guides(parts, Extractor, ["a", "b", "c"])
    np.testing.assert_array_equal(made["a"], parts)
    expected = parts[0, 4:8, 0:4].mean((0, 1))
    np.testing.assert_allclose(made["b"][0, 1, 0], expected, rtol=1e-6)
    # The middle of what c sees lies one pixel further.
    expected = parts[0, 5:7, 3:5].mean((0, 1))
    np.testing.assert_allclose(made["c"][0, 2, 1], expected, rtol=1e-6)


@pytest.mark.parametrize("backbone", ["slim19", "squeezenet"])
def test_guides_follow_what_a_layer_sees(backbone, shared):
    """A white spot of the mask guides the features that the same spot changes most."""
    weights = "imagenet"
    layers = ["relu1_1", "relu3_1"]
    if backbone == "squeezenet":
        weights = shared / "weights" / "squeezenet_notop.h5"
        layers = ["fire2/concat", "fire4/concat"]
        if not weights.exists():
            pytest.skip("needs SqueezeNet's weights")
    extract = FeatureExtractor(backbone, layers, weights=weights)
    blank = np.full((1, 96, 96, 3), 0.5, "float32")
    spot, mask = blank.copy(), np.zeros((1, 96, 96, 1), "float32")
    spot[:, 60:68, 28:36] = mask[:, 60:68, 28:36] = 1.0
    before, after = extract(tf.constant(blank)), extract(tf.constant(spot))
    for layer, guide in guides(mask, extract, layers).items():
        change = tf.reduce_sum(tf.square(after[layer] - before[layer]), -1)[0].numpy()
        places = np.indices(change.shape)
        centre = (places * change).sum((1, 2)) / change.sum()
        expected = (places * guide[0, ..., 0]).sum((1, 2)) / guide.sum()
        np.testing.assert_allclose(centre, expected, atol=0.6)


# Runs.


RUN = {"scales": 1, "steps": 40, "margin": 4, "tv_weight": 0.0, "content_weight": 0.01}


def grams_of(loss, picture):
    features = loss.features(tf.constant(picture))
    return [gram_matrix(features[layer]) for layer in loss.style_layers]


def distance(ours, theirs):
    return np.mean(
        [
            float(tf.reduce_sum((a - b) ** 2) / tf.reduce_sum(b**2))
            for a, b in zip(ours, theirs, strict=True)
        ]
    )


def test_each_region_is_nearest_to_its_own_style(tiny_backbone, content, style):
    other = np.ascontiguousarray(1 - style[:, ::-1] ** 3)
    result = tfstyle.stylize(
        content, [style, other], content_mask=halves(), color="free", **RUN
    )
    loss = perceptual_loss(Options())
    wanted = [grams_of(loss, picture) for picture in (style, other)]
    parts = [grams_of(loss, result.images[:, :, x]) for x in (np.s_[:18], np.s_[22:])]
    table = [[distance(part, want) for want in wanted] for part in parts]
    assert table[0][0] < 0.5 * table[0][1]
    assert table[1][1] < 0.5 * table[1][0]


def test_a_region_takes_what_has_its_label_in_the_style(tiny_backbone, content, style):
    both = np.concatenate([style, 1 - style], 2)
    mask = np.zeros((*both.shape[1:3], 3), "float32")
    mask[:, : style.shape[2]], mask[:, style.shape[2] :] = (1, 0, 0), (0, 0, 1)
    result = tfstyle.stylize(
        content,
        both,
        content_mask=labelled("blue", "red"),
        style_mask=mask,
        color="free",
        **RUN,
    )
    loss = perceptual_loss(Options())
    left = grams_of(loss, result.images[:, :, :18])
    assert distance(left, grams_of(loss, 1 - style)) < 0.5 * distance(
        left, grams_of(loss, style)
    )


@pytest.fixture(scope="module")
def stylizer_of():
    """A stylizer for each optimizer; colours are no part of its graphs."""

    @functools.cache
    def make(optimizer):
        return Stylizer(**{**RUN, "steps": 6, "scales": 2, "optimizer": optimizer})

    return make


@pytest.mark.parametrize("color", ["style", "content", "free"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_no_protected_pixel_changes(
    tiny_backbone, stylizer_of, content, style, color, optimizer
):
    stylizer, seen = stylizer_of(optimizer), []
    protect = halves(1.0, 0.0)
    protect[:, 20:24] = 0.5
    coloured = stylizer.with_options(color=color)
    assert coloured.engine is stylizer.engine
    result = coloured(
        content,
        style,
        protect=protect,
        callbacks=[lambda progress: seen.append(progress.image())],
    )
    np.testing.assert_array_equal(result.images[:, :, :20], content[:, :, :20])
    assert np.abs(result.images - content)[:, :, 24:].mean() > 0.01
    soft = np.abs(result.images - content)[:, :, 20:24].mean()
    assert 0 < soft < np.abs(result.images - content)[:, :, 24:].mean()
    np.testing.assert_allclose(seen[-1][:, :, :20], content[:, :, :20], atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_protected_pixels_are_not_even_optimised(
    tiny_backbone, content, style, optimizer, monkeypatch
):
    monkeypatch.setattr(Run, "_shown", lambda self, picture: picture)
    options = {**RUN, "steps": 6, "color": "free", "optimizer": optimizer}
    result = tfstyle.stylize(content, style, protect=halves(), **options)
    np.testing.assert_array_equal(result.images[:, :, :20], content[:, :, :20])
    assert np.abs(result.images - content)[:, :, 20:].mean() > 0.01


def test_what_is_protected_is_no_part_of_the_style(tiny_backbone, content, style):
    stylizer = Stylizer(color="free", **RUN)
    pictures = stylizer.read(content, style, protect=halves())
    problem = Run(stylizer.engine, stylizer.options, pictures).problem
    cut = problem.planner.cut((40, 48), [style.shape[1:3]], 1, 0)
    targets = problem.targets(SIZE, cut)
    for layer, area in targets.areas.items():
        whole = np.prod(targets.guides[layer].shape[1:3])
        assert 0.4 < float(area[0]) / whole < 0.6


def test_one_style_leaves_black_as_it_is(tiny_backbone, content, style):
    result = tfstyle.stylize(
        content, style, content_mask=halves(1.0, 0.0), **{**RUN, "steps": 5}
    )
    np.testing.assert_array_equal(result.images[:, :, 20:], content[:, :, 20:])
    assert np.abs(result.images - content)[:, :, :20].mean() > 0.01


def test_equal_weights_bring_both_styles_equally_near(tiny_backbone, content, style):
    dark = (style[:, ::-1, :, ::-1] * 0.7).astype("float32")  # a smaller Gram matrix
    options = {**RUN, "color": "free", "content_weight": 0.0, "init": "content"}
    options["style_loss"] = "gram"
    result = tfstyle.stylize(content, [style, dark], **options)
    loss = perceptual_loss(Options(style_loss="gram"))
    wanted = [grams_of(loss, picture) for picture in (style, dark)]
    one, two = (distance(grams_of(loss, result.images), want) for want in wanted)
    assert 0.5 < one / two < 2
    heavy = tfstyle.stylize(content, [(style, 9.0), (dark, 1.0)], **options)
    assert distance(grams_of(loss, heavy.images), wanted[0]) < 0.3 * one


def test_texture_of_the_white_part_of_a_style(tiny_backbone, style):
    both = np.concatenate([style, 1 - style], 2)
    mask = halves(height=36, width=56)
    result = tfstyle.synthesize_texture(
        both, 40, 32, style_mask=mask, steps=40, scales=1
    )
    loss = perceptual_loss(Options(style_loss="gram"))
    ours = grams_of(loss, result.images)
    assert distance(ours, grams_of(loss, style)) < 0.3 * distance(
        ours, grams_of(loss, 1 - style)
    )


@pytest.mark.parametrize(
    ("optimizer", "style_loss"), [("adam", "gram"), ("lbfgs", "wasserstein")]
)
def test_mask_colour_blend_tiles_and_checkpoint_at_once(
    tiny_backbone, tmp_path, content, style, optimizer, style_loss, monkeypatch
):
    other = np.ascontiguousarray(1 - style[:, ::-1])
    red, blue = labelled("red", "blue"), labelled("blue", "red")
    protect = np.zeros(SIZE)
    protect[:8, :8] = 1
    arguments = {
        "content": content,
        "style": [(style, 0.7), (other, 0.3)],
        "content_mask": red,
        "style_mask": [red[:, ::-1], blue],
        "protect": protect,
        "color": "content",
        "laplacian_weight": 0.05,
        "style_scale": (1.0, 0.8),
        "scales": 1,
        "steps": 16,
        "margin": 4,
        "optimizer": optimizer,
        "style_loss": style_loss,
    }
    whole = tfstyle.stylize(**arguments)
    np.testing.assert_array_equal(whole.images[:, :8, :8], content[:, :8, :8])

    tiles = []
    monkeypatch.setattr(memory, "RUNTIME", 0.0)
    for name in ("_ADAM_COPIES", "_LBFGS_COPIES", "_COPIES_PER_PAIR", "_LEAST_TILE"):
        monkeypatch.setattr(memory, name, 0.0)
    cut = memory.MemoryPlanner.cut

    def counted(*words):
        tiles.append(cut(*words).tiles)
        return cut(*words)

    monkeypatch.setattr(memory.MemoryPlanner, "cut", counted)
    tiled = {**arguments, "max_memory": 4e-4, "checkpoint": tmp_path}
    stop = [lambda progress: progress.step >= 5]
    stopped = tfstyle.stylize(**tiled, callbacks=stop)
    assert stopped.stopped and min(tiles) > 1
    result = tfstyle.stylize(**tiled)
    assert len(result.history["step"]) >= len(whole.history["step"]) - 2
    np.testing.assert_allclose(
        result.history["total"][0], whole.history["total"][0], rtol=1e-5
    )
    np.testing.assert_allclose(result.images, whole.images, atol=0.03)
    np.testing.assert_array_equal(result.images[:, :8, :8], content[:, :8, :8])
