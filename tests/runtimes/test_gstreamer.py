"""Pipelines as strings; the pipelines themselves are in tests/streaming, the process that reads them in
test_child_source."""

from __future__ import annotations

import pytest

from brixel_edge.errors import SpecError
from brixel_edge.runtimes.sources.gstreamer import pipeline_from_address

TAIL = "videoconvert ! video/x-raw,format=BGR ! appsink name=brixel drop=true max-buffers=1 sync=false"


@pytest.mark.parametrize(
    ("address", "pipeline"),
    [
        (
            "csi:1?width=1920&height=1080&fps=60",
            "nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=1920,height=1080,framerate=60/1 ! "
            f"nvvidconv ! video/x-raw,format=BGRx ! {TAIL}",
        ),
        (
            "csi:0",
            "nvarguscamerasrc sensor-id=0 ! video/x-raw(memory:NVMM),width=1280,height=720,framerate=30/1 ! "
            f"nvvidconv ! video/x-raw,format=BGRx ! {TAIL}",
        ),
        ("gst:videotestsrc is-live=true", f"videotestsrc is-live=true ! {TAIL}"),
        ("gst: videotestsrc ! appsink", f"videotestsrc ! {TAIL}"),
        ("gst:videotestsrc ! ", f"videotestsrc ! {TAIL}"),
    ],
)
def test_an_address_becomes_a_pipeline(address, pipeline):
    # Spaces where an appsink was cut out do not matter to GStreamer.
    assert " ".join(pipeline_from_address(address).split()) == pipeline


@pytest.mark.parametrize("text", ["gst:", "gst: ! ", "csi:", "csi:front", "csi:0?width=wide", "csi:0?size=1"])
def test_what_is_no_pipeline_is_refused(text):
    with pytest.raises(SpecError, match=r"has no pipeline|is no CSI camera; for instance csi:0\?width"):
        pipeline_from_address(text)
