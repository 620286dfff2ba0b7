"""Opening a source: one string names a camera, a stream, a file, a folder or the demo.

    0, /dev/video2                   a camera; `0?width=1280&height=720&fps=30&fourcc=MJPG` asks it for a mode; on Linux
                                      in a process of its own
    rtsp://..., http://..., udp://... a network stream
    gst:<pipeline>                    GStreamer, in a process of its own (python3-gi), or a cv2 that is built with it
    csi:0?width=1280&height=720       a Jetson's CSI camera, the same way
    clip.mp4, folder/, 'dir/*.jpg'    files, every frame of them
    features.mcap                     a recording of brixel-run, with its features
    demo:                             a slow pan and zoom over photographs that come along
    test:pattern, test:clock          a moving disc; the time painted into the pixels, readable by `read_time`

A live source goes on without us, so its reader keeps only the newest frame; a file waits for us.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from brixel_edge.errors import BundleError, SpecError
from brixel_edge.image.reading import IMAGE_SUFFIXES
from brixel_edge.machine.addresses import label_from_address
from brixel_edge.runtimes.recordings.recording import RECORDING_SUFFIX
from brixel_edge.runtimes.sources.camera import open_camera
from brixel_edge.runtimes.sources.camera_address import (
    check_device,
    has_gstreamer_in_cv2,
    is_camera_address,
    parse_camera,
)
from brixel_edge.runtimes.sources.child import ChildSource
from brixel_edge.runtimes.sources.demo import DEMO, DemoSource
from brixel_edge.runtimes.sources.frames import FrameSource
from brixel_edge.runtimes.sources.gstreamer import (
    has_gstreamer_bindings,
    is_gstreamer_address,
    pipeline_from_address,
)
from brixel_edge.runtimes.sources.images import ImageFiles, images_from_folder, images_from_glob
from brixel_edge.runtimes.sources.patterns import PatternSource
from brixel_edge.runtimes.sources.recording import RecordingSource
from brixel_edge.runtimes.sources.video import VideoFile, is_file_url

_GLOB = re.compile(r"[*?\[]")
_URL = re.compile(r"^(rtsps?|https?|udp|tcp|rtmps?|srt|rtp)://", re.IGNORECASE)


def open_source(text: str, reconnect_s: float = 30.0) -> FrameSource:
    """Open what a string names.

    Args:
        text: see the module's head.
        reconnect_s: for how long a lost camera or stream is tried again before it counts as lost for good [s].

    Raises:
        SourceError: a camera or stream that does not open.
        BundleError: a file that is missing or neither video nor image, a folder without images.
        BackendMissing: `gst:` and `csi:` without GStreamer's bindings or a cv2 that has it; a recording without mcap.
        SpecError: a camera mode that cannot be read.
    """
    if not text.strip():
        raise SpecError("the source is empty; give a camera (0), a URL, a file, a folder, or demo:")
    if text == DEMO:
        return DemoSource()
    if text.startswith("test:"):
        return PatternSource(text)
    if is_gstreamer_address(text) and (has_gstreamer_bindings() or not has_gstreamer_in_cv2()):
        return ChildSource(text, reconnect_s)
    if is_gstreamer_address(text):
        return open_camera(f"gst:{pipeline_from_address(text)}", reconnect_s)
    if is_camera_address(text):
        return _open_device(text, reconnect_s)
    if _URL.match(text) and not is_file_url(text):
        return open_camera(text, reconnect_s)
    if _URL.match(text):
        return VideoFile(text)
    return _open_files(text)


def _open_device(text: str, reconnect_s: float) -> FrameSource:
    """A camera; a process is started only for one that is there and ours."""
    check_device(parse_camera(text))
    # Elsewhere cameras are the system's, with no driver of ours to hang in.
    return ChildSource(text, reconnect_s) if sys.platform == "linux" else open_camera(text, reconnect_s)


def _open_files(text: str) -> FrameSource:
    path = Path(text).expanduser()
    if path.is_dir():
        return ImageFiles(images_from_folder(path), str(path))
    if path.is_file():
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageFiles([path], str(path))
        if path.suffix.lower() == RECORDING_SUFFIX:
            return RecordingSource(path)
        return VideoFile(str(path))
    if _GLOB.search(text):
        return ImageFiles(images_from_glob(text), text)
    raise BundleError(
        f"source {label_from_address(text)!r} is not there; give a video file, a folder or glob of images, a camera "
        "(0, /dev/video0), a URL (rtsp://...) or demo:"
    )
