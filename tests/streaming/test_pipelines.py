"""Real pipelines of GStreamer, in the child process that reads them."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from brixel_edge.errors import SourceError
from brixel_edge.machine.memory import MIB
from brixel_edge.runtimes.sources.opening import open_source

pytestmark = pytest.mark.stream


@pytest.mark.parametrize("size", [(64, 48), (101, 75)], ids=["64x48", "rows with padding"])
def test_a_pipeline_gives_frames_of_now(size):
    source = open_source(f"gst:videotestsrc is-live=true pattern=blue ! video/x-raw,width={size[0]},height={size[1]}")
    frames = [source.read() for _ in range(10)]
    now_s = time.monotonic()
    source.close()
    assert frames[-1].image.shape == (size[1], size[0], 3)
    assert (frames[-1].image == (255, 0, 0)).all(axis=2).mean() > 0.95  # BGR
    assert 0 <= now_s - frames[-1].t_capture_s < 0.5
    assert frames[-1].t_stream_s > frames[0].t_stream_s


def test_a_pipeline_that_ends_ends_the_source():
    source = open_source("gst:videotestsrc num-buffers=3")
    count = 0
    while source.read() is not None:
        count += 1
    source.close()
    assert 1 <= count <= 3


@pytest.mark.parametrize("pipeline", ["nosuchelement", "filesrc location=/nothing ! decodebin"])
def test_a_pipeline_that_cannot_run_is_refused(pipeline):
    with pytest.raises(SourceError):
        open_source(f"gst:{pipeline}", reconnect_s=0.1)


@pytest.mark.parametrize("size", ["640x480", "1920x1080"])
def test_a_pipeline_and_its_process_take_what_was_planned(size):
    width, height = size.split("x")
    source = f"gst:videotestsrc is-live=true ! video/x-raw,width={width},height={height},framerate=15/1"
    command = [sys.executable, "-m", "brixel_edge.commands.run", "--source", source, "--headless", "--json", "--quiet"]
    limits = ["--backend", "ort", "--threads", "1", "--frames", "20", "--budget", "8GiB"]
    ended = subprocess.run([*command, *limits], capture_output=True, text=True, timeout=80)
    report = json.loads(ended.stdout)
    assert ended.returncode == 0, report
    assert report["memory_plan"]["camera process"] > 40 * MIB
    assert report["peak_memory_bytes"] == pytest.approx(sum(report["memory_plan"].values()), rel=0.1)
