"""Tests of tfstyle.batch on real Ray processes, some of which are killed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import draw, without_progress
from object_store import object_store

from tfstyle import load_image, save_image
from tfstyle.batch.stores import store_of
from tfstyle.networks.style_net import apply_style

pytest.importorskip("ray")

PROGRAM = [sys.executable, "-m", "tfstyle", "batch", "photos"]
SIDE = 64
MANY = 1000  # so many that a signal comes in the middle


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """The working directory; makes pictures in ``photos``, one in 20 damaged."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()

    def make(number: int) -> int:
        wide = draw(SIDE, SIDE + number, (40, 30, 24))
        for i in range(number):
            save_image(wide[:, :, i : i + SIDE], f"photos/{i}.png")
        for i in range(7, number, 20):
            file = Path(f"photos/{i}.png")
            file.write_bytes(file.read_bytes()[:600])
        return len(range(7, number, 20))

    return make


@contextlib.contextmanager
def begun(*words: str):
    """Runs the command in a process group of its own."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [*PROGRAM, "--output=out", "--style_name=waves", "--workers=2", *words]
    process = subprocess.Popen(command, start_new_session=True, **piped)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def results() -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path("out").glob("*.png")}


def working(pid: int) -> list[psutil.Process]:
    """The workers among the processes that a process has begun."""
    children = psutil.Process(pid).children(recursive=True)
    return [child for child in children if "ray::MapWorker" in cmdline(child)]


def cmdline(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def listening_addresses(pid: int) -> set[str]:
    """Where a process and those that it has begun can be reached."""
    found, begun = set(), psutil.Process(pid)
    for process in [begun, *begun.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.ip)
    return found


def wait_for(number: int, process: subprocess.Popen) -> None:
    """Waits until so many results are there."""
    until = time.monotonic() + 120
    while len(results()) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def assert_whole_results() -> None:
    for name in results():
        assert load_image(f"out/{name}").shape == (1, SIDE, SIDE, 3)


@pytest.fixture(params=["", pytest.param("x" * 60, marks=pytest.mark.slow)])
def temporary(request):
    """A folder for temporary files, whose name may be too long for sockets in it."""
    with tempfile.TemporaryDirectory(prefix=request.param, dir="/tmp") as folder:
        yield folder


def test_batch_ends_all_processes_at_ctrl_c_and_goes_on(photos, temporary, monkeypatch):
    bad = photos(MANY)
    monkeypatch.setenv("TMPDIR", temporary)
    with begun() as process:
        wait_for(5, process)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    err = without_progress(err)
    assert err.startswith("tfstyle: stopped; the same command goes on")
    assert err.count("\n") == 1
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert_whole_results()
    first = results()
    assert 5 <= len(first) < MANY - bad

    with begun() as process:
        wait_for(len(first) + 1, process)
        addresses = listening_addresses(process.pid)
        out, err = process.communicate(timeout=300)
    assert addresses and addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    done = f"{MANY - bad - len(first)} stylized, {len(first)} done before"
    assert (process.returncode, without_progress(err)) == (1, "")
    assert f"out: {MANY} pictures found, {done}, {bad} unreadable" in out
    last = results()
    assert len(last) == MANY - bad
    assert {name: last[name] for name in first} == first
    for name in ("0.png", "31.png", f"{MANY - 1}.png"):
        same = load_image(f"out/{name}") - apply_style(f"photos/{name}", "waves")
        assert np.abs(same).max() <= 0.51 / 255
    lines = Path("out/unreadable.jsonl").read_text().splitlines()
    assert len({json.loads(line)["path"] for line in lines}) == bad
    assert not Path("out/.tfstyle-batch").exists()
    assert not any(Path(temporary).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_batch_leaves_no_process_behind(photos, number, code):
    photos(120)
    with begun() as process:
        wait_for(5, process)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert without_progress(err).count("\n") == (number == signal.SIGTERM)
    # After SIGKILL, Ray's agents look for its server for a minute.
    assert not psutil.wait_procs(family, timeout=120)[1]
    assert_whole_results()


@pytest.mark.slow
def test_batch_gives_a_picture_up_that_kills_its_workers(photos, monkeypatch, tmp_path):
    photos(21)
    Path("sitecustomize.py").write_text(
        "import os, tfstyle.batch.run as run\n"
        "real = run.load_image\n"
        "def load_image(source, size):\n"
        "    if str(source).endswith('/3.png'):\n"
        "        os.kill(os.getpid(), 9)\n"
        "    return real(source, size)\n"
        "run.load_image = load_image\n"
    )
    paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    with begun() as process:
        out, _ = process.communicate(timeout=240)
    assert "out: 21 pictures found, 19 stylized, 0 done before, 2 unreadable" in out
    failed = Path("out/unreadable.jsonl").read_text()
    assert "/3.png" in failed and "2 workers that tried have died" in failed


@pytest.mark.slow
def test_batch_of_ten_thousand_survives_five_kills(photos):
    bad = photos(10_000)
    with begun() as process:
        for number in range(500, 5500, 1000):
            wait_for(number, process)
            random.choice(working(process.pid)).kill()
        out, err = process.communicate(timeout=1200)
    assert (process.returncode, without_progress(err)) == (1, "")
    said = f"{10_000 - bad} stylized, 0 done before, {bad} unreadable"
    assert f"out: 10000 pictures found, {said}" in out
    assert len(results()) == 10_000 - bad
    assert_whole_results()


@pytest.mark.slow
def test_batch_waits_for_an_object_store_that_is_away(photos, monkeypatch):
    bad = photos(100)
    with object_store(monkeypatch.setenv) as store:
        with begun("--output=s3://bucket/out") as process:
            puts = re.compile("PUT .*png")
            until = time.monotonic() + 120
            while len([*filter(puts.match, store.requests)]) < 20:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < until
                time.sleep(0.01)
            store.fails = 1.0
            time.sleep(10)
            store.fails = 0.0
            out, err = process.communicate(timeout=300)
        assert (process.returncode, without_progress(err)) == (1, "")
        assert f"{100 - bad} stylized, 0 done before, {bad} unreadable" in out
        there = store_of("s3://bucket")
        names = [name for name in there.list("s3://bucket/out") if "png" in name]
        assert len(names) == 100 - bad
        for name in names:
            picture = there.picture(f"s3://bucket/out/{name}")
            assert load_image(picture).shape == (1, SIDE, SIDE, 3)


@pytest.fixture
def cluster(monkeypatch):
    """A Ray cluster of two nodes, each in processes of its own, on loopback."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")
    # The driver, too, must stay on loopback, and not look for this machine's address.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    where = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={**node, **where})
    try:
        nodes.add_node(**node, node_ip_address="127.0.0.1")
        yield nodes
    finally:
        nodes.shutdown()


def test_batch_survives_a_killed_worker_and_a_killed_node(photos, cluster):
    bad = photos(200)
    (node,) = cluster.worker_nodes
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    with begun(f"--address={cluster.address}") as process:
        wait_for(chance.randrange(5, 60), process)
        chance.choice(working(os.getpid())).kill()
        wait_for(chance.randrange(60, 120), process)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        family = [raylet, *raylet.children(recursive=True)]
        for child in family:
            child.kill()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, without_progress(err)) == (1, "")
    said = f"{200 - bad} stylized, 0 done before, {bad} unreadable"
    assert f"out: 200 pictures found, {said}" in out
    assert len(results()) == 200 - bad
    assert_whole_results()
    lines = Path("out/unreadable.jsonl").read_text().splitlines()
    named = sorted(Path(json.loads(line)["path"]).name for line in lines)
    assert named == sorted(f"{i}.png" for i in range(7, 200, 20))
    assert not psutil.wait_procs(family, timeout=10)[1]
