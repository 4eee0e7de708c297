"""Tests of tfstyle/memory.py."""

import logging
import math

import numpy as np
import pytest
import tensorflow as tf

from tfstyle import memory
from tfstyle.errors import UsageError
from tfstyle.memory import MemoryPlanner, machine_memory
from tfstyle.options import Options
from tfstyle.pyramid import PyramidRun, perceptual_loss

LARGE, STYLE = (3072, 4096), (768, 1024)


def planner(**options):
    chosen = Options(**options)
    return MemoryPlanner(perceptual_loss(chosen), chosen)


def cut(plan, size=LARGE, style_size=STYLE, batch=1):
    return plan.cut(size, style_size, batch, plan.pairs(size, style_size, batch))


def run(content, style, callbacks=(), **options):
    chosen = Options(**{"scales": 1, "steps": 6, "margin": 0, **options})
    return PyramidRun(
        content, style, content, content.shape[1:3], chosen, callbacks
    ).run()


@pytest.fixture
def little(monkeypatch):
    """Leaves nothing but the network's own needs in the estimate."""
    monkeypatch.setattr(memory, "_RUNTIME", 0.0)
    monkeypatch.setattr(memory, "_ADAM_COPIES", 0.0)


# How pictures are cut.


def test_ample_memory_takes_pictures_whole():
    made = cut(planner(max_memory=200))
    assert (made.tiles, made.content.shape, made.style.shape) == (1, LARGE, STYLE)
    assert made.keep_content


def test_tiles_grow_with_memory():
    pixels = [
        math.prod(cut(planner(max_memory=limit, optimizer="adam")).content.shape)
        for limit in (4.5, 7, 14)
    ]
    assert 512**2 < pixels[0] < pixels[1] / 1.5 < pixels[2] / 3
    assert pixels[2] < math.prod(LARGE) / 2


def test_a_batch_has_smaller_tiles():
    plan = planner(max_memory=20, optimizer="adam")
    alone, four = cut(plan), cut(plan, batch=4)
    assert math.prod(four.content.shape) < math.prod(alone.content.shape) / 4
    assert four.style.shape == STYLE


def test_features_are_computed_again_before_tiles_become_too_small():
    # VGG's content features take 1.6 GB at 50 megapixels, slim19's 0.4.
    size = (6144, 8192)
    kept = [
        cut(planner(max_memory=limit, optimizer="adam"), size).keep_content
        for limit in (9.6, 10.6)
    ]
    assert kept == [False, True]


def test_lbfgs_remembers_as_much_as_fits():
    sizes = [(384, 512), (1536, 2048), (2100, 2800), LARGE]
    plan = planner(max_memory=5 / 0.85)
    pairs = [plan.pairs(size, STYLE, 1) for size in sizes]
    assert pairs[0] == pairs[1] == 10
    assert 4 <= pairs[2] < 10
    assert pairs[3] == 0
    assert (
        planner(max_memory=5 / 0.85, optimizer="lbfgs", history=7).pairs(
            LARGE, STYLE, 1
        )
        == 7
    )
    assert (
        planner(max_memory=5 / 0.850, optimizer="adam").pairs(sizes[0], STYLE, 1) == 0
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"optimizer": "lbfgs"},
            r"L-BFGS with history=10 needs 7\.\d GB for 4096×3072 pixels beside the "
            r"network, of 1\.7 GB of max_memory that .* shorter history or",
        ),
        (
            {"optimizer": "auto"},
            r"Adam needs 2\.\d GB for 4096×3072 .*; raise max_memory or choose",
        ),
    ],
)
def test_a_picture_that_fits_in_no_way_is_refused(options, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        cut(planner(max_memory=2, **options))
    assert "\n" not in str(caught.value)


def test_the_limit_is_a_share_of_what_there_is(monkeypatch):
    monkeypatch.setattr(memory, "machine_memory", lambda: 10e9)
    assert planner().limit == 6e9
    assert planner(max_memory=1.5).limit == 1.5e9


def test_a_containers_limit_counts(monkeypatch, tmp_path):
    machine = machine_memory()
    assert machine > 1e8
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory() >= machine
    (tmp_path / "memory.max").write_text("12345678\n")
    assert machine_memory() == 12345678.0


# Runs.


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_by_tiles_ends_as_a_whole_one(
    tiny_backbone, content, style, monkeypatch, little, optimizer
):
    monkeypatch.setattr(memory, "_LBFGS_COPIES", 0.0)
    monkeypatch.setattr(memory, "_COPIES_PER_PAIR", 0.0)
    cuts, make = [], MemoryPlanner.cut
    monkeypatch.setattr(
        MemoryPlanner, "cut", lambda *args: cuts.append(make(*args)) or cuts[-1]
    )
    options = {"optimizer": optimizer, "space": "normalized", "clamp": ()}
    whole = run(content, style, **options)
    tiled = run(content, style, max_memory=1.5e-4, **options)
    assert [made.tiles > 1 for made in cuts] == [False, True]
    np.testing.assert_allclose(tiled.image, whole.image, atol=2e-3)
    np.testing.assert_allclose(
        tiled.history["total"], whole.history["total"], rtol=1e-3
    )
    assert whole.history["total"][-1] < 0.9 * whole.history["total"][0]


def test_a_run_out_of_memory_goes_on_with_smaller_tiles(
    tiny_backbone, content, style, monkeypatch, caplog
):
    undisturbed = run(content, style, optimizer="adam")
    objective, cuts = PyramidRun._objective, []

    def failing(self, made, size):
        cuts.append(made)
        inner = objective(self, made, size)

        def fails_at_the_third_step(value):
            evaluations.assign_add(1)
            enough = tf.debugging.assert_less(evaluations, 3)
            with tf.control_dependencies([enough]):
                return inner(tf.identity(value))

        return fails_at_the_third_step if len(cuts) == 1 else inner

    def as_exhausted(*args, **options):
        try:
            return optimize(*args, **options)
        except tf.errors.InvalidArgumentError as error:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM") from error

    from tfstyle import pyramid

    evaluations, optimize = tf.Variable(0), pyramid.optimize
    monkeypatch.setattr(pyramid, "optimize", as_exhausted)
    monkeypatch.setattr(PyramidRun, "_objective", failing)
    with caplog.at_level(logging.WARNING, "tfstyle"):
        result = run(content, style, optimizer="adam")
    assert [made.tiles for made in cuts] == [1, len(cuts[1].content)]
    assert math.prod(cuts[1].content.shape) <= content[0, ..., 0].size / 2
    assert "out of memory at 1 tile(s) of 40×32 pixels" in caplog.text
    assert result.history["step"] == undisturbed.history["step"]
    np.testing.assert_allclose(result.image, undisturbed.image, atol=2e-3)
