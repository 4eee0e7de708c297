"""Tests of the commands train, apply and export."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from absl.flags import FlagValues

from tfstyle import load_image, save_image
from tfstyle.cli import train as train_command
from tfstyle.cli.flags import parse, values_of
from tfstyle.networks.style_net import StyleNet, load_network, save_network
from tfstyle.options import TrainingOptions, fields_of
from tfstyle.options.presets import preset_names


def names_in(folder: str) -> list[str]:
    files = (path for path in Path(folder).rglob("[!.]*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in files)


TINY = ("--size=32", "--style_size=32", "--batch_size=2", "--width=4", "--blocks=0")
TRAIN = ("train", "--photos=photos", "--style=style.png", "--output=run", *TINY)


@pytest.fixture
def photos(folder):
    (folder / "photos").mkdir()
    for i in range(5):
        picture = np.roll(load_image("content.png"), 5 * i, axis=2)
        save_image(picture, f"photos/{i}.png")
    return folder / "photos"


@pytest.fixture
def model(folder):
    """The file of an untrained network with two very different styles."""
    keras.utils.set_random_seed(1)
    network = StyleNet(["dark", "light"], width=2, blocks=0)
    network.last.kernel.assign(np.full([9, 9, 2, 3], 0.05, "float32"))
    network.norms[-1].offset.assign([[-9.0, -9.0], [9.0, 9.0]])
    network.last.bias.assign([-3.0, -3.0, -3.0])
    save_network(network, "model.keras")
    return "--model=model.keras"


def test_train_writes_a_network_that_apply_takes(run, photos, tiny_backbone):
    code, out, err = run(*TRAIN, "--steps=3", "--log_dir=logs", "--sample_steps=2")
    assert (code, err) == (0, "")
    assert out.startswith("run: 3 steps, loss ")
    assert load_network("run").style_names == ["style"]
    assert list(Path("logs").iterdir())
    samples = ["step_000002_style.png", "step_000003_style.png"]
    assert names_in("run/samples") == samples
    assert load_image("run/progress.png").shape[1] > 100
    assert load_image("run/loss.png").shape[2] > 600
    code, out, err = run(
        "apply", "--model=run", "--content=content.png", "--output=o.png"
    )
    assert (code, out, err) == (0, "o.png: 1 picture\n", "")
    assert load_image("o.png").shape == load_image("content.png").shape


def test_train_goes_on_and_says_what_it_skipped(run, photos, tiny_backbone):
    (photos / "4.png").write_bytes(b"no picture")
    run(*TRAIN, "--steps=3")
    code, out, err = run(*TRAIN, "--steps=6", "--test_photo=content.png")
    assert code == 2  # other test photographs leave others to train on
    assert "begun with other settings" in err
    code, out, err = run(*TRAIN, "--steps=6")
    assert code == 0
    assert "6 steps" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--photos=none",), "none: no such folder"),
        (("--photos=empty",), "empty: there is no picture in this folder"),
        (("--style=none.png",), "none.png"),
        (("--style=style.png,photos/style.png",), "would both be called style"),
        (("--steps=0",), "steps=0: give a whole number of at least 1"),
        (("--size=8",), "size=8: give a whole number of at least 32"),
        (("--ema=1",), "--ema=1: give a number from 0 to below 1"),
        (("--width=0",), "width=0: give a whole number of at least 1"),
        (("--final_learning_rate=1",), "give a number from 0 to --learning_rate"),
        (("--sample_steps=1,x",), "--sample_steps=1,x: give whole numbers"),
        (("--weights=none.npz",), "--weights=none.npz: no such file"),
        (
            ("--preset=jonson",),
            "no preset 'jonson'; did you mean johnson or own-style?",
        ),
        (
            ("--style=", "--style_folder=photos", "--from=bundled"),
            "--from=bundled: has styles of its own; with --style_folder, give 'any'",
        ),
        (("--output=style.png",), "--output=style.png: the folder cannot be made"),
        (("--strategy=multiworker",), "TF_CONFIG must be JSON with 'cluster'"),
    ],
)
def test_train_refuses(refused, photos, tiny_backbone, words, message):
    (photos.parent / "empty").mkdir()
    code, err = refused(*TRAIN, *words)
    assert code == 2
    assert message in err


def test_the_preset_is_the_paper():
    assert preset_names("training") == ["any-style", "johnson", "own-style"]
    values = FlagValues()
    train_command.define_flags(values)
    parse(values, ["train", "--preset=johnson", "--steps=7"], presets="training")
    options = TrainingOptions(**values_of(values, fields_of(TrainingOptions)))
    assert (options.backbone, options.width, options.blocks) == ("vgg16", 32, 5)
    assert options.content_layers == {"relu3_3": 1}
    assert list(options.style_layers) == ["relu1_2", "relu2_2", "relu3_3", "relu4_3"]
    assert (options.learning_rate, options.batch_size, options.size) == (1e-3, 4, 256)
    assert (options.content_weight, options.style_weight) == (1, 5)
    assert options.steps == 7  # a flag overrides it


def test_apply_takes_styles_and_blends(run, folder, model):
    def brightness(*words):
        code, _, err = run("apply", model, "--content=content.png", *words)
        assert (code, err) == (0, "")
        return load_image("out.png").mean()

    dark = brightness("--output=out.png")
    light = brightness("--output=out.png", "--style_name=light")
    _, said, _ = run("apply", model, "--content=content.png", "--output=out.png")
    assert said == "out.png: 1 picture; style dark, the first of dark, light\n"
    half = brightness("--output=out.png", "--style_name=light:0.5,dark:0.5")
    assert dark + 0.05 < half < light - 0.05


def test_apply_gives_the_style_of_any_picture(run, folder):
    words = ("--size=48", "--strength=0.8", "--style_scale=0.5")
    code, out, err = run("apply", "content.png", "o.png", "--style=style.png", *words)
    assert (code, out, err) == (0, "o.png: 1 picture\n", "")
    network = load_network("any")
    wanted = network.stylize(
        "content.png", "style.png", size=48, strength=0.8, style_scale=0.5
    )
    np.testing.assert_allclose(load_image("o.png")[0], wanted, atol=0.6 / 255)
    assert run("apply", "--from_image=o.png", "--output=again.png")[0] == 0
    assert Path("again.png").read_bytes() == Path("o.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--style=style.png", "--style_name=waves"], "--style_name: this network"),
        (["--model=any"], "--style is missing: give the picture whose style"),
        (["--strength=0.5"], "--strength: the network of --model=bundled has trained"),
        (["--style=style.png", "--model=bundled"], "--style: the network of --model="),
        (["--style=none.png"], "none.png: no such file"),
    ],
)
def test_apply_refuses_what_fits_no_network(refused, folder, words, message):
    code, said = refused("apply", "content.png", "o.png", *words)
    assert code == 2
    assert message in said
    assert not Path("o.png").exists()


@pytest.mark.parametrize(
    ("start", "chosen"),
    [("any", "--style=style.png"), ("bundled", "--style_name=style")],
)
def test_train_learns_a_style_from_what_is_known(
    run, photos, tiny_backbone, start, chosen
):
    words = (f"--from={start}", "--style=style.png", "--output=own", "--size=32")
    assert run("train", *words, "--batch_size=1", "--minutes=0.0001")[0] == 0
    assert run("apply", "content.png", "o.png", "--model=own", chosen)[0] == 0


def test_apply_takes_an_output_by_any_of_its_paths(run, folder, model):
    for output in ("./out.png", "photos/../out.png"):
        Path("photos").mkdir(exist_ok=True)
        code, _, err = run("apply", model, "content.png", output)
        assert (code, err) == (0, "")
        assert Path("out.png").is_file()


def test_apply_keeps_names_and_folders(run, folder, model):
    Path("in/more").mkdir(parents=True)
    picture = load_image("content.png")
    for name in ("in/a.png", "in/b.jpg", "in/more/a.webp"):
        save_image(picture, name)
    save_image(picture, "c.png")
    Path("c.png").rename("in/c.bmp")
    code, out, err = run("apply", model, "--content=in", "--output=out", "--size=20")
    assert (code, out, err) == (
        0,
        "out: 4 pictures; style dark, the first of dark, light\n",
        "",
    )
    assert names_in("out") == ["a.png", "b.jpg", "c.png", "more/a.webp"]
    assert load_image("out/more/a.webp").shape == (1, 16, 20, 3)
    code, out, _ = run("apply", model, "--content=in/a.png,in/b.jpg", "--output=two")
    assert (code, out.startswith("two: 2 pictures")) == (0, True)
    assert names_in("two") == ["a.png", "b.jpg"]


def test_apply_keeps_a_folder_of_results_to_its_settings(run, refused, folder, model):
    Path("in").mkdir()
    for name in ("in/a.png", "in/b.png"):
        save_image(load_image("content.png"), name)
    apply = ("apply", model, "--content=in", "--output=out")
    assert run(*apply)[0] == 0
    before = Path("out/a.png").read_bytes()
    for words, said in (
        (("--style_name=light",), "style_name (None, now light)"),
        (("--color=content",), "color"),
        (("--protect=content.png",), "protect"),
        (("--content=in/a.png,content.png",), "pictures"),
    ):
        code, line = refused(*apply, *words)
        assert code == 2
        assert "out: was begun with other settings: " in line and said in line
    assert Path("out/a.png").read_bytes() == before
    assert run(*apply, "--max_memory=4")[0] == 0
    Path("in/b.png").rename("in/c.png")
    assert run(*apply)[0] == 0


def test_apply_keeps_a_folder_of_results_to_its_preset_folder(
    run, refused, folder, model
):
    network = StyleNet.from_preset("model.keras")
    network.save_to_preset("own")
    Path("in").mkdir()
    save_image(load_image("content.png"), "in/a.png")
    apply = ("apply", "--model=own", "--content=in", "--output=out")
    assert run(*apply)[0] == 0
    network.last.bias.assign([0.0, 0.0, 0.0])
    network.save_to_preset("own")
    code, line = refused(*apply)
    assert code == 2 and "out: was begun with other settings: model" in line


def test_apply_goes_on_after_a_name_that_did_not_exist(run, folder, model):
    Path("in").mkdir()
    for name in ("in/a.png", "in/b.png"):
        save_image(load_image("content.png"), name)
    apply = ("apply", model, "--output=out")
    assert run(*apply, "--content=in/a.png,b.png")[0] == 1
    assert run(*apply, "--content=in/a.png,in/b.png")[0] == 0


def test_apply_leaves_pictures_alone_that_it_did_not_make(refused, folder, model):
    for name in ("in", "out"):
        Path(name).mkdir()
        save_image(load_image("content.png"), f"{name}/a.png")
    code, line = refused("apply", model, "--content=in", "--output=out")
    assert code == 2
    assert "out/a.png: is there already, but not from tfstyle apply" in line


def test_apply_goes_on_after_an_unreadable_picture(run, folder, model):
    Path("in").mkdir()
    save_image(load_image("content.png"), "in/a.png")
    (folder / "in" / "b.png").write_bytes(b"no picture")
    code, out, err = run("apply", model, "--content=in", "--output=out")
    assert code == 1
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("tfstyle: skipped: in/b.png: not a PNG")
    assert last == "tfstyle: 1 of 2 pictures could not be stylized"
    assert names_in("out") == ["a.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--content=none.png",), "none.png: no such file"),
        (("--content=",), "--content is missing"),
        (("--style_name=lihgt",), "no style 'lihgt'; did you mean light? the styles"),
        (("--style_name=light:x",), "'x' is not a number; write name:weight"),
        (("--model=none",), "none: no such file; give 'bundled'"),
        (("--model=content.png",), "content.png: cannot be read as a .keras file"),
        (("--content=content.png,style.png",), "2 pictures need a folder"),
        (("--content=photos",), "photos: there is no picture in this folder"),
        (
            ("--content=content.png,sub/content.png", "--output=o"),
            "two pictures would both be written as o/content.png",
        ),
        (("--output=none/out.png",), "none"),
        (("--size=0",), "--size=0: give"),
        (("--max_memory=-1",), "--max_memory=-1: give"),
    ],
)
def test_apply_refuses(refused, folder, model, words, message):
    Path("photos").mkdir()
    apply = ("apply", model, "--content=content.png", "--output=out.png")
    code, err = refused(*apply, *words)
    assert code == 2
    assert message in err


def test_export_says_how_exact_it_is(run, folder, model):
    code, out, err = run("export", model, "--output=served", "--style_name=light")
    assert (code, err) == (0, "")
    told = r"served: at most \S+ levels of 255 from tfstyle apply\n"
    assert re.fullmatch(told, out)
    code, out, err = run("export", model, "--output=m.onnx", "--format=onnx")
    assert out.endswith(" from tfstyle apply; style dark, the first of dark, light\n")
    assert Path("served/1/saved_model.pb").exists()
    code, out, _ = run("export", model, "--format=keras", "--output=m.keras")
    assert code == 0
    assert load_network("m.keras").style_names == ["dark", "light"]


def test_export_of_the_optimiser_refuses_what_is_for_networks(refused, folder):
    for word in ("--style_name=a", "--format=onnx", "--part=encode"):
        code, err = refused("export", "--what=optimizer", "--output=o", word)
        assert code == 2
        assert f"{word.partition('=')[0]}: has no effect with --what=optimizer" in err
    assert not Path("o").exists()


def test_export_writes_the_optimiser(run, folder, tiny_backbone):
    code, _, err = run("export", "--what=optimizer", "--output=o", "--tv_weight=0.1")
    assert (code, err) == (0, "")
    assert Path("o/1/saved_model.pb").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format=onnx",), "--output=out: give a name that ends in .onnx"),
        (("--format=keras", "--output=none/m.keras"), "there is no folder none"),
        (("--output=style.png",), "--output=style.png: is a file; give a folder"),
        (("--style_name=lite",), "there is no style 'lite'; did you mean light?"),
        (
            ("--quantize=int8",),
            "--quantize=int8: savedmodel is written in float32 only",
        ),
        (("--tv_weight=1",), "--tv_weight: has no effect with --what=network"),
        (("--model=style.png",), "style.png: cannot be read as a .keras file"),
        (("--format=coreml",), "--format=coreml: give one of savedmodel, keras"),
    ],
)
def test_export_refuses(refused, folder, model, words, message):
    code, err = refused("export", model, "--output=out", *words)
    assert code == 2
    assert message in err
    assert not Path("out").exists()


@pytest.mark.slow
def test_ctrl_c_keeps_a_training(photos):
    words = [sys.executable, "-m", "tfstyle", *TRAIN, "--steps=100000"]
    words += ["--style_layers=relu1_1", "--content_layers=relu2_1"]
    words += ["--checkpoint_every=20"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    while not Path("run/model.keras").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.startswith("tfstyle: stopped at step ")
    assert "the same command goes on" in err
    step = int(err.split("step ")[1].split(";")[0])
    assert Path(f"run/checkpoint/ckpt-{step}.index").exists()
    assert json.loads(Path("run/training.json").read_text())["width"] == 4


def test_a_list_without_pictures_is_refused(refused, folder, no_tensorflow):
    code, line = refused("apply", "--content=,", "--output=out")
    assert (code, line) == (2, "tfstyle: --content=,: names no picture\n")
