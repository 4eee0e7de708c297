"""Tests of the one-line functions: pictures that are read, and what comes of them."""

import gc
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import tfstyle
from tfstyle.errors import ImageError, UsageError
from tfstyle.options import INVERT, TEXTURE
from tfstyle.stylizer import Stylizer
from tfstyle.stylizer import run as run_module
from tfstyle.stylizer.run import Run

FEW = {"steps": 4, "scales": 1, "margin": 0, "color": "free", "optimizer": "adam"}
FEW["style_loss"] = "gram"  # whose graph is the smallest


def levels(picture):
    return np.rint(255 * picture[0]).astype("uint8")


def read(content, style, **options):
    """The pictures of a run, with the style picture as large as it is."""
    return Stylizer(**{"style_scale": (1.0,), **options}).read(content, style)


def graphs():
    return sum(type(item).__name__ == "FuncGraph" for item in gc.get_objects())


@pytest.fixture
def sources(content, tmp_path):
    """One picture in every form that is accepted."""
    pixels = levels(content)
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    floats = pixels.astype("float32") / np.float32(255)
    return {
        "path": path,
        "string": str(path),
        "PIL": Image.fromarray(pixels),
        "uint8": pixels,
        "float": floats,
        "batch": floats[None],
        "tensor": tf.constant(floats[None]),
    }


# Pictures.


def test_every_form_of_a_picture_is_read_alike(sources):
    plans = [read(source, source, color="free") for source in sources.values()]
    for plan in plans:
        assert plan.content.shape == (1, 32, 40, 3)
        assert plan.size == (32, 40)
        for picture in (plan.content, plan.styles[0].picture, plan.start):
            np.testing.assert_array_equal(picture, plans[0].content)


def test_every_form_of_a_picture_gives_the_same_result(tiny_backbone, sources, style):
    images = [
        tfstyle.stylize(sources[kind], style, **FEW).images.tobytes()
        for kind in ("path", "tensor")
    ]
    assert len(set(images)) == 1


def test_the_result_has_the_proportions_of_the_content(content, style):
    plan = read(content, style, size=20)
    assert plan.size == (16, 20)
    assert plan.content.shape == (1, 16, 20, 3)
    assert plan.styles[0].picture.shape == (1, 20, 16, 3)  # of 36 × 28
    plan = read(content, style, size=16, size_of="shortest", style_size=14)
    assert plan.content.shape == (1, 16, 20, 3)
    assert plan.styles[0].picture.shape == (1, 18, 14, 3)
    plan = read(content, style, size=80)
    assert plan.size == (32, 40)
    plan = read(content, style, size=80, allow_upscale=True)
    assert plan.size == (64, 80)


def test_strokes_are_one_and_a_half_times_as_large_by_default(content, style):
    plan = Stylizer().read(content, style)
    assert plan.styles[0].picture.shape == (1, 54, 42, 3)  # of 36 × 28


def test_starts(content, style, sources):
    assert read(content, style, init="noise").start == "noise"
    assert read(content, style, init="normal").start == "normal"
    for init, picture in (("content", content), ("style", style)):
        plan = read(content, style, init=init, color="free")
        np.testing.assert_array_equal(plan.start, picture)
    plan = read(style, style, init=sources["path"])
    assert plan.start.shape == (1, 32, 40, 3)
    assert plan.size == (36, 28)


def test_a_start_may_be_of_another_size(tiny_backbone, content, style):
    options = {"learning_rate": 1e-7, "init": "style", "style_scale": (1.0,)}
    result = tfstyle.stylize(content, style, **options, **FEW)
    expected = tfstyle.resize_image(style, (32, 40))
    np.testing.assert_allclose(result.images, expected, atol=1e-5)


def test_the_content_takes_the_colours_of_the_style(content, style):
    def colours(picture):
        pixels = picture.reshape(-1, 3)
        return [pixels.mean(0), *np.cov(pixels.T)]

    plan = read(content, style)
    np.testing.assert_allclose(colours(plan.content), colours(style), atol=0.02)
    assert not np.allclose(colours(content), colours(style), atol=0.02)
    np.testing.assert_array_equal(plan.start, plan.content)
    np.testing.assert_array_equal(plan.styles[0].picture, style)


@pytest.mark.parametrize(
    "options", [{"color": "free"}, {"style_weight": 0.0}, {"content_weight": 0.0}]
)
def test_the_content_keeps_its_colours(content, style, options):
    plan = read(content, style, **options)
    np.testing.assert_array_equal(plan.start, content)


# What is refused.


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("s", {}, "no content picture: give one, or content_weight=0"),
        ("c", {}, "no style picture: give one, or style_weight=0"),
        ("", {"content_weight": 0.0}, "no style picture: give one, or style_weight=0"),
        (
            "",
            {"style_weight": 0.0},
            "no content picture: give one, or content_weight=0",
        ),
        (
            "cs",
            {"content_weight": 0.0, "style_weight": 0.0},
            "content_weight and style_weight are both 0: give one of them",
        ),
        (
            "s",
            {"content_weight": 0.0},
            "init=content: there is no content picture to start from",
        ),
        (
            "c",
            {"style_weight": 0.0, "init": "style"},
            "init=style: there is no style picture to start from",
        ),
        ("cs", {"sise": 3}, "stylize has no option 'sise'; did you mean size"),
        ("cs", {"size": 0}, "size=0: give a whole number of at least 1"),
        ("cs", {"backbone": "x"}, "backbone='x': give one of slim19, vgg19"),
        (
            "cs",
            {"style_layers": ["relu9_1"], "content_weight": 0.0},
            "style_layers: slim19 has no layer 'relu9_1'; did you mean relu",
        ),
        ("cs", {"content_layers": {}}, "content_layers is empty: name at least one"),
        ("cs", {"scales": 4}, "a picture of 5×4 pixels is too small for the layers"),
    ],
)
def test_what_cannot_be_done_is_refused(content, style, given, options, message):
    pictures = (content if "c" in given else None, style if "s" in given else None)
    with pytest.raises(UsageError) as caught:
        tfstyle.stylize(*pictures, **options)
    assert str(caught.value).startswith(message)


def test_what_is_wrong_with_the_other_recipes(content, style):
    with pytest.raises(UsageError, match="no content picture"):
        tfstyle.invert_features(None)
    with pytest.raises(UsageError, match="slim19 has no layer 'nowhere'"):
        tfstyle.invert_features(content, "nowhere")
    with pytest.raises(UsageError, match="no style picture: give one"):
        tfstyle.synthesize_texture(None)
    with pytest.raises(UsageError, match="width=0: give a whole number of at least 1"):
        tfstyle.synthesize_texture(style, 0, 5)
    with pytest.raises(UsageError, match="height=-3: give a whole number"):
        tfstyle.synthesize_texture(style, height=-3)
    with pytest.raises(UsageError, match="texture has no option 'scale'"):
        tfstyle.synthesize_texture(style, scale=3)


def test_files_that_are_no_pictures(tmp_path, style):
    with pytest.raises(UsageError, match=r"missing\.png"):
        tfstyle.stylize(tmp_path / "missing.png", style)
    text = tmp_path / "text.png"
    text.write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.png"):
        tfstyle.stylize(style, text)


# Pictures without a weight.


def test_a_picture_without_weight_is_not_compared_with(tiny_backbone, content, style):
    with_style = tfstyle.stylize(content, style, style_weight=0.0, **FEW)
    without = tfstyle.stylize(content, None, style_weight=0.0, **FEW)
    assert list(with_style.history)[3:] == ["content/block3_conv1", "total_variation"]
    np.testing.assert_array_equal(with_style.images, without.images)


def test_content_may_be_a_start_only(tiny_backbone, content, style):
    result = tfstyle.stylize(content, style, content_weight=0.0, tv_weight=0.0, **FEW)
    assert list(result.history)[3:] == [f"style/block{i}_conv1" for i in (1, 2, 3)]
    moved = np.abs(result.images - content).mean()
    assert 0.001 < moved < 0.1


# The recipes.


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_runs_leave_no_graphs_behind(tiny_backbone, content, style, optimizer):
    def runs(count):
        for _ in range(count):
            tfstyle.stylize(content, style, **{**FEW, "optimizer": optimizer})

    gc.disable()  # where objects are many, it is as good as that
    try:
        runs(1)  # what is kept for good is there from now on
        before = graphs()
        runs(2)
        assert graphs() == before
    finally:
        gc.enable()


def test_a_large_picture_is_finished_without_the_optimizers_state(
    tiny_backbone, content, style, monkeypatch
):
    def result(run, picture):
        held.append(sum(program.bytes for program in run._engine._programs.values()))
        return taken(run, picture)

    taken, held = Run._result, []
    monkeypatch.setattr(Run, "_result", result)
    for large in (10**9, 1):
        monkeypatch.setattr(run_module, "LARGE", large)
        tfstyle.stylize(content, style, **FEW)
    small, large = held
    assert large < 100 < content.nbytes < small


def test_the_result_is_a_view_that_cannot_be_written(tiny_backbone, content, style):
    result = tfstyle.stylize(content, style, **FEW)
    assert isinstance(result.images, np.ndarray)
    assert not result.images.flags.writeable
    assert result.images.copy().flags.writeable


def test_cells_of_a_sweep_leave_no_graphs_behind(tiny_backbone, content, style):
    counts = []
    gc.disable()
    try:
        for _ in tfstyle.sweep(content, style, {"seed": [1, 2, 3, 4]}, **FEW):
            counts.append(graphs())
    finally:
        gc.enable()
    assert counts[1:] == counts[1:2] * 3


@pytest.mark.parametrize("callbacks", [print, [print, 1], 3, None])
def test_callbacks_that_cannot_be_called_are_refused(
    content, style, no_tensorflow, callbacks
):
    for call in (tfstyle.stylize, tfstyle.Stylizer()):
        with pytest.raises(UsageError, match=r"callbacks=.*give a list"):
            call(content, style, callbacks=callbacks)


def test_arguments_of_another_type_are_refused_by_name(content, style, tmp_path):
    for given, options, said in (
        ((content, {"a.png": "x"}), {}, "style: the weight 'x' is not a number"),
        ((content, [(style, None)]), {}, "style: the weight None is not a number"),
        ((content, style), {"checkpoint": 3}, "checkpoint is of type int; give a path"),
        ((content, style), {"checkpoint_every": "x"}, "checkpoint_every='x': give a"),
    ):
        with pytest.raises(UsageError, match=said):
            tfstyle.stylize(*given, **options)
    with pytest.raises(UsageError, match=r"grid=\[1\]: give a mapping from options"):
        tfstyle.sweep(content, style, [1])
    with pytest.raises(UsageError, match="style=3: give the name of a style"):
        tfstyle.apply_style(content, 3)


def test_a_stylizer_shows_the_options_that_were_chosen():
    assert repr(Stylizer(size=64, style_weight=1.0)) == "Stylizer(size=64)"


def test_messages_about_callbacks_have_names_and_no_addresses(content, style):
    class Watch:
        pass

    def watch(progress):
        pass

    for callbacks, said in (
        (watch, "callbacks=watch:"),
        (Watch(), r"callbacks=Watch\(\):"),
        ([watch, 1], r"callbacks=\[watch, 1\]:"),
    ):
        with pytest.raises(UsageError, match=said):
            tfstyle.stylize(content, style, callbacks=callbacks)
    with pytest.raises(UsageError, match=r"callbacks=\[watch\]: give a function"):
        tfstyle.sweep(content, style, {"seed": [1]}, callbacks=[watch])
    for function in (tfstyle.sweep, tfstyle.Stylizer.sweep):
        assert " at 0x" not in str(inspect.signature(function))


def test_stylize_calls_back_and_counts(tiny_backbone, content, style):
    steps = []
    result = tfstyle.stylize(
        content,
        style,
        callbacks=[lambda progress: steps.extend(progress.row_steps.tolist())],
        **FEW,
    )
    assert steps == result.history["step"] == [1, 2, 3, 4]
    assert result.images.shape == content.shape


def test_invert_features_finds_the_picture_again(tiny_backbone, content):
    start, result = (
        tfstyle.invert_features(
            content, "relu1_1", steps=steps, learning_rate=0.05, tv_weight=0.0
        )
        for steps in (1, 150)
    )
    assert result.images.shape == content.shape
    assert list(result.history)[3:] == ["content/relu1_1"]
    losses = result.history["content/relu1_1"]
    assert losses[-1] < losses[0] / 100
    before, after = (np.abs(x.images - content).mean() for x in (start, result))
    assert before > 0.2  # noise
    assert after < before / 5


def test_invert_features_has_defaults_of_its_own(content):
    stylizer = Stylizer.for_recipe(INVERT, {})
    pictures, options = stylizer.read(content, None), stylizer.options
    assert pictures.styles == () and pictures.start == "noise"
    assert (options.content_weight, options.tv_weight) == (1.0, 1.0)
    assert options.style_weight == 0.0 and options.content_layers is None
    given = {"tv_weight": 0.0, "init": "content"}
    stylizer = Stylizer.for_recipe(INVERT, given)
    assert stylizer.options.tv_weight == 0.0
    np.testing.assert_array_equal(stylizer.read(content, None).start, content)


def test_synthesize_texture_has_the_statistics_and_not_the_picture(
    tiny_backbone, style
):
    result = tfstyle.synthesize_texture(style, 40, 24, steps=120, learning_rate=0.05)
    assert result.images.shape == (1, 24, 40, 3)
    assert list(result.history)[3:] == [f"style/block{i}_conv1" for i in (1, 2, 3)]
    totals = result.history["total"]
    assert totals[-1] < totals[0] / 20
    np.testing.assert_allclose(
        result.images.mean((0, 1, 2)), style.mean((0, 1, 2)), atol=0.1
    )
    part = result.images[:, :, :28] - style[:, :24]
    assert np.abs(part).mean() > 0.05


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (None, None, (36, 28)),
        (50, None, (36, 50)),
        (None, 20, (20, 28)),
        (9, 8, (8, 9)),
    ],
)
def test_sizes_of_textures(style, width, height, expected):
    stylizer = Stylizer.for_recipe(TEXTURE, {})
    pictures = stylizer.read_texture(style, width, height)
    assert pictures.size == expected
    assert pictures.content is None and pictures.start == "noise"
    assert pictures.styles[0].picture.shape == style.shape
    options = stylizer.options
    assert (options.content_weight, options.tv_weight) == (0.0, 0.0)


def test_textures_of_a_smaller_style(style):
    stylizer = Stylizer.for_recipe(TEXTURE, {"style_size": 18})
    plan = stylizer.read_texture(style, 50, 40)
    assert plan.styles[0].picture.shape == (1, 18, 14, 3)
    assert plan.size == (40, 50)


# L-BFGS and Adam on a true network.


def starry_night(shared, optimizer, backbone, weights, **options):
    path = shared / "weights" / weights
    if not path.is_file():
        pytest.skip(f"needs {path}; set TFSTYLE_SHARED to the folder that has it")
    return tfstyle.stylize(
        shared / "images" / "content" / "tubingen.jpg",
        shared / "images" / "style" / "starry_night.jpg",
        **{"backbone": backbone, "weights": path, "optimizer": optimizer},
        **{"size": 64, "scales": 1, "margin": 0, "steps": 40, "style_loss": "gram"},
        **options,
    ).history


@pytest.mark.parametrize(
    ("backbone", "weights", "layers"),
    [
        (
            "vgg19",
            "vgg19_normalised_to_block3_conv1.npz",
            {
                "content_layers": ["relu3_1"],
                "style_layers": ["relu1_1", "relu2_1", "relu3_1"],
            },
        ),
        ("squeezenet", "squeezenet_v1.1_imagenet_notop.h5", {}),
    ],
)
def test_lbfgs_needs_fewer_evaluations_than_adam(shared, backbone, weights, layers):
    adam, lbfgs = (
        starry_night(shared, optimizer, backbone, weights, **layers)
        for optimizer in ("adam", "lbfgs")
    )
    assert adam["total"][0] == pytest.approx(lbfgs["total"][0], rel=1e-4)
    assert adam["total"][-1] < adam["total"][0] / 3
    below = np.array(lbfgs["total"]) < adam["total"][-1]
    needed = np.array(lbfgs["step"])[below].min(initial=10**6)
    assert needed <= 0.8 * adam["step"][-1]


# Imports.


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        timeout=60,
    )


def test_importing_tfstyle_imports_neither_tensorflow_nor_keras():
    done = python(
        "import sys, tfstyle\n"
        "assert callable(tfstyle.stylize)\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))"
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_what_is_wrong_is_refused_before_tensorflow_is_imported():
    done = python(
        "import sys, tfstyle, numpy as np\n"
        "picture = np.zeros([8, 8, 3], 'uint8')\n"
        "for arguments in ({'size': 0}, {'sise': 1}, {'init': 'missing.png'}):\n"
        "    try:\n"
        "        tfstyle.stylize(picture, picture, **arguments)\n"
        "    except tfstyle.UsageError as error:\n"
        "        print(error)\n"
        "print('tensorflow' in sys.modules)"
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stderr
    assert lines[0].startswith("size=0") and "sise" in lines[1]
    assert "missing.png" in lines[2]
    assert lines[3] == "False"


def test_names_that_are_imported_when_they_are_used():
    for name in tfstyle.__all__:
        assert getattr(tfstyle, name) is not None
    with pytest.raises(AttributeError, match="stylise"):
        _ = tfstyle.stylise


# Several pictures at once.


def test_a_batch_comes_out_as_its_pictures_do_alone(tiny_backbone, content, style):
    other = content[:, ::-1] ** 2
    options = {"size": 40, "steps": 6, "scales": 1, "optimizer": "adam"}
    options["style_loss"] = "gram"
    both = tfstyle.stylize([content[0], other[0]], style, **options)
    assert both.images.shape == (2, 32, 40, 3)
    for picture, source in zip(both.images, (content, other), strict=True):
        alone = tfstyle.stylize(source, style, **options)
        np.testing.assert_allclose(picture, alone.images[0], atol=2e-3)
    assert np.abs(both.images[0] - both.images[1]).mean() > 0.05


def test_a_batch_starts_from_noise_of_its_own(tiny_backbone, content, style):
    plan = read([content[0]] * 2, style, init="noise")
    stylizer = Stylizer(init="noise")
    first, second = stylizer.run(plan, [lambda progress: True]).images
    assert np.abs(first - second).mean() > 0.1


def test_a_batch_shares_a_start_of_one_picture(content, style):
    plan = read([content[0]] * 3, style, init="style")
    assert plan.start.shape == (3, *style.shape[1:])


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ([], "no content picture: the list is empty"),
        ([(8, 9), (8, 9), (12, 8)], r"several sizes \(9×8, 8×12\); a batch needs one"),
    ],
)
def test_wrong_batches_are_refused(style, sizes, problem):
    pictures = [np.zeros((*size, 3), "float32") for size in sizes]
    with pytest.raises(UsageError, match=problem):
        read(pictures, style)
