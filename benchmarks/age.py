"""How old frames of a network camera are: on arrival, decoded, and with their features; `benchmarks/stream.py --age`.

The camera is the RTSP server of tests/streaming (H.264, 640 x 480, 30 fps), whose pictures carry the time they were
made at, so that every age is true, the camera's encoder included. Three ways, in turns, each in a process of its own:

    network   packets as they arrive, decoded after the clock was read
    decode    a source read in a loop
    stream    a model on the source

It needs what `make test-stream` installs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import socket
import statistics
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

SERVER = Path(__file__).resolve().parents[1] / "tests" / "streaming" / "rtsp_server.py"
CHILD = "--age-child"
WAYS = ("network", "decode", "stream")
FPS, SIZE = 30, "640x480"
# The first ones come out of buffers.
WARM_UP_S = 3.0


@contextmanager
def camera(fps: int = FPS, size: str = SIZE):
    """The address of a running server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, str(SERVER), str(port), "--fps", str(fps), "--size", size]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout is None or process.stdout.readline() != "ready\n":
            raise SystemExit("the RTSP server does not start; make test-stream installs what it needs")
        yield f"rtsp://127.0.0.1:{port}/clock"
    finally:
        process.kill()
        process.wait()


def ages_of_packets(url: str, seconds: float) -> list[float]:
    """Of a packet at its arrival; its picture is decoded afterwards, to read the time."""
    import av

    from brixel_edge.runtimes.sources.clock_picture import read_time

    packets, ages = [], []
    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=5) as container:
        start_s = time.monotonic()
        for packet in container.demux(video=0):
            now_s = time.monotonic()
            packets.append((now_s, packet))
            if now_s - start_s > WARM_UP_S + seconds:
                break
        stream = container.streams.video[0].codec_context
        decoder = av.CodecContext.create(stream.name, "r")
        decoder.extradata = stream.extradata
        arrivals = {packet.pts: now_s for now_s, packet in packets}
        pictures = itertools.chain.from_iterable(decoder.decode(packet) for _, packet in packets if packet.size)
        for picture in pictures:
            shown_s, now_s = read_time(picture.to_ndarray(format="bgr24")), arrivals.get(picture.pts)
            if shown_s is not None and now_s is not None and now_s - start_s > WARM_UP_S:
                ages.append(now_s - shown_s)
    return ages


def ages_of_frames(url: str, seconds: float) -> list[float]:
    """Of a decoded frame."""
    from brixel_edge.runtimes.sources.clock_picture import read_time
    from brixel_edge.runtimes.sources.opening import open_source

    ages, start_s = [], time.monotonic()
    with closing(open_source(url)) as source:
        while (now_s := time.monotonic()) - start_s < WARM_UP_S + seconds and (frame := source.read()) is not None:
            now_s = time.monotonic()
            if now_s - start_s > WARM_UP_S and (shown_s := read_time(frame.image)) is not None:
                ages.append(now_s - shown_s)
    return ages


def ages_of_maps(url: str, seconds: float, model: str | None, backend: str, threads: int | None) -> list[float]:
    """Of a frame's features."""
    import brixel_edge
    from brixel_edge.runtimes.sources.clock_picture import read_time

    ages, start_s = [], None
    with closing(brixel_edge.stream(model, url, backend=backend, threads=threads)) as maps:
        for features in maps:
            now_s = time.monotonic()
            start_s = start_s or now_s
            if now_s - start_s > WARM_UP_S + seconds:
                break
            if now_s - start_s > WARM_UP_S and (shown_s := read_time(features.frame_bgr)) is not None:
                ages.append(now_s - shown_s)
    return ages


def child(arguments: list[str]) -> None:
    """One way, in this process: prints the ages [s]."""
    way, url, seconds, model, backend, threads = json.loads(arguments[0])
    if way == "network":
        ages = ages_of_packets(url, seconds)
    elif way == "decode":
        ages = ages_of_frames(url, seconds)
    else:
        ages = ages_of_maps(url, seconds, model, backend, threads)
    print(json.dumps(ages))


def measured(way: str, url: str, given: argparse.Namespace) -> list[float]:
    """Ages of one turn."""
    wanted = json.dumps([way, url, given.seconds, given.model, given.backend[0], given.threads])
    program = [sys.executable, str(Path(__file__).with_name("stream.py")), CHILD, wanted]
    run = subprocess.run(program, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout)


def figures(turns: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Percentiles by way: the middle one of the turns' [ms]."""
    rows = {}
    for way, ages in turns.items():
        percentiles = [np.percentile(turn, (50, 99)) * 1e3 for turn in ages if turn]
        if not percentiles:
            raise SystemExit(f"no frame came by {way}")
        p50, p99 = (statistics.median(float(pair[number]) for pair in percentiles) for number in (0, 1))
        rows[way] = {"p50_ms": p50, "p99_ms": p99, "frames": float(sum(map(len, ages)))}
    return rows


def compare_ages(given: argparse.Namespace) -> dict[str, Any]:
    """All turns, printed and returned."""
    turns: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with camera() as url:
        for _ in range(given.rounds):
            for way in WAYS:
                turns[way].append(measured(way, url, given))
    rows = figures(turns)
    print(f"age [ms] of frames over RTSP, {SIZE} at {FPS} fps, {given.rounds} turns of {given.seconds:.0f} s")
    for way, row in rows.items():
        print(f"{way:<8} p50 {row['p50_ms']:7.1f}   p99 {row['p99_ms']:7.1f}   {row['frames']:.0f} frames")
    return {"model": given.model or "built-in default", "fps": FPS, "size": SIZE, "ages": rows}
