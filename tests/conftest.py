"""What the tests share: reference data, small pictures, a tiny network."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import gc
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
from absl import flags
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("repeatable")

_CPUINFO = Path("/proc/cpuinfo")
if _CPUINFO.exists() and not re.search(
    r"\b(avx512_(vnni|bf16)|avx_vnni|amx_\w+)\b", _CPUINFO.read_text()
):
    # The functions that tests call have what TensorFlow itself chooses on such CPUs;
    # commands in processes of their own, which choose oneDNN, must have the same bits.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

_ROOT = Path(__file__).resolve().parents[1]
_MARK = "TFSTYLE_TESTED_BY"
os.environ[_MARK] = str(os.getpid())  # processes that tests begin inherit it
# Ray's gRPC would write into the pipes of ffmpeg, which is begun in the same process.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def load_script(name: str) -> ModuleType:
    """Imports a script of ``scripts/``, whose flags may have the names of others'."""
    for flag in flags.FLAGS:
        flags.FLAGS[flag].allow_override = True
    spec = importlib.util.spec_from_file_location(
        name, _ROOT / "scripts" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while they are being defined.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    return module


# Whose single tests take longest: with one of them last, only one worker would work.
_FIRST = (
    *("test_batch_on_ray", "test_studio_page", "test_web_page", "test_notebook"),
    *("test_benchmark", "test_checkpoint", "test_convert_squeezenet", "test_neighbors"),
)


def pytest_collection_modifyitems(items):
    """Puts what takes long first."""
    items.sort(key=lambda item: item.path.stem not in _FIRST)


def pytest_collection_finish():
    """Spares every run's ``gc.collect`` the half million objects that stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def one_precision_on_every_machine():
    """Makes every CPU look like one that does not multiply bfloat16."""
    precision = importlib.import_module("tfstyle.backbones.precision")
    precision.CPUINFO = _ROOT / "no such file"


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left():
    """Checks that the tests of a module leave no process of tfstyle behind."""
    yield
    left = [
        process
        for process in psutil.process_iter(["environ", "cmdline"])
        if (process.info["environ"] or {}).get(_MARK) == str(os.getpid())
        and re.search(r"tfstyle\.cli|\bray\b", " ".join(process.info["cmdline"] or []))
        and process.pid != os.getpid()
    ]
    _, alive = psutil.wait_procs(left, timeout=10)
    for process in alive:
        process.kill()
    assert not alive


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data, which is not part of the project."""
    folder = Path(os.environ.get("TFSTYLE_SHARED", _ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs {folder}; set TFSTYLE_SHARED to the reference data")
    return folder


def draw(height: int, width: int, stripes: tuple[float, float, float]) -> np.ndarray:
    """A picture of slanted waves, one wavelength in pixels per channel."""
    y, x = np.mgrid[:height, :width].astype("float64")
    angles = np.array([0.3, 1.2, 2.2])
    along = x[..., None] * np.cos(angles) + y[..., None] * np.sin(angles)
    waves = 0.5 + 0.4 * np.sin(2 * np.pi * along / np.array(stripes))
    shade = np.linspace(0.6, 1.0, width)[:, None]
    return (waves * shade)[None].astype("float32")


@pytest.fixture(scope="session")
def content() -> np.ndarray:
    """A smooth picture, ``[1, 32, 40, 3]``."""
    return draw(32, 40, (40, 30, 24))


@pytest.fixture(scope="session")
def style() -> np.ndarray:
    """A finely striped picture of another size, ``[1, 36, 28, 3]``."""
    return draw(36, 28, (4, 5, 7))


class TinyFeatures:
    """Three random convolutions, of stride 1, 2 and 3.

    Attributes:
      calls: How often the features have been computed, or traced.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.kernels = {
            layer: rng.normal(size=[3, 3, inputs, outputs]) / np.sqrt(9 * inputs)
            for layer, inputs, outputs in (("a", 3, 4), ("b", 4, 6), ("c", 6, 5))
        }
        self.calls = 0

    def __call__(self, images):
        import tensorflow as tf

        self.calls += 1
        features, x = {}, images
        for stride, (layer, kernel) in enumerate(self.kernels.items(), 1):
            x = tf.nn.conv2d(x, tf.cast(kernel, x.dtype), stride, "SAME")
            x = features[layer] = tf.nn.softplus(x)
        return features


@pytest.fixture
def bfloat16_cpu(monkeypatch):
    """Makes ``precision=auto`` mean bfloat16."""
    precision = importlib.import_module("tfstyle.backbones.precision")
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)


@pytest.fixture
def tiny_features() -> TinyFeatures:
    return TinyFeatures()


@pytest.fixture
def tiny_backbone(monkeypatch):
    return use_tiny_backbone(monkeypatch)


def use_tiny_backbone(monkeypatch):
    """Makes every run use a random VGG of three convolutions."""
    from tfstyle.backbones import base, vgg
    from tfstyle.losses import from_options

    channels = {"block1_conv1": 8, "block2_conv1": 12, "block3_conv1": 16}

    def weights():
        rng = np.random.default_rng(11)
        arrays, inputs = {}, 3
        for layer, outputs in channels.items():
            kernel = rng.normal(size=[3, 3, inputs, outputs]) * (2 / 9 / inputs) ** 0.5
            arrays[f"{layer}/kernel"] = kernel.astype("float32")
            arrays[f"{layer}/bias"] = rng.normal(size=[outputs]).astype("float32") / 10
            inputs = outputs
        return arrays

    names = vgg.layer_names((1, 1, 1))
    tiny = base.Backbone(
        name="tiny",
        layers=names,
        content_layers={"block3_conv1": 1.0},
        style_layers=dict.fromkeys(channels, 1.0),
        preprocessing="torch",
        build=lambda x, pooling: vgg.build(x, channels, pooling),
        published_weights=weights,
    )
    monkeypatch.setattr(from_options, "get_backbone", lambda name: tiny)
    return tiny


def simple_pictures(content, style, start=None, size=None):
    """The pictures of a run without regions that starts from the content picture."""
    from tfstyle.stylizer.pictures import Pictures, StylePicture

    return Pictures(
        content=content,
        styles=() if style is None else (StylePicture(style),),
        shares=np.ones((0 if style is None else 1, 1)),
        start=content if start is None else start,
        size=content.shape[1:3] if size is None else size,
    )


def lively_network(style_names, **options):
    """A small feed-forward network whose styles differ much."""
    import keras

    from tfstyle.networks.style_net import StyleNet

    keras.utils.set_random_seed(3)
    network = StyleNet(style_names, **{"width": 4, "blocks": 1, **options})
    random = np.random.default_rng(4)
    for norm in network.norms:
        norm.scale.assign(random.normal(1, 0.5, norm.scale.shape))
        norm.offset.assign(random.normal(0, 0.5, norm.offset.shape))
    network.last.kernel.assign(random.normal(0, 0.1, network.last.kernel.shape))
    return network


def no_memory() -> tuple[Exception, ...]:
    """What NumPy, TensorFlow and oneDNN raise when memory is full."""
    import tensorflow as tf

    oom = "OOM when allocating tensor"
    onednn = "Operation received an exception:Status: 1, message: could not create a"
    return (
        MemoryError(),
        tf.errors.ResourceExhaustedError(None, None, oom),
        tf.errors.AbortedError(None, None, onednn),
    )


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command line; gives its exit code and what it printed."""

    from tfstyle.cli.main import main

    # A slow machine prints no more lines of progress than a fast one.
    seconds = "tfstyle.monitoring.progress_bar.SECONDS_BETWEEN_LINES"
    monkeypatch.setattr(seconds, float("inf"))

    def run_here(*words):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run_here


@pytest.fixture
def refused(run):
    """Runs the command line, which must refuse in one line; gives code and line."""

    def run_refused(*words):
        code, out, err = run(*words)
        assert out == ""
        assert err.startswith("tfstyle: ") and err.endswith("\n")
        assert err.count("\n") == 1 and "Traceback" not in err and len(err) < 600
        return code, err

    return run_refused


@pytest.fixture
def no_tensorflow(monkeypatch):
    """Makes every import of TensorFlow or Keras fail."""
    for name in (
        "tensorflow",
        "keras",
        "tfstyle.stylizer.run",
        "tfstyle.optimizers.loop",
    ):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def folder(tmp_path, monkeypatch, content, style):
    """The working directory, with ``content.png`` and ``style.png``."""
    from tfstyle import save_image

    monkeypatch.chdir(tmp_path)
    save_image(content, "content.png")
    save_image(style, "style.png")
    return tmp_path


def without_progress(err: str) -> str:
    """The lines on standard error but those that tell how far slow work is."""
    lines = err.splitlines(keepends=True)
    return "".join(li for li in lines if not re.match("tfstyle: (picture|step) ", li))
