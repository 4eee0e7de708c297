"""Tests of the precision of networks."""

import os

import pytest
import tensorflow as tf

from tfstyle.backbones import precision
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.backbones.precision import dtype_policy, multiplies_bfloat16
from tfstyle.cli.quiet import import_tensorflow
from tfstyle.errors import UsageError

pytestmark = pytest.mark.fast


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Forgets what is known of this machine, before and after."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    multiplies_bfloat16.cache_clear()
    yield
    multiplies_bfloat16.cache_clear()


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Replaces this CPU by one with given flags."""
    file = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "CPUINFO", file)
    return lambda flags: file.write_text(f"model name\t: CPU\nflags\t\t: {flags}\n")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f avx512_bf16 fma", True),
        ("fpu amx_bf16 amx_tile", True),
        ("fpu avx2 avx512f avx512_vnni", False),
        ("fpu not_avx512_bf16", False),
    ],
)
def test_multiplies_bfloat16_reads_the_flags_of_the_cpu(cpu, flags, expected):
    cpu(flags)
    assert multiplies_bfloat16() is expected
    policy = "mixed_bfloat16" if expected else "float32"
    assert dtype_policy("auto") == policy


@pytest.mark.parametrize(
    ("machine", "given", "wanted"),
    [("x86_64", None, "1"), ("AMD64", "0", "0"), ("aarch64", None, None)],
)
def test_commands_have_one_dnn_on_x86(monkeypatch, machine, given, wanted):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", given or "")
    if given is None:
        monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    monkeypatch.setattr("platform.machine", lambda: machine)
    import_tensorflow()
    assert os.environ.get("TF_ENABLE_ONEDNN_OPTS") == wanted


def test_multiplies_bfloat16_is_false_without_cpuinfo(cpu):
    assert not multiplies_bfloat16()


def test_multiplies_bfloat16_is_false_without_onednn(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not multiplies_bfloat16()


def test_dtype_policy_auto_is_float32_on_gpus(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert dtype_policy("auto") == "float32"


def test_dtype_policy_is_the_precision_that_is_named(cpu):
    cpu("avx2")
    policies = [dtype_policy(p) for p in ("float32", "bfloat16", "float64")]
    assert policies == ["float32", "mixed_bfloat16", "float64"]


@pytest.mark.parametrize("precision", ["float16", "mixed_bfloat16", "floot32", None])
def test_dtype_policy_refuses_another_precision(precision):
    with pytest.raises(UsageError, match=r"precision=.*auto, float32, bfloat16"):
        dtype_policy(precision)


def test_feature_extractor_auto_precision_follows_the_cpu(cpu):
    for flags, dtype in (("avx512_bf16", "bfloat16"), ("avx2", "float32")):
        cpu(flags)
        multiplies_bfloat16.cache_clear()
        extract = FeatureExtractor("slim19", ["relu1_1"], precision="auto")
        assert extract.dtype == dtype
