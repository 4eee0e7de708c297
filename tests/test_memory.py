"""Tests of how pictures are cut so that a run stays within its memory."""

import dataclasses
import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from conftest import simple_pictures

from tfstyle.errors import UsageError
from tfstyle.losses.from_options import perceptual_loss
from tfstyle.optimizers.loop import Loop
from tfstyle.options import Options
from tfstyle.stylizer import engine as engines
from tfstyle.stylizer import memory, problem
from tfstyle.stylizer.engine import Engine
from tfstyle.stylizer.memory import MemoryPlanner, machine_memory
from tfstyle.stylizer.run import Run

LARGE, STYLE = (3072, 4096), (768, 1024)


def planner(last=(0, 0), **options):
    chosen = Options(**options)
    return MemoryPlanner(perceptual_loss(chosen), chosen, last=last)


def cut(plan, size=LARGE, style_size=STYLE, batch=1):
    styles = [style_size] if style_size else []
    return plan.cut(size, styles, batch, plan.pairs(size, styles, batch))


def run(content, style, **options):
    few = {"scales": 1, "steps": 6, "margin": 0, "style_loss": "gram"}
    chosen = Options(**{**few, **options})
    return Run(Engine([chosen]), chosen, simple_pictures(content, style)).finish()


@pytest.fixture
def little(monkeypatch):
    """Leaves nothing but the network's own needs in the estimate."""
    monkeypatch.setattr(memory, "RUNTIME", 0.0)
    monkeypatch.setattr(memory, "_ADAM_COPIES", 0.0)
    monkeypatch.setattr(memory, "_LEAST_TILE", 0)


# How pictures are cut.


def test_ample_memory_takes_pictures_whole():
    made = cut(planner(max_memory=200))
    assert (made.tiles, made.content.shape, made.styles[0].shape) == (1, LARGE, STYLE)
    assert made.keep_content


def test_tiles_grow_with_memory():
    pixels = [
        math.prod(cut(planner(max_memory=limit, optimizer="adam")).content.shape)
        for limit in (4.5, 7, 14)
    ]
    assert 512**2 < pixels[0] < pixels[1] / 1.5 < pixels[2] / 3
    assert pixels[2] < math.prod(LARGE) / 2


def test_tiles_do_not_become_useless(monkeypatch):
    # 16 megapixels leave nothing of what is planned with.
    made = cut(planner(max_memory=3.0, optimizer="adam"), (3464, 4619), (3464, 4619))
    assert 300**2 < math.prod(made.content.shape) <= 384**2
    assert made.tiles < 600


def test_a_batch_has_smaller_tiles():
    plan = planner(max_memory=20, optimizer="adam")
    alone, four = cut(plan), cut(plan, batch=4)
    assert math.prod(four.content.shape) < math.prod(alone.content.shape) / 4
    assert four.styles[0].shape == STYLE


def test_features_are_computed_again_before_tiles_become_too_small():
    # slim19's content features take 0.4 GB at 50 megapixels, and 1.1 as they are made.
    size = (6144, 8192)
    kept = [
        cut(planner(max_memory=limit, optimizer="adam"), size).keep_content
        for limit in (7.5, 9)
    ]
    assert kept == [False, True]


def test_lbfgs_remembers_as_much_as_fits():
    sizes = [(384, 512), (1536, 2048), (2400, 3200), (3456, 4608)]
    plan = planner(max_memory=6.5 / 0.85)
    pairs = [plan.pairs(size, [STYLE], 1) for size in sizes]
    assert pairs[0] == pairs[1] == 20
    assert 5 <= pairs[2] < 14
    assert 1 <= pairs[3] < 5
    assert plan.pairs((6144, 8192), [STYLE], 1) == 0
    assert (
        planner(max_memory=6.5 / 0.85, optimizer="lbfgs", history=7).pairs(
            LARGE, [STYLE], 1
        )
        == 7
    )
    assert (
        planner(max_memory=6.5 / 0.85, optimizer="adam").pairs(sizes[0], [STYLE], 1)
        == 0
    )


def test_content_features_are_worth_more_than_pairs_but_for_the_first(monkeypatch):
    def made(limit):
        plan = planner(max_memory=limit)
        return plan.pairs(LARGE, [STYLE], 1), cut(plan).keep_content

    large, small = made(8), made(3.9)
    assert large[0] > 1 and large[1]
    assert small == (1, False)
    monkeypatch.setattr(memory, "_KEPT_COPIES", 0.0)
    assert made(8)[0] > large[0]


def test_coarse_scales_leave_room_for_the_enlarging():
    """36 bytes a pixel of the last scale; a pair of vectors takes 28.8."""

    def fewer(limit, size):
        alone, before = planner(max_memory=limit), planner(LARGE, max_memory=limit)
        return alone.pairs(size, [STYLE], 1) - before.pairs(size, [STYLE], 1)

    assert fewer(5.5, (1536, 2048)) == 5
    assert planner(max_memory=7).pairs(LARGE, [STYLE], 1) > 3
    assert fewer(7, LARGE) == 0


def test_a_run_tells_the_planner_its_last_scale(content, style, monkeypatch):
    told = []

    class Watched(MemoryPlanner):
        def __init__(self, *args):
            super().__init__(*args)
            told.append(self._last)

    monkeypatch.setattr(problem, "MemoryPlanner", Watched)
    large = np.tile(content, (1, 4, 4, 1))
    pictures = simple_pictures(large, np.tile(style, (1, 4, 4, 1)))
    Run(Engine([Options()]), Options(), pictures)
    assert told == [math.prod(large.shape[1:3])]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"optimizer": "lbfgs"},
            r"L-BFGS with history=20 needs 10\.\d GB for 4096×3072 pixels, of "
            r"2\.0 GB that the run may take; .* shorter history or",
        ),
        (
            {"optimizer": "auto"},
            r"Adam needs [23]\.\d GB for 4096×3072 .*; raise max_memory or choose",
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


@pytest.mark.parametrize("batch", [1, 3])
def test_less_memory_means_more_work_until_nothing_fits(batch):
    plan, made, refused = planner(max_memory=1, optimizer="adam"), [], []
    for limit in (200, 12, 6, 4, 3.6, 3.2, 3, 2.8, 1.5):
        plan.limit = batch * limit * 1e9
        try:
            made.append(cut(plan, batch=batch))
            assert not refused
        except UsageError as error:
            refused.append(str(error))
    assert made[0].tiles == 1 and made[0].keep_content and refused
    # Features that are not kept are a quarter of a step's work.
    work = [
        len(m.content) * math.prod(m.content.shape) * (1 if m.keep_content else 1.25)
        for m in made
    ]
    assert work == sorted(work)
    kept = [m.keep_content for m in made]
    assert kept == sorted(kept, reverse=True)
    # Features are let go before tiles become smaller than is useful.
    assert all(math.prod(m.content.shape) > 0.7 * memory._LEAST_TILE for m in made)
    assert batch > 1 or not all(kept)


def test_the_tiles_fill_what_the_pictures_leave(little, monkeypatch):
    monkeypatch.setattr(memory, "_PLANNED", 1.0)
    monkeypatch.setattr(memory, "_ACTIVATIONS", 1.0)
    for limit in (0.6, 1.0, 2.0, 3.0):
        plan = planner(max_memory=limit, optimizer="adam")
        # block4_conv2: 128 channels of 4 bytes at every eighth pixel each way.
        features = memory._KEPT_COPIES * 128 * 4 / 64 * math.prod(LARGE)
        style = 12 * math.prod(STYLE)
        free = limit * 1e9 - features - style
        made = cut(plan)
        assert made.keep_content
        per_pixel = perceptual_loss(Options()).features.bytes_per_pixel
        for grid in (made.content, *made.styles):
            assert math.prod(grid.shape) * per_pixel <= free
        assert math.prod(made.content.shape) * per_pixel > 0.6 * free


def test_passing_copies_take_turns_with_tiles(monkeypatch):
    def tile():
        made = cut(planner(max_memory=8, optimizer="lbfgs", history=4))
        return math.prod(made.content.shape)

    with_them = tile()
    monkeypatch.setattr(memory, "_PASSING_COPIES", 0.0)
    assert tile() == with_them  # for the tiles are larger
    monkeypatch.setattr(memory, "_PASSING_COPIES", 40.0)
    with pytest.raises(UsageError, match=r"history=4 needs 9\.\d GB"):
        tile()


def test_what_lbfgs_remembers_leaves_less_for_tiles():
    pixels = [
        math.prod(
            cut(
                planner(max_memory=12, optimizer="lbfgs", history=history)
            ).content.shape
        )
        for history in (4, 10, 15)
    ]
    adam = cut(planner(max_memory=12, optimizer="adam"))
    assert math.prod(adam.content.shape) > pixels[0] > pixels[1] > pixels[2]


def test_without_a_style_picture_only_the_content_is_cut():
    options = {"max_memory": 7, "optimizer": "adam", "style_weight": 0.0}
    made = cut(planner(**options), style_size=None)
    assert made.styles == ()
    assert made.tiles == len(made.content) > 1


def test_running_out_of_memory_halves_the_tiles_until_none_is_left(caplog):
    plan, shapes = planner(max_memory=200, optimizer="adam"), []
    with (
        caplog.at_level(logging.WARNING, "tfstyle"),
        pytest.raises(UsageError, match="the least for these layers") as caught,
    ):
        while len(shapes) < 50:
            made = cut(plan, batch=2)
            largest = max(
                2 * math.prod(made.content.shape), math.prod(made.styles[0].shape)
            )
            assert not shapes or largest <= shapes[-1] / 2
            shapes.append(largest)
            plan.shrink(made, 2)
    assert shapes[0] == 2 * math.prod(LARGE)
    assert 5 < len(shapes) < 15
    assert "\n" not in str(caught.value)
    messages = [r.getMessage() for r in caplog.records if r.name == "tfstyle"]
    assert len(messages) == len(shapes)
    assert messages[0] == (
        "out of memory at 1 tile(s) of 4096×3072 pixels; going on with smaller ones"
    )


@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_limit_of_either_kind_of_container_counts_if_it_is_less(
    monkeypatch, tmp_path, file
):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    machine = machine_memory()
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    for text, expected in (
        ("max\n", machine),
        ("9223372036854771712\n", machine),
        ("", machine),
        ("12345678\n", 12345678.0),
    ):
        path.write_text(text)
        assert machine_memory() == expected
    path.write_text("2000000000\n")
    assert planner().limit == memory.SHARE * 2e9


def test_the_first_gpu_counts_where_there_is_one(monkeypatch):
    from tensorflow.python.client import device_lib

    devices = [
        SimpleNamespace(device_type="CPU", memory_limit=1),
        SimpleNamespace(device_type="GPU", memory_limit=7 * 10**9),
        SimpleNamespace(device_type="GPU", memory_limit=9 * 10**9),
    ]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices[1:])
    monkeypatch.setattr(device_lib, "list_local_devices", lambda: devices)
    assert machine_memory() == 7e9
    assert planner().limit == pytest.approx(memory.SHARE * 7e9)


# Runs.


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_a_run_by_tiles_ends_as_a_whole_one(
    tiny_backbone, content, style, monkeypatch, little, optimizer
):
    for name in ("_LBFGS_COPIES", "_COPIES_PER_PAIR", "_PASSING_COPIES"):
        monkeypatch.setattr(memory, name, 0.0)
    cuts, make = [], MemoryPlanner.cut
    monkeypatch.setattr(
        MemoryPlanner, "cut", lambda *args: cuts.append(make(*args)) or cuts[-1]
    )
    options = {"optimizer": optimizer, "space": "normalized", "clamp": ()}
    whole = run(content, style, **options)
    tiled = run(content, style, max_memory=1.5e-4, **options)
    assert [made.tiles > 1 for made in cuts] == [False, True]
    np.testing.assert_allclose(tiled.images, whole.images, atol=2e-3)
    np.testing.assert_allclose(
        tiled.history["total"], whole.history["total"], rtol=1e-3
    )
    assert whole.history["total"][-1] < 0.9 * whole.history["total"][0]


def test_a_run_out_of_memory_goes_on_with_smaller_tiles(
    tiny_backbone, content, style, monkeypatch, caplog
):
    undisturbed = run(content, style, optimizer="adam")
    objective, cuts = problem.cut_objective, []

    def failing(loss, made, *rest):
        cuts.append(made)
        inner = objective(loss, made, *rest)

        def fails_at_the_third_step(value, targets):
            evaluations.assign_add(1)
            enough = tf.debugging.assert_less(evaluations, 3)
            with tf.control_dependencies([enough]):
                return inner(tf.identity(value), targets)

        return fails_at_the_third_step if len(cuts) == 1 else inner

    def as_exhausted(*args, **options):
        try:
            return run_loop(*args, **options)
        except tf.errors.InvalidArgumentError as error:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM") from error

    evaluations, run_loop = tf.Variable(0), Loop.run
    monkeypatch.setattr(Loop, "run", as_exhausted)
    monkeypatch.setattr(problem, "cut_objective", failing)
    with caplog.at_level(logging.WARNING, "tfstyle"):
        result = run(content, style, optimizer="adam")
    assert [made.tiles for made in cuts] == [1, len(cuts[1].content)]
    assert math.prod(cuts[1].content.shape) <= content[0, ..., 0].size / 2
    assert "out of memory at 1 tile(s) of 40×32 pixels" in caplog.text
    assert result.history["step"] == undisturbed.history["step"]
    np.testing.assert_allclose(result.images, undisturbed.images, atol=2e-3)


@pytest.mark.parametrize(("keep", "margin"), [(True, 5), (False, 0)])
def test_tiles_change_neither_losses_nor_picture(
    tiny_backbone, content, style, monkeypatch, little, keep, margin
):
    cuts, make = [], MemoryPlanner.cut

    def spied(*args):
        cuts.append(dataclasses.replace(make(*args), keep_content=keep))
        return cuts[-1]

    monkeypatch.setattr(MemoryPlanner, "cut", spied)
    options = {"optimizer": "adam", "steps": (4, 4), "scales": 2, "margin": margin}
    whole = run(content, style, **options)
    tiled = run(content, style, max_memory=2e-4, **options)
    assert cuts[0].tiles == cuts[1].tiles == 1 < cuts[3].tiles
    np.testing.assert_allclose(tiled.images, whole.images, atol=1e-4)
    assert tiled.history.keys() == whole.history.keys()
    for name, column in whole.history.items():
        np.testing.assert_allclose(
            tiled.history[name], column, rtol=1e-4, atol=1e-6, err_msg=name
        )


def test_the_optimizer_goes_on_from_where_memory_ran_out(
    tiny_backbone, content, style, monkeypatch, caplog
):
    undisturbed = run(content, style, optimizer="adam")
    objective, make, begins = problem.cut_objective, engines._optimizer, []
    evaluations, optimizers = tf.Variable(0), []

    def allocate(count):
        if count == 3:
            raise MemoryError  # which TensorFlow turns into a ResourceExhaustedError
        return count

    def failing(loss, made, *rest):
        begins.append((optimizers[0].evaluations.numpy(), made))
        moved = np.abs(optimizers[0]._momentum.numpy()).max()
        assert (moved > 0) == (begins[-1][0] > 0)
        inner = objective(loss, made, *rest)

        def evaluate(value, targets):
            count = tf.numpy_function(allocate, [evaluations.assign_add(1)], tf.int32)
            with tf.control_dependencies([count]):
                return inner(tf.identity(value), targets)

        return evaluate

    monkeypatch.setattr(problem, "cut_objective", failing)
    monkeypatch.setattr(
        engines,
        "_optimizer",
        lambda *args: optimizers.append(make(*args)) or optimizers[-1],
    )
    with caplog.at_level(logging.WARNING, "tfstyle"):
        result = run(content, style, optimizer="adam")
    assert len(optimizers) == 1
    assert [done for done, _ in begins] == [0, 2]
    assert begins[0][1].tiles == 1 < begins[1][1].tiles
    assert "out of memory at 1 tile(s) of 40×32 pixels" in caplog.text
    assert caplog.text.count("out of memory") == 1
    assert result.history["step"] == undisturbed.history["step"]
    np.testing.assert_allclose(
        result.history["total"], undisturbed.history["total"], rtol=1e-4
    )
    np.testing.assert_allclose(result.images, undisturbed.images, atol=1e-4)
