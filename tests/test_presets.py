import re

import pytest
from absl import flags

from tfstyle.cli import main as cli
from tfstyle.cli import stylize
from tfstyle.cli.flags import parse, values_of
from tfstyle.errors import UsageError
from tfstyle.options import STYLIZE, Options
from tfstyle.options.presets import preset_names, preset_options, preset_source

# The assignment: content weight, style weights of layers 1, 4, 6, 7, total variation,
# size of the style picture.
PUBLISHED = {
    "cs231n-composition-vii-torch": (5e-2, (20000, 500, 12, 1), 5e-2, 512),
    "cs231n-the-scream-torch": (3e-2, (200000, 800, 12, 1), 2e-2, 224),
    "cs231n-starry-night-torch": (6e-2, (300000, 1000, 15, 3), 2e-2, 192),
    "cs231n-feature-inversion-torch": (6e-2, (300000, 1000, 15, 3), 2e-2, 192),
    "cs231n-texture-torch": (0, (300000, 1000, 15, 3), 2e-2, 192),
}
SQUEEZENET = [name for name in preset_names() if name.startswith("cs231n")]


def options_of(preset: str, *words: str) -> Options:
    """What ``tfstyle stylize --preset=...`` would run with."""
    values = flags.FlagValues()
    stylize.define_flags(values)
    parse(values, ["stylize", f"--preset={preset}", *words])
    return STYLIZE.options(values_of(values, STYLIZE.fields))


@pytest.mark.parametrize("name", preset_names())
def test_preset_names_known_flags_and_layers_and_its_source(name):
    from tfstyle.backbones import get_backbone

    options = options_of(name)
    backbone = get_backbone(options.backbone)
    layers = [*(options.content_layers or ()), *(options.style_layers or ())]

    assert layers and set(layers) <= set(backbone.layers)
    assert options.color == "free"  # no experiment does
    assert (options.style_loss, options.style_scale) == ("gram", (1.0,))
    assert re.search(r"CS231n|Gatys|VGG-19", " ".join(preset_source(name)))


def test_the_published_experiments_are_there():
    wanted = {"gatys-vgg19", "vgg19-lbfgs-1e4", "vgg19-lbfgs-1e6", *PUBLISHED}
    wanted |= {name.removesuffix("-torch") for name in PUBLISHED}

    assert wanted <= set(preset_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_torch_presets_have_the_published_numbers(name):
    content_weight, style_weights, tv_weight, style_size = PUBLISHED[name]
    options = options_of(name)

    assert options.content_weight == content_weight
    if "texture" not in name:
        assert options.content_layers == {"3": 1.0}
    assert options.style_weight == (0 if "inversion" in name else 1)
    if "inversion" not in name:
        assert options.style_layers == dict(zip("1467", style_weights, strict=True))
        assert options.style_size == style_size
    assert options.tv_weight == tv_weight
    assert (options.size, options.size_of) == (192, "shortest")


@pytest.mark.parametrize("name", SQUEEZENET)
def test_the_assignments_presets_share_its_optimiser(name):
    options = options_of(name)

    assert (options.normalization, options.space) == ("sum", "normalized")
    assert (options.optimizer, options.schedule) == ("adam", "piecewise")
    assert (options.learning_rate, options.final_learning_rate) == (3, 0.1)
    assert (options.decay_step, options.steps, options.scales) == (180, (200,), 1)
    assert (options.clamp, options.clamp_until) == ((-1.5, 1.5), 180)
    from_noise = "inversion" in name or "texture" in name
    assert options.init == ("noise" if from_noise else "content")


@pytest.mark.parametrize("ratio", [1e4, 1e6])
def test_lbfgs_presets_are_the_published_experiment(ratio):
    options = options_of(f"vgg19-lbfgs-{ratio:.0e}".replace("+0", ""))

    assert options.style_weight / options.content_weight == ratio
    assert list(options.content_layers) == ["block2_conv2"]
    assert list(options.style_layers) == [
        *("block1_conv1", "block1_conv2", "block2_conv1", "block2_conv2"),
        "block3_conv1",
    ]
    assert (options.normalization, options.optimizer) == ("mean", "lbfgs")
    assert (options.steps, options.init, options.tv_weight) == ((1000,), "noise", 0)


def test_gatys_preset_is_the_published_experiment():
    options = options_of("gatys-vgg19")

    assert list(options.content_layers) == ["relu4_2"]
    assert list(options.style_layers) == [f"relu{i}_1" for i in range(1, 6)]
    assert (options.normalization, options.init) == ("gatys", "noise")
    assert options.steps == (1000,)


def test_single_flags_override_a_preset():
    options = options_of("cs231n-starry-night", "--steps=7", "--tv_weight=0.5")

    assert (options.steps, options.tv_weight) == ((7,), 0.5)
    assert options.normalization == "sum"


def test_unknown_preset_offers_the_nearest():
    with pytest.raises(UsageError, match="did you mean cs231n-starry-night"):
        preset_options("starry-night")


def test_preset_of_a_training_is_told_where_a_picture_is_made():
    with pytest.raises(UsageError, match="johnson is for tfstyle train"):
        preset_options("johnson")
    with pytest.raises(UsageError, match="gatys-vgg19 is for tfstyle stylize"):
        preset_options("gatys-vgg19", "training")


def test_preset_that_is_like_none_offers_all():
    with pytest.raises(UsageError, match=r"the presets are cs231n-.*, vgg19-"):
        preset_options("zzz")


def run_preset(tmp_path, command, preset, *words):
    output = tmp_path / "out.png"
    code = cli.main([command, f"--preset={preset}", f"--output={output}", *words])
    return code, output


@pytest.mark.parametrize("name", [n for n in SQUEEZENET if "torch" not in n])
def test_squeezenet_presets_run(shared, tmp_path, name):
    command = "stylize"
    words = [f"--content={shared}/images/content/tubingen.jpg"]
    words += [f"--style={shared}/images/style/starry_night.jpg"]
    if "texture" in name:
        command, words = "texture", words[1:]
    if "inversion" in name:
        command, words = "invert", words[:1]
    weights = f"{shared}/weights/squeezenet_v1.1_imagenet_notop.h5"
    size = "--style_size=64" if command == "texture" else "--size=64"

    code, output = run_preset(
        tmp_path, command, name, *words, f"--weights={weights}", size, "--steps=3"
    )

    assert code == 0 and output.is_file()


def test_lbfgs_preset_needs_only_the_first_five_convolutions(shared, tmp_path):
    code, output = run_preset(
        tmp_path,
        "stylize",
        "vgg19-lbfgs-1e6",
        f"--content={shared}/images/content/tubingen.jpg",
        f"--style={shared}/images/style/starry_night.jpg",
        f"--weights={shared}/weights/vgg19_normalised_to_block3_conv1.npz",
        "--size=64",
        "--steps=3",
    )

    assert code == 0 and output.is_file()


def test_gatys_preset_runs_on_the_bundled_network(pictures, tmp_path):
    code, output = run_preset(
        tmp_path, "stylize", "gatys-vgg19", *pictures, "--backbone=slim19", "--steps=4"
    )

    assert code == 0 and output.is_file()


@pytest.fixture
def pictures(tmp_path, content, style):
    from tfstyle import resize_image, save_image

    for name, picture in (("content", content), ("style", style)):
        save_image(resize_image(picture, (48, 64)), tmp_path / f"{name}.png")
    return [f"--{name}={tmp_path / name}.png" for name in ("content", "style")]
