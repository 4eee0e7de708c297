"""Throws mutated pictures at ``tfstyle.load_image`` and keeps what it does wrong.

Whole pictures of every format, mode and compression are changed: bits, bytes, numbers
in headers, chunks, segments and tags taken away, doubled or exchanged, with checksums
made right again so that the change is seen. What is refused in a new place of the code
is mutated further. A worker process of its own reads them, so that a crash is a find,
too. Wrong is, besides a crash: any error but ``ImageError`` and ``UsageError``, a
message of several lines or odd characters, output, a result that is no picture in
[0, 1], more than ``--seconds`` of processor time or ``--megabytes`` of memory.

Example:
  python scripts/fuzz_images.py --minutes=30 --seed=1 --output=finds
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import io
import itertools
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests"))

import hostile
from hostile import Verdict, judge

from tfstyle.images import decoders

FLAGS = flags.FLAGS
flags.DEFINE_float("minutes", 30.0, "How long.", 0.0)
flags.DEFINE_integer("seed", 0, "Of the mutations; the same gives the same inputs.")
flags.DEFINE_string("output", "finds", "Folder for the inputs that do wrong.")
flags.DEFINE_float("seconds", 2.0, "Processor time that a picture may take.", 0.0)
flags.DEFINE_float("megabytes", 200.0, "Memory that a picture may take.", 0.0)
flags.DEFINE_integer("pixels", 2_000_000, "In place of tfstyle's limit, to be fast.", 1)

WAIT = 60.0
"""Seconds after which a worker counts as hung."""
MOST_BYTES = 100_000
SAME_FINDS = 5
EDGES = (0, 1, 2, 3, 7, 8, 15, 16, 31, 32, 127, 128, 255, 256, 257, 1000, 4096)
EDGES += (32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)

Parts = list[bytes]


# Mutations


def mutate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Changes a file in one to four ways.

    Args:
      data: The file.
      rng: Decides on the ways.
      other: A file that parts may come from.
    """
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        change = rng.choice((_bytes_changed, _bytes_changed, _parts_changed))
        data = change(data, rng, other)[:MOST_BYTES]
    return data


def _bytes_changed(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Changes bytes whatever they mean."""
    if not data:
        return other
    # Headers are short and matter most.
    most = len(data) if rng.random() < 0.5 else min(len(data), 64)
    at = rng.randrange(most)
    length = rng.choice((1, 2, 4, 8, 16, 64, 256, len(data) // 2))
    piece = data[at : at + length]
    way = rng.randrange(9)
    if way <= 1:
        flipped = data[at] ^ (1 << rng.randrange(8))
        return data[:at] + bytes([flipped]) + data[at + 1 :]
    if way <= 3:
        number = struct.pack(rng.choice("<>") + "Q", rng.choice(EDGES))
        width = rng.choice((1, 2, 4))
        number = number[:width] if number[0] or not number[-1] else number[-width:]
        return data[:at] + number + data[at + width :]
    if way == 4:
        return data[:at] + rng.randbytes(len(piece)) + data[at + length :]
    if way == 5:
        return data[:at] + data[at + length :]
    if way == 6:
        return data[:at] + piece * rng.choice((2, 3, 50)) + data[at + length :]
    if way == 7:
        return data[:at]
    start = rng.randrange(len(other) + 1)
    return data[:at] + other[start : start + length] + data[at + length :]


def _parts_changed(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Takes a file apart, changes its parts and puts it together again."""
    for start, (take_apart, put_together) in CONTAINERS.items():
        if data.startswith(start):
            with contextlib.suppress(struct.error, ValueError, IndexError):
                parts = take_apart(data)
                others = take_apart(other) if other.startswith(start) else parts
                if parts:
                    return put_together(_shuffled(parts, others, rng))
    return _bytes_changed(data, rng, other)


def _shuffled(parts: Parts, others: Parts, rng: random.Random) -> Parts:
    parts, at = list(parts), rng.randrange(len(parts))
    way = rng.randrange(8)
    if way == 0:
        del parts[at]
    elif way == 1:
        parts[at:at] = [parts[at]] * rng.choice((1, 2, 100))
    elif way == 2:
        place = rng.randrange(len(parts))
        parts[at], parts[place] = parts[place], parts[at]
    elif way == 3 and others:
        parts.insert(at, rng.choice(others))
    else:
        parts[at] = _bytes_changed(parts[at], rng, rng.choice(others or parts))
    return parts


def _png_parts(data: bytes) -> Parts:
    """Kind and content of each chunk, pixels unpacked."""
    parts, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            with contextlib.suppress(zlib.error):
                content = b"unpacked" + zlib.decompressobj().decompress(content, 10**6)
        parts.append(kind + content)
        at += 12 + length
    return parts


def _png(parts: Parts) -> bytes:
    chunks = []
    for part in parts:
        kind, content = part[:4].ljust(4, b"a"), part[4:]
        if content.startswith(b"unpacked"):
            content = zlib.compress(content.removeprefix(b"unpacked"), 1)
        chunks.append(hostile.chunk(kind, content))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _jpeg_parts(data: bytes) -> Parts:
    """Marker and content of each segment; what follows a scan belongs to it."""
    parts, at = [], 2
    while at + 4 <= len(data):
        (length,) = struct.unpack(">H", data[at + 2 : at + 4])
        end = at + 2 + length
        if data[at + 1] == 0xDA:
            while end < len(data) - 1 and not (
                data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        parts.append(data[at + 1 : at + 2] + data[at + 4 : end])
        at = end
    return parts


def _jpeg(parts: Parts) -> bytes:
    segments = []
    for part in parts:
        head = part[1:]
        if part[:1] == b"\xda":  # the length is of the scan's header only
            head = part[1 : 5 + 2 * part[1]] if len(part) > 1 else b""
        length = struct.pack(">H", 2 + len(head) & 0xFFFF)
        segments.append(b"\xff" + (part[:1] or b"\0") + length + part[1:])
    return b"\xff\xd8" + b"".join(segments) + b"\xff\xd9"


def _riff_parts(data: bytes) -> Parts:
    parts, at = [], 12
    while at + 8 <= len(data):
        (length,) = struct.unpack("<I", data[at + 4 : at + 8])
        parts.append(data[at : at + 4] + data[at + 8 : at + 8 + length])
        at += 8 + length + length % 2
    return parts


def _riff(parts: Parts) -> bytes:
    chunks = b"".join(
        part[:4].ljust(4, b"a")
        + struct.pack("<I", len(part[4:]))
        + part[4:]
        + bytes(len(part[4:]) % 2)
        for part in parts
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def _tiff_parts(data: bytes) -> Parts:
    """The whole file, and each tag of its directory."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", data[4:8])
    (count,) = struct.unpack(order + "H", data[at : at + 2])
    tags = [data[at + 2 + 12 * i : at + 14 + 12 * i] for i in range(count)]
    return [data, *tags]


def _tiff(parts: Parts) -> bytes:
    """Another directory at the end, where it moves no pixels."""
    file, tags = parts[0], parts[1:]
    order = "<" if file[:2] == b"II" else ">"
    directory = struct.pack(order + "H", len(tags)) + b"".join(
        tag[:12].ljust(12, b"\0") for tag in tags
    )
    return (
        file[:4] + struct.pack(order + "I", len(file)) + file[8:] + directory + bytes(4)
    )


def _bmp_parts(data: bytes) -> Parts:
    return [data[i : i + 2] for i in range(0, 54, 2)] + [data[54:]]


def _bmp(parts: Parts) -> bytes:
    return b"".join(parts)


def _gif_parts(data: bytes) -> Parts:
    """Screen with palette, extensions and frames."""
    end = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    parts, at = [data[:end]], end
    while at < len(data) and data[at] in b"!,":
        head = at
        if data[at] == ord("!"):
            at += 2
        else:
            flags_ = data[at + 9]
            at += 11 + (3 << (flags_ & 7) + 1 if flags_ & 0x80 else 0)
        while data[at]:
            at += 1 + data[at]
        at += 1
        parts.append(data[head:at])
    return [*parts, data[at:]]


CONTAINERS: dict[bytes, tuple[Callable[[bytes], Parts], Callable[[Parts], bytes]]] = {
    b"\x89PNG": (_png_parts, _png),
    b"\xff\xd8": (_jpeg_parts, _jpeg),
    b"RIFF": (_riff_parts, _riff),
    b"II*\0": (_tiff_parts, _tiff),
    b"MM\0*": (_tiff_parts, _tiff),
    b"BM": (_bmp_parts, _bmp),
    b"GIF8": (_gif_parts, b"".join),
}


# Verdicts


def work(connection: Connection, pixels: int) -> None:
    """Judges what comes until nothing does; runs in a process of its own."""
    decoders.MAX_PIXELS = pixels
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        said = pathlib.Path(folder) / "said"
        file = os.open(said, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        while message := connection.recv():
            data, from_file = message
            source: pathlib.Path | io.BytesIO = io.BytesIO(data)
            if from_file:
                source = pathlib.Path(folder) / "input.png"
                source.write_bytes(data)
            verdict = judge(source)
            if text := said.read_text(errors="replace"):
                os.ftruncate(file, 0)
                verdict = dataclasses.replace(verdict, outcome="output", detail=text)
            connection.send(verdict)


class Worker:
    """A process that judges inputs and is replaced when it dies or hangs."""

    def __init__(self, pixels: int, seconds: float, megabytes: float):
        self._limits = seconds, megabytes
        self._pixels = pixels
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, self._pixels))
        self._process.start()
        theirs.close()

    def judge(self, data: bytes, from_file: bool) -> Verdict:
        """The verdict on an input."""
        try:
            self._connection.send((data, from_file))
            if not self._connection.poll(WAIT):
                self._restart()
                return Verdict("hang", f"no answer for {WAIT:g} seconds", "hang")
            verdict: Verdict = self._connection.recv()
        except (EOFError, OSError):  # its end of the pipe is closed
            self._process.join()
            code = self._process.exitcode
            self._start()
            return Verdict("crash", f"exit code {code}", f"crash {code}")
        seconds, megabytes = self._limits
        if not verdict.wrong and verdict.seconds > seconds:
            return dataclasses.replace(verdict, outcome="slow")
        if not verdict.wrong and verdict.megabytes > megabytes:
            return dataclasses.replace(verdict, outcome="memory")
        return verdict

    def _restart(self) -> None:
        self._process.kill()
        self._process.join()
        self._start()

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(10)
        self._process.kill()


# The run


@functools.cache
def whole_files() -> list[bytes]:
    """What is mutated: whole pictures, twice as often as hostile ones."""
    whole = list(hostile.valid_files().values())
    others = [data for _, data, _ in hostile.hostile_files() if len(data) < MOST_BYTES]
    return whole + others


def inputs(seed: int, news: Callable[[], list[bytes]]) -> Iterator[bytes]:
    """Mutated files without end.

    Args:
      seed: Of all choices.
      news: The inputs that ended in new places so far.
    """
    rng, whole = random.Random(seed), whole_files()
    for number in itertools.count():
        found = news()
        pool = found if found and number % 2 else whole
        yield mutate(rng.choice(pool), rng, rng.choice(whole))


def fuzz(
    minutes: float, seed: int, output: pathlib.Path, worker: Worker
) -> collections.Counter[str]:
    """Judges inputs for a while and keeps those that do wrong.

    Returns:
      How often there was which outcome.
    """
    counts: collections.Counter[str] = collections.Counter()
    finds: collections.Counter[str] = collections.Counter()
    news: list[bytes] = []
    seen: set[str] = set()
    began = reported = time.monotonic()
    for number, data in enumerate(inputs(seed, lambda: news)):
        verdict = worker.judge(data, from_file=bool(number % 3))
        counts[verdict.outcome] += 1
        if verdict.place and verdict.place not in seen:
            seen.add(verdict.place)
            news.append(data)
        if verdict.wrong:
            kind = f"{verdict.outcome} {verdict.place}"
            finds[kind] += 1
            if finds[kind] <= SAME_FINDS:
                keep(output, data, verdict)
        now = time.monotonic()
        if now - reported > 60 or now - began > 60 * minutes:
            total = counts.total()
            print(
                f"{(now - began) / 60:.1f} min, {total} inputs, "
                f"{total / (now - began):.0f} a second, {dict(counts)}, "
                f"{len(seen)} places",
                flush=True,
            )
            reported = now
        if now - began > 60 * minutes:
            return counts
    return counts


def keep(output: pathlib.Path, data: bytes, verdict: Verdict) -> None:
    """Writes an input that does wrong, and says so."""
    name = f"{verdict.outcome.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:8]}"
    output.mkdir(parents=True, exist_ok=True)
    (output / name).write_bytes(data)
    print(
        f"{name}: {verdict.detail[:300]!r} {verdict.place} {verdict.seconds:.1f} s "
        f"{verdict.megabytes:.0f} MB",
        flush=True,
    )


def main(_: list[str]) -> int:
    """Fuzzes; the exit code is 1 if anything was wrong."""
    worker = Worker(FLAGS.pixels, FLAGS.seconds, FLAGS.megabytes)
    output = pathlib.Path(FLAGS.output)
    try:
        counts = fuzz(FLAGS.minutes, FLAGS.seed, output, worker)
    finally:
        worker.close()
    wrong = counts.total() - counts[hostile.PICTURE] - counts[hostile.REFUSED]
    print(f"{counts.total()} inputs, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    app.run(main)
