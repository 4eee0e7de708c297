import fcntl
import inspect
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
import zlib

import numpy as np
import pytest
from absl.flags import FlagValues
from PIL import Image
from test_callbacks import read_events

import tfstyle
from tfstyle import load_image, save_image
from tfstyle.cli.flags import argument, define, with_flags
from tfstyle.cli.main import COMMANDS, main
from tfstyle.errors import TfstyleError
from tfstyle.options.presets import preset_names
from tfstyle.options.provenance import PICTURES
from tfstyle.video.stylize import stylize_video

PROGRAM = [sys.executable, "-m", "tfstyle"]


STYLIZE = ("stylize", "--content=content.png", "--style=style.png", "--output=out.png")
FEW = ("--size=40", "--steps=4", "--scales=1", "--optimizer=adam")
SMALL = (*FEW, "--style_loss=gram")  # whose graph is the smallest
# The pictures are too small for the bundled network's deep layers.
SHALLOW = ("--content_layers=relu2_1", "--style_layers=relu1_1,relu2_1")


# What the program says of itself.


def test_help_and_early_refusals_do_not_import_tensorflow():
    lines = [f"[{name!r}, '--help']" for name in COMMANDS]
    lines += ["['--help']", "['--version']", "['presets']", "['stylize']"]
    lines += ["['stylize', '--output=o.png', '--content=no.jpg', '--style=no.jpg']"]
    code = (
        "import sys; from tfstyle.cli.main import main\n"
        f"for words in [{', '.join(lines)}]: main(words)\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.fast
def test_help_names_every_command(run):
    code, out, err = run("--help")

    assert (code, err) == (0, "")
    assert all(f"  {name}" in out for name in COMMANDS)
    assert run()[:2] == (2, out)


@pytest.mark.fast
def test_version(run):
    code, out, _ = run("--version")

    assert code == 0 and out.startswith("tfstyle 0.")


@pytest.mark.fast
@pytest.mark.parametrize("command", ["stylize", "invert", "texture"])
def test_command_help_has_defaults_choices_and_an_example(run, command):
    code, out, err = run(command, "--help")

    assert (code, err) == (0, "")
    assert f"  tfstyle {command} p" in out  # an example
    assert "--backbone=slim19|vgg19|vgg16|squeezenet\n" in out
    assert "--[no]allow_upscale\n      Enlarge" in out
    assert "Longest side of the result in pixels. [512; at least 1]" in out
    assert "<" not in out  # absl's own way to show choices
    assert all(len(line) <= 88 for line in out.splitlines())


@pytest.mark.fast
def test_help_of_a_sweep_has_the_same_defaults_and_choices(run):
    stylize, sweep = run("stylize", "--help")[1], run("sweep", "--help")[1]
    for group in ("Style and content", "Colour", "Size and memory", "Network"):
        text = stylize[stylize.index(f"\n{group}:\n") :].split("\n\n")[0]
        assert text in sweep


@pytest.mark.fast
@pytest.mark.parametrize("command", COMMANDS)
def test_help_groups_the_flags_with_the_usual_ones_first(run, command):
    out = run(command, "--help")[1]
    order = [
        *("Pictures", "Address", "Style and content", "Colour", "Size and memory"),
        *("Optimisation", "Training", "Output", "Network"),
        "Reproduction of papers",
    ]
    groups = [line[:-1] for line in out.splitlines() if line[:-1] in order]
    assert groups == sorted(groups, key=order.index) and groups
    assert "absl" not in out


@pytest.mark.fast
def test_help_names_no_flag_that_the_command_lacks(run):
    for command in set(COMMANDS) - {"presets"}:  # which are for other commands
        lines = run(command, "--help")[1].splitlines()
        out = "\n".join(line for line in lines if not line.startswith("  tfstyle "))
        flags = set(re.findall(r"^  --(?:\[no\])?(\w+)", out, re.MULTILINE))
        assert set(re.findall(r"--([a-z]\w+)", out)) <= {"flagfile", *flags}, command


@pytest.mark.fast
def test_commands_have_the_flags_that_they_use(run):
    texts = {command: run(command, "--help")[1] for command in COMMANDS}

    def has(command, flag):
        return f"\n  --{flag}\n" in texts[command]

    assert has("stylize", "content_layers") and has("stylize", "style_layers")
    assert has("invert", "layer") and not has("invert", "style_layers")
    assert has("texture", "width") and not has("texture", "content_layers")


@pytest.mark.fast
@pytest.mark.parametrize(
    ("command", "function"),
    [
        ("stylize", tfstyle.stylize),
        ("invert", tfstyle.invert_features),
        ("texture", tfstyle.synthesize_texture),
        ("sweep", tfstyle.sweep),
        ("apply", tfstyle.apply_style),
        ("video", stylize_video),
    ],
)
def test_commands_name_pictures_as_the_functions_do(run, command, function):
    names = {*inspect.signature(function).parameters}
    if command == "apply":  # on the command line, a style is a picture
        names = names - {"style"} | {"style_name"}
    pictures = {*PICTURES, "layer", "style_name", "model", "width", "height"}
    flags = re.findall(r"^  --(\w+)", run(command, "--help")[1], re.MULTILINE)
    assert pictures & names <= {*flags} and {"content", "style"} & names


@pytest.mark.fast
def test_presets_lists_each_once_under_its_experiment(run):
    code, out, err = run("presets")

    assert (code, err) == (0, "")
    known = [*preset_names(), *preset_names("training")]
    assert sorted(word for word in out.split() if word in known) == sorted(known)
    experiments = [line for line in out.splitlines() if line[:1].isupper()]
    for paper in ("Gatys, Ecker", "Johnson, Alahi", "A VGG-19"):
        assert sum(line.startswith(paper) for line in experiments) == 1
    assert out.count("1260 times smaller") == 1  # five presets have this in common
    assert out.index("1260 times") < out.index("  cs231n-the-scream ")


def test_output_that_nobody_reads_ends_the_program_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    words = [*PROGRAM, "presets"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (done.returncode, done.stderr) == (141, b"")


def test_info_tells_versions_devices_and_weights(run, tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
    file.touch()
    file.with_name("vgg16_weights_tf_dim_ordering_tf_kernels.h5").touch()  # with top
    code, out, err = run("info")
    rows = dict(line.split(maxsplit=1) for line in out.splitlines())

    assert (code, err) == (0, "")
    assert rows["tensorflow"] == tf.__version__
    seen = bool(tf.config.list_physical_devices("GPU"))
    assert rows["device"].startswith("GPU" if seen else "CPU")
    assert "starry_night" in rows["styles"]
    assert rows["slim19"].endswith("slim19.npz")
    assert rows["vgg19"] == str(file)
    assert rows["vgg16"].startswith("not here") and str(tmp_path) in rows["vgg16"]


def test_info_shows_the_gpus_that_tensorflow_sees(run, monkeypatch):
    import tensorflow as tf

    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [gpu])
    monkeypatch.setattr(
        tf.config.experimental,
        "get_device_details",
        lambda device: {"device_name": "NVIDIA T4"},
    )

    assert "device       GPU: NVIDIA T4\n" in run("info")[1]


# Runs.


def test_stylize_leaves_everything_that_was_asked_for(run, folder, tiny_backbone):
    code, out, err = run(
        *(*STYLIZE, *SMALL, "--snapshot_every=2", "--snapshot_dir=deep/snapshots"),
        *("--log_dir=logs", "--loss_plot=loss.png", "--report=report.json"),
    )

    assert (code, err) == (0, "")
    assert out.startswith("out.png: 40×32, ") and out.endswith(" s\n")
    assert load_image("out.png").shape == (1, 32, 40, 3)
    assert Image.open("out.png").text["Software"] == "tfstyle"
    assert Image.open("loss.png").size[0] > 600
    assert list((folder / "deep" / "snapshots").iterdir())
    assert list(read_events(folder / "logs")["total"]) == [1, 2, 3, 4]


def test_report_says_how_the_picture_came_about(run, folder, tiny_backbone):
    import tensorflow as tf

    run(*STYLIZE, *SMALL, "--preset=cs231n-starry-night", "--report=r.json", *TINY)
    report = json.loads((folder / "r.json").read_text(encoding="utf-8"))

    assert report["flags"]["preset"] == "cs231n-starry-night"
    assert report["flags"]["normalization"] == "sum"  # the preset's
    assert report["flags"]["steps"] == [4]  # a flag's
    assert report["versions"]["tensorflow"] == tf.__version__
    assert report["device"][:3] in ("CPU", "GPU")
    assert report["seconds"] > 0 and report["stopped"] is False
    history = report["history"]
    assert history["step"] == [1, 2, 3, 4]
    terms = [values for name, values in history.items() if "_" in name]
    assert len(terms) == 3
    np.testing.assert_allclose(np.sum(terms, axis=0), history["total"], rtol=1e-5)


# A preset's layers are not the tiny network's.
TINY = (
    "--backbone=slim19",
    "--content_layers=relu3_1",
    "--style_layers=relu1_1:1",
)


def test_report_has_the_checksum_of_the_weights(run, folder, tiny_backbone):
    import hashlib

    from tfstyle.backbones.slim19 import WEIGHTS

    np.savez("own.npz", **tiny_backbone.published_weights())
    for words, file in (((), WEIGHTS), (("--weights=own.npz",), folder / "own.npz")):
        assert run(*STYLIZE, *SMALL, "--report=r.json", *words)[0] == 0
        report = json.loads((folder / "r.json").read_text(encoding="utf-8"))
        expected = hashlib.sha256(file.read_bytes()).hexdigest()
        assert report["weights_sha256"] == expected


def test_several_pictures_go_to_a_folder(run, folder, tiny_backbone):
    content = load_image("content.png")
    save_image(content[:, ::-1], "a, b.png")
    save_image(content[:, :, ::-1], "upside.png")
    words = ("stylize", "--style=style.png", *SMALL)
    words += ("--snapshot_dir=snapshots", "--snapshot_every=4")
    code, out, err = run(*words, "--content=content.png, upside.png", "--output=made")
    assert (code, err) == (0, "")
    assert out.startswith("made: 40×32, ")
    made = [load_image(f"made/{name}.png") for name in ("content", "upside")]
    assert np.abs(made[0] - made[1]).mean() > 0.05
    assert load_image("snapshots/step_00004.png").shape == (1, 32, 80, 3)
    code, _, err = run(
        *words, "--content=content.png, upside.png", "--output=made", "--seed=1"
    )
    assert (code, "seed (None, now 1)" in err) == (2, True)
    # A comma may be part of a name.
    assert run(*words, "--content=a, b.png", "--output=out.png")[0] == 0


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("--content=content.png,style.png", "--output=out.png"),
            "--output=out.png: 2 content pictures need a folder; give a name without",
        ),
        (
            ("--content=content.png,content.png", "--output=made"),
            "--content: two pictures would both be written as content.png; rename one",
        ),
        (
            ("--content=content.png,style.png", "--output=made"),
            "the content pictures have several sizes (40×32, 28×36); a batch needs one",
        ),
        (("--content=content.png,no.png", "--output=made"), "no.png"),
        (
            ("--content=content.png,style.png", "--output=style.png/made"),
            "--output=style.png/made: the folder cannot be made (Not a directory)",
        ),
    ],
)
def test_bad_batch(refused, folder, no_tensorflow, words, problem):
    code, err = refused("stylize", "--style=style.png", *words)
    assert code in (1, 2)
    assert problem in err


def test_invert_takes_the_layer(run, folder, tiny_backbone):
    words = ("invert", "content.png", "out.jpg", *FEW)
    code, out, err = run(*words, "--layer=relu2_1", "--report=r.json")

    assert (code, err) == (0, "")
    assert out.startswith("out.jpg: 40×32")
    history = json.loads((folder / "r.json").read_text())["history"]
    assert list(history)[3:] == ["content/relu2_1", "total_variation"]
    assert run(*words)[0] == 0  # the backbone's own layer


def test_invert_refuses_two_kinds_of_layers(refused, folder):
    words = ("content.png", "out.jpg", "--layer=relu1_1", "--content_layers=relu2_1")
    code, line = refused("invert", *words)
    assert code == 2
    assert "--layer and --content_layers: give one of them" in line


def test_texture_has_the_size_that_was_asked_for(run, folder, tiny_backbone):
    words = ("texture", "style.png", "out.webp", *SMALL)

    assert run(*words, "--width=50", "--height=30")[1].startswith("out.webp: 50×30")
    assert run(*words)[1].startswith("out.webp: 28×36")


def test_content_may_be_missing_where_it_has_no_weight(run, folder, tiny_backbone):
    words = ("stylize", "--style=style.png", "--output=out.png", "--init=noise")

    assert run(*words, "--content_weight=0", *SMALL)[0] == 0


@pytest.mark.parametrize(
    "preset",
    [
        ["--preset=cs231n-texture"],
        ["--preset", "cs231n-texture"],
        ["-preset=cs231n-texture"],
        ["--flagfile=own.cfg"],
    ],
)
def test_flags_override_a_preset_wherever_they_stand(
    run, folder, tiny_backbone, preset
):
    (folder / "own.cfg").write_text("# mine\n--preset=cs231n-texture\n--steps=3\n")
    words = ("--style=style.png", "--output=out.png", *TINY[::2], "--report=r.json")
    code, _, err = run("texture", "--steps=2", *preset, *words)
    used = json.loads((folder / "r.json").read_text())["flags"]

    assert (code, err) == (0, "")
    assert (used["normalization"], used["style_size"]) == ("sum", 192)
    assert used["style_layers"] == {"relu1_1": 1.0}
    assert used["steps"] == [3 if "flagfile" in preset[0] else 2]


def test_same_seed_same_bytes(run, folder, tiny_backbone):
    pictures = []
    for seed in (7, 7, 8):
        words = ("--init=noise", f"--seed={seed}")
        assert run(*STYLIZE, *SMALL, *words)[0] == 0
        pictures.append((folder / "out.png").read_bytes())

    assert pictures[0] == pictures[1] != pictures[2]


def test_runs_are_deterministic(run, folder, tiny_backbone, monkeypatch):
    def spied(run, picture):
        asked.append(config.is_op_determinism_enabled())
        return result(run, picture)

    from tensorflow.python.framework import config

    from tfstyle.stylizer.run import Run

    asked, result = [], Run._result
    monkeypatch.setattr(Run, "_result", spied)
    run(*STYLIZE, *SMALL)

    assert asked == [True] and not config.is_op_determinism_enabled()


def test_a_script_sees_one_line_and_none_of_tensorflows(folder):
    words = [*PROGRAM, *STYLIZE, *SMALL, *SHALLOW]
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)

    slow = "tfstyle: step "  # a line every half minute, on a slow machine
    said = [line for line in done.stderr.splitlines() if not line.startswith(slow)]
    assert (done.returncode, said) == (0, [])
    assert done.stdout.startswith("out.png: 40×32") and done.stdout.count("\n") == 1


def test_a_person_sees_a_bar(folder):
    terminal, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [*PROGRAM, *STYLIZE, *SHALLOW, *SMALL, "--steps=60"],
        stderr=child,
        stdout=subprocess.DEVNULL,
    )
    os.close(child)
    seen = b""
    while process.poll() is None or b"left" not in seen:
        try:
            seen += os.read(terminal, 4096)
        except OSError:  # the other end is closed
            break
    os.close(terminal)

    assert process.wait() == 0
    assert seen.startswith(b"tfstyle: loading TensorFlow")  # which takes seconds
    assert "40×32" in seen.decode() and b"/60" in seen and b"loss" in seen


@pytest.mark.parametrize(
    ("words", "library"),
    [
        ("apply content.png out.png", "TensorFlow"),
        ("batch content.png out", "Ray"),
        ("studio --nobrowser", "Gradio"),
    ],
)
def test_a_person_is_first_told_what_is_being_loaded(folder, words, library):
    terminal, child = pty.openpty()
    process = subprocess.Popen([*PROGRAM, *words.split()], stderr=child)
    os.close(child)
    try:
        line = os.read(terminal, 99).decode()
        assert line.strip() == f"tfstyle: loading {library} …"
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_signal_keeps_the_picture_so_far(folder, number, code):
    words = ["--steps=100000", "--snapshot_dir=s", "--snapshot_every=1"]
    process = subprocess.Popen(
        [*PROGRAM, *STYLIZE, *SHALLOW, *SMALL, *words, "--report=r.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(folder.glob("s/*.png")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()

    assert (process.returncode, out) == (code, "")
    assert err.startswith("tfstyle: stopped at step ") and err.count("\n") == 1
    assert "out.png has the picture so far" in err
    assert load_image("out.png").shape == (1, 32, 40, 3)
    assert json.loads((folder / "r.json").read_text())["stopped"] is True


# Runs that fail.


def test_broken_run_keeps_the_last_good_picture(refused, folder, tiny_backbone):
    words = ("--learning_rate=1e30", "--clamp=", "--report=r.json")
    code, line = refused(*STYLIZE, *SMALL, *words)

    assert code == 1
    assert "NaN or infinite at step 2 in content/block3_conv1" in line
    assert "lower the learning rate" in line
    assert "out.png: has the last good picture" in line
    assert np.isfinite(load_image("out.png")).all()
    assert json.loads((folder / "r.json").read_text())["history"]["step"] == [1]


def test_run_that_breaks_at_once_leaves_the_old_picture(refused, folder, tiny_backbone):
    (folder / "out.png").write_bytes(b"old")
    code, line = refused(*STYLIZE, *SMALL, "--style_weight=1e38", "--style_layers=a")
    assert code == 2 and "no layer 'a'" in line

    code, line = refused(*STYLIZE, *SMALL, "--normalization=sum", "--tv_weight=1e38")
    assert code == 1 and "step 1 in total_variation" in line
    assert "out.png: not written" in line
    assert (folder / "out.png").read_bytes() == b"old"


def test_failure_in_the_middle_leaves_the_old_picture(
    refused, folder, tiny_backbone, monkeypatch
):
    def fail(*_):
        raise ValueError("something\nunforeseen")

    monkeypatch.setattr("tfstyle.stylizer.run.Run._optimize", fail)
    (folder / "out.png").write_bytes(b"old")
    code, line = refused(*STYLIZE, *SMALL)

    assert code == 1
    assert "ValueError: something unforeseen (--debug shows where)" in line
    assert (folder / "out.png").read_bytes() == b"old"
    with pytest.raises(ValueError, match="unforeseen"):
        main([*STYLIZE, *SMALL, "--debug"])


def test_interrupt_before_the_run_is_one_line(refused, folder, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("tfstyle.cli.run.import_tensorflow", interrupt)

    assert refused(*STYLIZE) == (130, "tfstyle: interrupted\n")


def test_an_import_that_an_interrupt_ends_with_another_error_is_an_interrupt(
    folder, refused, monkeypatch
):
    def import_half(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("a part of it is missing") from None

    monkeypatch.setattr("tfstyle.cli.run.import_tensorflow", import_half)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert refused(*STYLIZE) == (130, "tfstyle: interrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_python_would_drop_in_an_import_ends_the_program(folder):
    code = f"""
import os, signal, sys

# A shell lets programs in the background ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupts:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, *_):
        if name in ("keras", "PIL"):
            Interrupts()

sys.meta_path.insert(0, Finder())
from tfstyle.cli.main import main
sys.exit(main({[*STYLIZE, *SMALL]}))
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, stderr=-1)

    assert done.returncode == 130
    assert done.stderr.endswith(b"\ntfstyle: interrupted\n")  # after Python's own
    assert not (folder / "out.png").exists()


# Bad input, refused before TensorFlow is imported.


def bad_files(folder):
    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", 50000, 50000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
    (folder / "bomb.png").write_bytes(bomb + chunk(b"IEND", b""))
    (folder / "text.jpg").write_text("no\npicture")
    (folder / "empty.jpg").touch()
    Image.new("RGBA", (40, 40)).save(folder / "clear.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), "uint8")
    Image.fromarray(noise).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])


@pytest.mark.fast
@pytest.mark.parametrize("flag", ["content", "style"])
@pytest.mark.parametrize(
    ("name", "code", "problem"),
    [
        ("missing.jpg", 2, "no such file; check the path"),
        ("text.jpg", 1, "not a PNG, JPEG"),
        ("cut.jpg", 1, "damaged or cut off"),
        ("empty.jpg", 1, "the file is empty"),
        ("bomb.png", 1, "50000×50000 is 2500 megapixels, over the limit"),
        ("clear.png", 1, "every pixel is transparent"),
        ("folder", 2, "is a folder"),
    ],
)
def test_bad_picture(refused, folder, no_tensorflow, flag, name, code, problem):
    bad_files(folder)
    (folder / "folder").mkdir()
    if (flag, name) == ("style", "folder"):
        problem = "there is no picture"
    got, line = refused(*STYLIZE, f"--{flag}={name}")

    assert got == code
    assert line.startswith(f"tfstyle: {name}: ") and problem in line


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--preset=starry-night", "no preset 'starry-night'; did you mean cs231n-"),
        ("--backbone=vgg", "--backbone=vgg: give one of slim19, vgg19, vgg16, squee"),
        ("--schedule=x", "--schedule=x: give one of constant, cosine, exponential"),
        ("--sieze=3", "there is no flag --sieze; did you mean --size"),
        ("--width=3", "there is no flag --width"),
        ("--size=abc", "--size=abc: give a whole number of at least 1; see tf"),
        ("--size=", "--size=: give a whole number"),
        ("--tv_weight=1,5", "--tv_weight=1,5: give a number"),
        ("--allow_upscale=x", "--allow_upscale=x: give True or False"),
        ("--snapshot_every=0", "--snapshot_every=0: give a whole number of at least 1"),
        ("--size", "--size has no value; write --size=VALUE; see tf"),
        ("--noallow_upscale=3", "--noallow_upscale=3 does not take an argument; see"),
        ("picture.jpg", "'picture.jpg' is one argument too many; see tf"),
        ("--flagfile=no.cfg", "--flagfile=no.cfg: cannot be read (No such file or"),
        ("--flagfile=style.png", "--flagfile: is no text with a flag on each line"),
        ("--flagfile", "--flagfile has no value"),
        ("--size=0", "--size=0: give a whole number of at least 1"),
        ("--seed=-1", "seed=-1: give a whole number of at least 0"),
        ("--steps=1,x", "--steps=1,x: give whole numbers of at least 1"),
        ("--steps=", "--steps is empty: give at least one number"),
        ("--clamp=1", "tfstyle: --clamp=1.0: give low,high in rising order"),
        ("--style_weight=-1", "--style_weight=-1: give a number of at least 0"),
        ("--tv_weight=nan", "tv_weight=nan: give a number of at least 0"),
        ("--style_layers=relu1_1:-1", "--style_layers=relu1_1:-1.0: a weight must"),
        ("--style_layers=relu1_1:x", "=relu1_1:x: the weight 'x' of relu1_1 is not"),
        ("--style_layers=relu1_1:", "=relu1_1:: the weight '' of relu1_1 is not"),
        ("--style_layers=,", "--style_layers is empty"),
        ("--style_layers=a:1,b", "2 layers but 1 weights; give each layer a weight"),
        ("--content=", "--content is missing"),
        ("--style=", "--style is missing"),
        ("--output=", "--output is missing"),
        ("--output=no/out.png", "no/out.png: the folder no does not exist; create"),
        ("--output=.", ".: the name has no extension; use .png, .jpg"),
        ("--output=out.gif", "out.gif: the extension .gif is not supported"),
        ("--output=folder.png", "folder.png: is a folder"),
        ("--report=no/r.json", "no/r.json: the folder no does not exist"),
        ("--report=folder.png", "folder.png: is a folder"),
        ("--loss_plot=no/l.png", "no/l.png: the folder no does not exist"),
        ("--loss_plot=l.gif", "l.gif: the extension .gif is not supported; use .png"),
        ("--log_dir=style.png", "--log_dir=style.png: the folder cannot be made (Fil"),
        ("--snapshot_dir=/proc/x", "--snapshot_dir=/proc/x: the folder cannot be ma"),
        ("--weights=no.npz", "--weights=no.npz: no such file; check the path, or gi"),
        ("--init=no.png", "--init=no.png: no such file; check the path, or give con"),
        ("--init=nois", "--init=nois: no such file; check the path, or give con"),
        ("--decay_step=2", "--decay_step=2 has no effect with --optimizer=auto; l"),
    ],
)
def test_bad_flag(refused, folder, no_tensorflow, words, problem):
    (folder / "folder.png").mkdir()
    code, line = refused(*STYLIZE, words)

    assert (code, problem in line) == (2, True), line


@pytest.mark.fast
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("size=0: give more", "--size=0: give more"),
        ("size=(1, 2): give more", "--size=1,2: give more"),
        ("protect: all is white", "--protect: all is white"),
        ("steps is empty", "--steps is empty"),
        ("no style has a style_mask", "no style has a --style_mask"),
        ("give one, or style_weight=0", "give one, or --style_weight=0"),
        ("the size is 3; a style: none", "the size is 3; a style: none"),
        ("a/size=3/style_mask.png: damaged", "a/size=3/style_mask.png: damaged"),
        (
            "other settings: style_mask (1, now 2)",
            "other settings: style_mask (1, now 2)",
        ),
        ("--size=3: wrong", "--size=3: wrong"),
    ],
)
def test_messages_name_arguments_as_flags(message, expected):
    values = FlagValues()
    names = ["size", "steps", "style", "style_mask", "style_weight", "protect"]
    define(values, [argument(name, "") for name in names])
    values["size"].value = (1, 2)
    assert with_flags(message, values) == expected


@pytest.mark.fast
def test_folder_that_may_not_be_written_to(refused, folder, no_tensorflow, monkeypatch):
    # A test that runs as root may write everywhere.
    monkeypatch.setattr("tfstyle.cli.outputs.os.access", lambda *_: False)
    monkeypatch.setattr("tfstyle.cli.outputs.check_writable", lambda *_, **__: None)

    code, line = refused(*STYLIZE, "--log_dir=logs")
    assert code == 2 and "--log_dir=logs: you may not write to this folder" in line


@pytest.mark.fast
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("styleize", "there is no command 'styleize'; did you mean stylize?"),
        ("invert --output=o.png", "--content is missing"),
        ("texture --output=o.png", "--style is missing"),
        ("texture --style=style.png --output=o.png --width=0", "width=0: give a who"),
        ("texture --style=style.png --output=o.png --content_weight=1", "no flag --co"),
        ("stylize --content=content.png --style=style.png", "--output is missing"),
        ("stylize", "--content, --style and --output are missing"),
        ("stylise", "did you mean stylize?"),
        ("stylize content.png style.png o.png --output=p.png", "'o.png' is one"),
        ("apply content.png out", "--output=out: the name has no extension"),
        ("video content.png out", "--output=out: the name has no extension"),
        ("video content.png no/o.mp4", "--output=no/o.mp4: the folder no does not"),
        ("invert content.png out", "--output=out: the name has no extension"),
        ("info content.png o.png", "'o.png' is one argument too many"),
        ("presets gatys", "'gatys' is no flag"),
    ],
)
def test_bad_command(refused, folder, no_tensorflow, words, problem):
    code, line = refused(*words.split())

    assert code == 2 and problem in line


@pytest.mark.fast
@pytest.mark.parametrize(
    "words",
    [
        "stylize content.png style.png content.png",
        "stylize content.png style.png ../{}/style.png",
        "stylize content.png styles styles/a.png",
        "stylize content.png style.png link.png",
        "stylize content.png,same.png style.png .",
        "stylize content.png style.png o.png --init=same.png --animate=same.png",
        "stylize content.png style.png o.png --report=content.png",
        "stylize content.png style.png o.png --loss_plot=o.png",
        "stylize step_00050.png style.png o.png --snapshot_dir=.",
        "stylize content.png style.png same.png --protect=same.png",
        "invert content.png content.png",
        "texture style.png style.png",
        "sweep content.png style.png . --steps=1,2 --protect=02_steps=2.png",
        "sweep content.png sheet.png . --steps=1,2",
        "sweep content.png style.png . --init=noise,sheet.png",
        "apply content.png content.png",
        "apply styles styles",
        "apply content.png,style.png .",
        "apply content.png same.png --protect=same.png",
        "video film.mp4 film.mp4",
        "export --format=keras --model=m.keras --output=m.keras",
    ],
)
def test_a_file_that_is_read_is_never_overwritten(
    refused, folder, no_tensorflow, words
):
    (folder / "styles").mkdir()
    names = ("same", "styles/a", "step_00050", "02_steps=2", "sheet")
    for path in (*(f"{name}.png" for name in names), "m.keras", "film.mp4"):
        (folder / path).write_bytes((folder / "content.png").read_bytes())
    (folder / "link.png").symlink_to("content.png")
    before = {p: p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}
    code, line = refused(*words.format(folder.name).split())

    assert code == 2 and "choose another name" in line
    assert {p: p.read_bytes() for p in folder.rglob("*.*") if p.is_file()} == before


@pytest.mark.fast
def test_pictures_and_flags_may_be_mixed(refused, folder, no_tensorflow):
    for words in (
        "stylize no.png style.png o.png",
        "stylize --style=style.png no.png o.png",
        "stylize style.png --content no.png --output=o.png",
        "stylize --size=40 --noallow_upscale no.png --steps 3 style.png o.png",
        "stylize --output=o.png -- no.png style.png",
        "invert no.png o.png",
        "texture no.png o.png",
    ):
        code, line = refused(*words.split())
        assert (code, line) == (2, "tfstyle: no.png: no such file; check the path\n")


@pytest.mark.fast
@pytest.mark.parametrize("command", ["stylize", "info"])
def test_other_keras_backend(refused, folder, no_tensorflow, monkeypatch, command):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    code, line = refused(
        *((command, *STYLIZE[1:]) if command == "stylize" else ["info"])
    )

    assert code == 2
    assert "KERAS_BACKEND=jax: tfstyle runs on TensorFlow; unset it" in line


# Bad input that only the network can tell.


def test_unknown_layer_offers_the_nearest(refused, folder):
    code, line = refused(*STYLIZE, "--content_layers=relu9_1")
    assert code == 2
    assert "--content_layers: slim19 has no layer 'relu9_1'; did you mean relu" in line
    code, line = refused(*STYLIZE, "--style_layers=relu9_1")
    assert "--style_layers: slim19 has no layer 'relu9_1'" in line

    code, line = refused("invert", *STYLIZE[1::2], "--layer=blok4_conv2")
    assert code == 2 and "did you mean block4_conv2" in line


def test_picture_of_one_pixel(refused, folder, tiny_backbone):
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    code, line = refused(*STYLIZE, "--content=one.png")

    assert code == 2
    assert "1×1 pixels is too small" in line and "at least " in line


def test_wrong_weights_file(refused, folder, tiny_backbone):
    (folder / "text.npz").write_text("no weights")
    np.savez(folder / "lacking.npz", **{"other/kernel": np.zeros((3, 3, 3, 8))})
    arrays = tiny_backbone.published_weights()
    arrays["block2_conv1/kernel"] = np.zeros((3, 3, 8, 99), "float32")
    np.savez(folder / "shape.npz", **arrays)

    for name, problem in (
        ("style.png", "not a format that tfstyle reads weights from; give a .npz"),
        ("text.npz", "not an .npz file, or a damaged one"),
        ("lacking.npz", "has no block1_conv1"),
        ("shape.npz", "block2_conv1/kernel has shape [3, 3, 8, 99], but"),
    ):
        code, line = refused(*STYLIZE, *SMALL, f"--weights={name}")
        assert code == 2
        assert line.startswith(f"tfstyle: {name}: ") and problem in line
        assert not (folder / "out.png").exists()


def check_no_network(backbone, site, folder, line):
    file = f"{backbone}_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert line.startswith(f"tfstyle: {file}: could not be downloaded (")
    assert f"https://{site}" in line
    assert f"put it into {folder / 'models'}" in line
    assert "--weights=PATH" in line and "--backbone=slim19" in line


def offline(folder):
    return {"KERAS_HOME": str(folder), "https_proxy": "http://127.0.0.1:9"}


def test_no_network_for_squeezenet(refused, folder, monkeypatch):
    for name, value in offline(folder).items():
        monkeypatch.setenv(name, value)
    code, line = refused(*STYLIZE, *SMALL, "--backbone=squeezenet")

    assert code == 1
    check_no_network("squeezenet", "raw.githubusercontent.com", folder, line)


def test_no_network_for_vgg(folder):
    # Keras reads KERAS_HOME once, so this needs a process of its own.
    words = [*PROGRAM, *STYLIZE, *SMALL, "--backbone=vgg19"]
    environment = {**os.environ, **offline(folder)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    check_no_network("vgg19", "storage.googleapis.com", folder, done.stderr)


def test_a_film_of_the_run(run, folder):
    code, _, err = run(*STYLIZE, *SMALL, *SHALLOW, "--animate=film.gif")
    assert (code, err) == (0, "")
    with Image.open(folder / "film.gif") as film:
        assert film.size == (40, 32)
        assert film.n_frames > 1


@pytest.mark.fast
def test_a_film_that_cannot_be_is_refused(refused, folder, no_tensorflow):
    code, line = refused(*STYLIZE, "--animate=film.avi")
    assert code == 2
    assert "film.avi: the extension .avi is not supported" in line
    assert not (folder / "out.png").exists()


def test_the_picture_is_there_though_the_film_fails(run, folder, monkeypatch):
    from tfstyle.video.run_film import RunFilm

    def fail(self):
        raise TfstyleError("film.gif: could not be written: no space")

    monkeypatch.setattr(RunFilm, "save", fail)
    code, _, err = run(*STYLIZE, *SMALL, *SHALLOW, "--animate=film.gif")
    assert (code, err) == (1, "tfstyle: film.gif: could not be written: no space\n")
    assert (folder / "out.png").exists()


def test_several_styles_and_masks_by_flags(run, folder, style, caplog):
    (folder / "styles").mkdir()
    for name in ("other.png", "styles/a.png", "styles/b.png"):
        save_image(1 - style, folder / name)
    mask = np.zeros((1, 32, 40, 3), "float32")
    mask[:, :, :20] = 1
    save_image(mask, folder / "mask.png")
    words = ["--content=content.png", "--output=out.png", "--steps=2"]
    small = ["--style_layers=relu1_1", "--content_layers=relu1_1", "--scales=1"]
    for flags in (
        ["--style=style.png:0.7,other.png:0.3", "--style_scale=1,0.5"],
        ["--style=style.png,other.png", "--content_mask=mask.png", "--color=match"],
        ["--style=styles", "--protect=mask.png", "--color=content"],
        ["--style=style.png", "--style_mask=mask.png", "--content_mask=mask.png"],
    ):
        code, _, err = run("stylize", *words, *small, *flags)
        assert code == 0, err
    code, _, err = run(
        "texture", "--style=style.png", "--style_mask=mask.png", *words[1:], small[0]
    )
    assert code == 0, err
    told = "style_mask: 40×32 pixels are stretched to the proportions of 28×36"
    assert told in caplog.messages


@pytest.mark.fast
@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--style=style.png:1,content.png"], "2 pictures but 1 weights; give each"),
        (["--style=style.png:0,content.png:0"], "the weights of the styles are 0, 0"),
        (["--style=style.png:-1"], "the weights of the styles are -1"),
        (["--style=style.png,no.png"], "no.png: no such file"),
        (["--content_mask=no.png"], "no.png: no such file"),
        (
            ["--content_mask=style.png", "--style_mask=style.png,a.png"],
            "--style_mask: 2 masks for 1 style;",
        ),
        (["--protect=no.png"], "no.png: no such file"),
        (["--protect=style.png"], "tfstyle: --protect: the mask has colours"),
        (["--content_mask=white.png"], "tfstyle: --content_mask has one region only"),
        (["--color=grey"], "--color=grey: give one of style, content, match, free"),
        (["--style_scale=1,2"], "--style_scale has 2 numbers for 1 style; give one"),
        (["--laplacian_weight=-1"], "laplacian_weight=-1: give a number of at least"),
        (
            ["--checkpoint=content.png"],
            "--checkpoint=content.png: the folder cannot be",
        ),
        (
            ["--checkpoint_every=-1"],
            "--checkpoint_every=-1: give a number of at least 0",
        ),
    ],
)
def test_bad_control(refused, folder, no_tensorflow, flags, problem):
    save_image(np.ones((32, 40, 3), "float32"), "white.png")
    code, line = refused(*STYLIZE, *flags)
    assert code == 2
    assert problem in line
