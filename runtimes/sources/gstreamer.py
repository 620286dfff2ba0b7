"""GStreamer pipelines and CSI cameras through its own Python bindings; read in a child process, see `child`.

The `opencv` of the package index has no GStreamer. PyGObject (`python3-gi`, on every JetPack and Debian) has.
"""

from __future__ import annotations

import importlib
import re
import time
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from brixel_edge.errors import BackendMissing, SourceError, SpecError
from brixel_edge.runtimes.sources.frames import Frame

# The newest frame only, as soon as it is there: what waits in a pipeline is old before we see it.
APPSINK = "appsink name=brixel drop=true max-buffers=1 sync=false"
_TAIL = f"videoconvert ! video/x-raw,format=BGR ! {APPSINK}"
_CSI_MODE = {"width": 1280, "height": 720, "fps": 30}
_POLL_NS = 200_000_000


def is_gstreamer_address(text: str) -> bool:
    """Whether a string names a pipeline or a CSI camera."""
    return text.startswith(("gst:", "csi:"))


def has_gstreamer_bindings() -> bool:
    """Whether PyGObject is there."""
    return find_spec("gi") is not None


def pipeline_from_address(text: str) -> str:
    """What `gst:PIPELINE` or `csi:N?width=&height=&fps=` runs.

    Raises:
        SpecError: an empty pipeline, or a camera or mode that cannot be.
    """
    if text.startswith("csi:"):
        return _csi_pipeline(text)
    pipeline = text[4:].strip().rstrip("!").strip()
    if not pipeline:
        raise SpecError("gst: has no pipeline; for instance 'gst:videotestsrc is-live=true'")
    if re.search(r"\bappsink\b", pipeline) is None:
        return f"{pipeline} ! {_TAIL}"
    return re.sub(r"!\s*appsink\b(?=[^!]*$)", f"! videoconvert ! video/x-raw,format=BGR ! {APPSINK}", pipeline)


def _csi_pipeline(text: str) -> str:
    number, _, query = text[4:].partition("?")
    wanted = dict(parse_qsl(query, keep_blank_values=True))
    values = {key: wanted.get(key, str(default)) for key, default in _CSI_MODE.items()}
    if (
        not number.isdecimal()
        or set(wanted) - set(_CSI_MODE)
        or not all(value.isdecimal() for value in values.values())
    ):
        raise SpecError(f"{text!r} is no CSI camera; for instance csi:0?width=1280&height=720&fps=30")
    return (
        f"nvarguscamerasrc sensor-id={int(number)} ! video/x-raw(memory:NVMM),width={values['width']},"
        f"height={values['height']},framerate={values['fps']}/1 ! nvvidconv ! video/x-raw,format=BGRx ! {_TAIL}"
    )


def load_gstreamer() -> Any:
    """GStreamer, initialised. Its first start on a machine looks at every plugin there is, which takes many seconds.

    Raises:
        BackendMissing: its bindings are not there.
    """
    try:
        import gi

        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gst: Any = importlib.import_module("gi.repository.Gst")
        importlib.import_module("gi.repository.GstApp")  # gives appsinks their methods
    except (ImportError, ValueError) as error:
        raise BackendMissing(
            "gst: and csi: need GStreamer's Python bindings, or JetPack's cv2: sudo apt install python3-gi "
            "gstreamer1.0-plugins-base, in an environment with system site packages"
        ) from error
    gst.init(None)
    return gst


class PipelineSource:
    """A running pipeline; for one thread, in a process that may be killed.

    Args:
        gst: of `load_gstreamer`.
        pipeline: of `pipeline_from_address`.
        text: the address.
    """

    is_live = True
    skipped = 0

    def __init__(self, gst: Any, pipeline: str, text: str) -> None:
        self._gst = gst
        try:
            self._pipeline = gst.parse_launch(pipeline)
        except Exception as error:  # GLib.Error, a class that only gi knows
            raise SourceError(f"the pipeline cannot be built: {error}", kind="codec") from None
        # By name, since iterating needs a further package, python3-gst-1.0.
        self._sink = self._pipeline.get_by_name("brixel")
        if self._sink is None:
            raise SpecError("the pipeline of gst: does not end in an appsink without a name; leave it out, it is added")
        self._index = 0
        self._start_s = time.monotonic()
        self._pipeline.set_state(gst.State.PLAYING)
        self.fps = None
        self.description = text

    def read(self) -> Frame | None:
        """The next frame; None at the end.

        Raises:
            SourceError: the pipeline reports an error.
        """
        while True:
            sample = self._sink.emit("try-pull-sample", _POLL_NS)
            if sample is not None:
                return self._frame(sample)
            self._check_bus()
            if self._sink.get_property("eos"):
                return None

    def _check_bus(self) -> None:
        message = self._pipeline.get_bus().pop_filtered(self._gst.MessageType.ERROR)
        if message is not None:
            error, _ = message.parse_error()
            raise SourceError(f"the pipeline ended: {error.message}", kind=_kind(error.message))

    def _frame(self, sample: Any) -> Frame:
        arrival_s = time.monotonic()
        shape, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
        height, width = shape.get_value("height"), shape.get_value("width")
        mapped, info = buffer.map(self._gst.MapFlags.READ)
        if not mapped:
            raise SourceError("the pipeline gives buffers that cannot be read", kind="codec")
        # Rows are padded to four bytes.
        stride = (3 * width + 3) // 4 * 4
        rows = np.frombuffer(info.data, np.uint8, height * stride).reshape(height, stride)
        image = rows[:, : 3 * width].reshape(height, width, 3).copy()
        buffer.unmap(info)
        stamp_s = buffer.pts / 1e9 if buffer.pts != self._gst.CLOCK_TIME_NONE else None
        # The pipeline's clock is the monotonic one; a stamp is a time since the pipeline began.
        taken_s = arrival_s if stamp_s is None else self._pipeline.get_base_time() / 1e9 + stamp_s
        if not self._start_s - 10 < taken_s <= arrival_s:
            taken_s = arrival_s
        index, self._index = self._index, self._index + 1
        return Frame(
            image=image, index=index, t_capture_s=taken_s, t_stream_s=stamp_s,
            t_media_s=max(0.0, taken_s - self._start_s), capture_s=time.monotonic() - arrival_s,
        )  # fmt: skip

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(self._gst.State.NULL)


def _kind(message: str) -> str:
    kinds = {
        "not found": "not found", "no such": "not found", "authori": "authentication", "refused": "refused",
        "busy": "refused", "timeout": "timeout", "timed out": "timeout",
    }  # fmt: skip
    return next((kind for part, kind in kinds.items() if part in message.lower()), "end")
