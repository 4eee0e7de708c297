"""Tests of tfstyle/precision.py."""

import pytest
import tensorflow as tf

from tfstyle.backbones import precision
from tfstyle.backbones.feature_extractor import FeatureExtractor
from tfstyle.backbones.precision import dtype_policy, multiplies_bfloat16


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Asks anew, and forgets the answer afterwards."""
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    multiplies_bfloat16.cache_clear()
    yield
    multiplies_bfloat16.cache_clear()


@pytest.fixture
def cpu(tmp_path, monkeypatch):
    """Makes this another CPU, of such flags."""
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
def test_what_a_cpu_multiplies_is_read_off_its_flags(cpu, flags, expected):
    cpu(flags)
    assert multiplies_bfloat16() is expected
    policy = "mixed_bfloat16" if expected else "float32"
    assert dtype_policy("auto") == policy


def test_nothing_is_said_of_other_systems(cpu):
    assert not multiplies_bfloat16()


def test_without_onednn_bfloat16_is_not_trusted(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert not multiplies_bfloat16()


def test_gpus_keep_to_float32(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert dtype_policy("auto") == "float32"


def test_what_is_asked_for_is_what_there_is(cpu):
    cpu("avx2")
    policies = [dtype_policy(p) for p in ("float32", "bfloat16", "float64")]
    assert policies == ["float32", "mixed_bfloat16", "float64"]


def test_the_network_is_as_the_cpu_is(cpu):
    for flags, dtype in (("avx512_bf16", "bfloat16"), ("avx2", "float32")):
        cpu(flags)
        multiplies_bfloat16.cache_clear()
        extract = FeatureExtractor("slim19", ["relu1_1"], precision="auto")
        assert extract.dtype == dtype
