"""Tests of tfstyle.batch on real Ray processes, some of which are killed."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import draw

from tfstyle import load_image, save_image
from tfstyle.networks.apply import apply_style

pytest.importorskip("ray")

PROGRAM = [sys.executable, "-m", "tfstyle.cli.main", "batch", "photos", "out"]
SIDE = 64


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
    command = [*PROGRAM, "--style_name=waves", "--workers=2", *words]
    process = subprocess.Popen(command, start_new_session=True, **piped)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def results() -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path("out").glob("*.png")}


def wait_for(number: int, process: subprocess.Popen) -> None:
    """Waits until so many results are there."""
    until = time.monotonic() + 120
    while len(results()) < number:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def without_progress(err: str) -> str:
    """Lines on standard error but those of slow machines."""
    lines = err.splitlines(keepends=True)
    return "".join(li for li in lines if not li.startswith("tfstyle: picture "))


def assert_whole_results() -> None:
    for name in results():
        assert load_image(f"out/{name}").shape == (1, SIDE, SIDE, 3)


def test_batch_ends_all_processes_at_ctrl_c_and_goes_on(photos, tmp_path):
    bad, before = photos(120), set(Path("/tmp").glob("tmp*"))
    with begun() as process:
        wait_for(5, process)
        family = psutil.Process(process.pid).children(recursive=True)
        addresses = {
            connection.laddr.ip
            for child in [*family, psutil.Process(process.pid)]
            for connection in child.net_connections("inet")
            if connection.status == psutil.CONN_LISTEN
        }
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    err = without_progress(err)
    assert err.startswith("tfstyle: stopped; the same command goes on")
    assert err.count("\n") == 1
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert not psutil.wait_procs(family, timeout=10)[1]
    assert_whole_results()
    first = results()
    assert 5 <= len(first) < 120 - bad

    with begun() as process:
        out, err = process.communicate(timeout=120)
    done = f"{120 - bad - len(first)} stylized, {len(first)} done before"
    assert (process.returncode, without_progress(err)) == (0, "")
    assert f"out: 120 pictures found, {done}, {bad} unreadable" in out
    last = results()
    assert len(last) == 120 - bad
    assert {name: last[name] for name in first} == first
    for name in ("0.png", "31.png", "119.png"):
        same = load_image(f"out/{name}") - apply_style(f"photos/{name}", "waves")
        assert np.abs(same).max() <= 0.51 / 255
    lines = Path("out/unreadable.jsonl").read_text().splitlines()
    assert len({json.loads(line)["path"] for line in lines}) == bad
    assert not Path("out/.tfstyle-batch").exists()
    assert set(Path("/tmp").glob("tmp*")) <= before | set(tmp_path.parents)


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
    assert not psutil.wait_procs(family, timeout=20)[1]
    assert_whole_results()


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
        workers = [
            child
            for child in psutil.Process().children(recursive=True)
            if re.match("ray::MapWorker", " ".join(child.cmdline()))
        ]
        assert len(workers) == 2
        chance.choice(workers).kill()
        wait_for(chance.randrange(60, 120), process)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        family = [raylet, *raylet.children(recursive=True)]
        for child in family:
            child.kill()
        out, err = process.communicate(timeout=120)
    assert (process.returncode, without_progress(err)) == (0, "")
    said = f"{200 - bad} stylized, 0 done before, {bad} unreadable"
    assert f"out: 200 pictures found, {said}" in out
    assert len(results()) == 200 - bad
    assert_whole_results()
    lines = Path("out/unreadable.jsonl").read_text().splitlines()
    named = sorted(Path(json.loads(line)["path"]).name for line in lines)
    assert named == sorted(f"{i}.png" for i in range(7, 200, 20))
    assert not psutil.wait_procs(family, timeout=10)[1]
