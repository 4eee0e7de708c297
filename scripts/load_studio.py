"""Loads a studio with many users at once, and watches its answers and its memory.

Each user uploads a picture of its own, again and again, and asks for a style, an
optimised picture, or something that cannot be. An answer counts if it comes of the
user's own picture, by the SHA-256 in the result's metadata, or says what was wrong.

Example:
  python scripts/load_studio.py --users=20 --minutes=10 --output=load.json
"""

from __future__ import annotations

import collections
import hashlib
import io
import json
import logging
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import httpx
import numpy as np
from absl import app, flags
from memory_watch import MemoryWatch
from PIL import Image

from tfstyle.images.samples import SAMPLES

FLAGS = flags.FLAGS
flags.DEFINE_integer("users", 20, "Users at once.", 1)
flags.DEFINE_float("minutes", 10.0, "How long.", 0.01)
flags.DEFINE_integer("runs_per_tab", 5, "Runs until a user opens a new tab.", 1)
flags.DEFINE_string("output", None, "JSON to write.")

STYLE = SAMPLES / "style" / "waves.jpg"
KINDS = ("apply", "apply", "stylize", "wrong", "damaged")
"""What users ask for, each as likely; a right answer is counted under its name."""


def start_studio() -> tuple[subprocess.Popen[str], str]:
    """A studio in a process of its own, and its address."""
    words = ["studio", "--nobrowser", "--max_size=256"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tfstyle", *words],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    line = process.stdout.readline()
    address = re.search(r"http://\S+", line)
    if not address:
        sys.exit(f"the studio did not start: {line}")
    return process, address[0].rstrip("/")


class Page:
    """What a page knows of the studio's functions and parts."""

    def __init__(self, address: str):
        """Reads the studio's configuration."""
        config = httpx.get(f"{address}/config", timeout=60).json()
        self._parts = {part["id"]: part["props"] for part in config["components"]}
        self._functions = {
            each["api_name"]: (each["id"], each["inputs"])
            for each in config["dependencies"]
        }

    def call(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        """What a page sends to call a function.

        Args:
          name: Of the function.
          given: The values of parts by their labels; others have their own.
        """
        number, inputs = self._functions[name]
        values = []
        for part in inputs:
            props = self._parts[part]
            values.append(given.get(props.get("label"), props.get("value")))
        return {"fn_index": number, "data": values}


class User:
    """Somebody with a picture of their own."""

    def __init__(self, address: str, page: Page, seed: int):
        """Opens a tab."""
        self._address, self._page = address, page
        self._random = random.Random(seed)
        self._client = httpx.Client(base_url=address, timeout=600)
        self.counts: collections.Counter[str] = collections.Counter()
        self._runs = 0

    def work(self, until: float) -> None:
        """Asks and looks at the answers."""
        while time.monotonic() < until:
            try:
                self._ask()
            except Exception as error:  # every one is a finding
                self.counts[f"error: {type(error).__name__}: {error}"[:200]] += 1

    def _ask(self) -> None:
        if self._runs % FLAGS.runs_per_tab == 0:
            self._session = f"{self._random.getrandbits(60):x}"
        self._runs += 1
        content = self._picture()
        kind = self._random.choice(KINDS)
        given = {
            "Method": "stylize" if kind == "stylize" else "apply",
            "Photograph": self._upload("photo.png", content),
            "Painting": self._upload("art.jpg", STYLE.read_bytes()),
            "Size": 64,
            "Steps": "4",
        }
        if kind == "wrong":
            given["Photograph"] = None
        if kind == "damaged":
            given["Photograph"] = self._upload("photo.png", content[:50])
        self._client.post("/gradio_api/run/predict", json=self._call("_begin", {}))
        self.counts[self._judge(kind, content, self._run(given))] += 1

    def _picture(self) -> bytes:
        random = np.random.default_rng(self._random.getrandbits(32))
        small = random.integers(0, 256, [6, 8, 3], dtype="uint8")
        file = io.BytesIO()
        Image.fromarray(small).resize((80, 60)).save(file, "PNG")
        return file.getvalue()

    def _upload(self, name: str, content: bytes) -> dict[str, Any]:
        response = self._client.post(
            "/gradio_api/upload", files={"files": (name, content)}
        )
        path = response.raise_for_status().json()[0]
        return {
            "path": path,
            "orig_name": name,
            "meta": {"_type": "gradio.FileData"},
        }

    def _call(self, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return {**self._page.call(name, given), "session_hash": self._session}

    def _run(self, given: dict[str, Any]) -> list[Any]:
        """Waits in the queue; gives the last outputs."""
        call = self._call("_run", given)
        self._client.post("/gradio_api/queue/join", json=call).raise_for_status()
        query = {"session_hash": self._session}
        shown: list[Any] = []
        with self._client.stream("GET", "/gradio_api/queue/data", params=query) as news:
            for line in news.iter_lines():
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                output = message.get("output") or {}
                if message["msg"] == "process_generating":
                    shown = _merged(shown, output["data"])
                if message["msg"] == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"refused: {output}")
                    return shown
        raise RuntimeError("the queue ended without an answer")

    def _judge(self, kind: str, content: bytes, shown: list[Any]) -> str:
        text = json.dumps(shown)
        if kind == "wrong":
            return kind if "choose a photograph" in text else f"no word: {kind}"
        if kind == "damaged":
            return kind if "photo.png: " in text else f"no word: {kind}"
        files = re.findall(r'"path": "([^"]+photo[^"]*\.png)"', text)
        if "Done in" not in text or not files:
            return f"lost: {text[:80]}"
        response = self._client.get(f"/gradio_api/file={files[-1]}")
        response.raise_for_status()
        record = json.loads(Image.open(io.BytesIO(response.content)).text["tfstyle"])
        sources = record["pictures"]["content"]
        own = hashlib.sha256(content).hexdigest()
        return kind if sources[0]["sha256"] == own else "mixed up"


def _merged(shown: list[Any], news: list[Any]) -> list[Any]:
    """Outputs after news, which Gradio sends whole or as edits of what there was."""
    edits = all(isinstance(each, list) for each in news)
    if not shown or not edits:
        return news
    return [
        old if not new else [old, new] for old, new in zip(shown, news, strict=True)
    ]


def main(argv: list[str]) -> None:
    """Runs the load and prints what came of it; exits with 1 if anything was wrong."""
    del argv
    logging.getLogger("httpx").setLevel(logging.WARNING)
    process, address = start_studio()
    page, watch = Page(address), MemoryWatch(process.pid)
    users = [User(address, page, seed) for seed in range(FLAGS.users)]
    began = time.monotonic()
    until = began + 60 * FLAGS.minutes
    threads = [threading.Thread(target=user.work, args=[until]) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    watch.stop()
    counts = sum((user.counts for user in users), collections.Counter())
    process.terminate()
    result = {
        "users": FLAGS.users,
        "minutes": round((time.monotonic() - began) / 60, 2),
        "answers": dict(counts),
        "most_megabytes": round(watch.most),
        "megabytes_per_minute": round(watch.growth, 2),
        "exit_code": process.wait(120),
    }
    print(json.dumps(result, indent=2))
    if FLAGS.output:
        rows = list(zip(watch.minutes, watch.megabytes, strict=True))
        text = json.dumps({**result, "memory": rows}, indent=2)
        pathlib.Path(FLAGS.output).write_text(text + "\n")
    ended = result["exit_code"] == 128 + signal.SIGTERM
    sys.exit(not ended or bool(set(counts) - set(KINDS)))


if __name__ == "__main__":
    app.run(main)
