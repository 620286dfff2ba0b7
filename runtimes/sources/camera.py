"""A camera or network stream: stamped at the grab, with timeouts, opened again when it is lost.

OpenCV's own defaults wait 30 s for a dead network stream, and say that it is open for ever. Here every open and read of
a stream has a timeout, a failed read closes the capture, and it is tried again with growing pauses until the patience
ends. A frame is never made up or given twice: the first one after a gap says so.
"""

from __future__ import annotations

import logging
import os
import random
import re
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import cv2

from brixel_edge.errors import BackendMissing, SourceError, SpecError
from brixel_edge.image.reading import bgr_from_pixels
from brixel_edge.runtimes.sources.frames import Frame

_LOG = logging.getLogger(__name__)
_OPEN_TIMEOUT_MS, _READ_TIMEOUT_MS = 5000, 5000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
# A reader that comes back after a pause finds old frames in the driver's buffers; a new one has to be waited for.
_PAUSE_S, _WAITED_S, _LONGEST_DRAIN_S = 0.2, 0.005, 1.0
_MODE_KEYS = ("width", "height", "fps", "fourcc")
_NO_CAMERA = "without a camera: --source demo:"


@dataclass(frozen=True, kw_only=True)
class CameraAddress:
    """What to hand to OpenCV.

    Attributes:
        target: number, device, URL or GStreamer pipeline.
        backend: OpenCV's number for who opens it.
        label: for people, without user names and passwords.
        mode: properties to ask the camera for, in the order in which drivers take them.
        timeouts: whether the backend knows open and read timeouts.
    """

    target: str | int
    backend: int
    label: str
    mode: tuple[tuple[int, float], ...] = ()
    timeouts: bool = False


def is_camera_address(text: str) -> bool:
    """Whether a string names a camera: a number or a device, perhaps with the mode to ask for."""
    name = text.partition("?")[0]
    return name.isdigit() or name.startswith("/dev/video") or name.startswith("/dev/v4l/")


def without_credentials(url: str) -> str:
    """The URL with user name and password starred out."""
    return re.sub(r"(?<=://)[^/@]+@", "***@", url)


def _has_gstreamer() -> bool:
    return re.search(r"GStreamer:\s+YES", cv2.getBuildInformation()) is not None


def _mode(query: str, text: str) -> tuple[tuple[int, float], ...]:
    """`width=1280&height=720&fps=30&fourcc=MJPG` as OpenCV properties; the format comes first, sizes depend on it."""
    wanted = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [key for key in wanted if key not in _MODE_KEYS]
    mode: list[tuple[int, float]] = []
    try:
        if fourcc := wanted.get("fourcc"):
            mode.append((cv2.CAP_PROP_FOURCC, float(cv2.VideoWriter.fourcc(*fourcc))))
        keys = {"width": cv2.CAP_PROP_FRAME_WIDTH, "height": cv2.CAP_PROP_FRAME_HEIGHT, "fps": cv2.CAP_PROP_FPS}
        mode += [(number, float(wanted[key])) for key, number in keys.items() if key in wanted]
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"camera mode of {text!r} cannot be read; for instance 0?width=1280&height=720&fps=30"
        ) from error
    if unknown:
        raise SpecError(f"camera mode {unknown[0]!r} in {text!r} is not one of {', '.join(_MODE_KEYS)}")
    return tuple(mode)


def parse_camera(text: str) -> CameraAddress:
    """What a user's string means.

    Raises:
        BackendMissing: `gst:` where cv2 has no GStreamer.
        SpecError: a mode that cannot be read.
    """
    if text.startswith("gst:"):
        if not _has_gstreamer():
            raise BackendMissing(
                "gst: needs a cv2 with GStreamer, and the one from PyPI has none: uninstall opencv-python-headless and "
                "use JetPack's or your distribution's (python3-opencv) in an environment with system site packages"
            )
        return CameraAddress(target=text[4:].strip(), backend=cv2.CAP_GSTREAMER, label=text)
    if not is_camera_address(text):
        return CameraAddress(target=text, backend=cv2.CAP_FFMPEG, label=without_credentials(text), timeouts=True)
    name, _, query = text.partition("?")
    mode = _mode(query, text)
    if sys.platform != "linux":
        return CameraAddress(target=int(name) if name.isdigit() else name, backend=cv2.CAP_ANY, label=name, mode=mode)
    device = f"/dev/video{int(name)}" if name.isdigit() else name
    return CameraAddress(target=device, backend=cv2.CAP_V4L2, label=_device_label(name, device), mode=mode)


def _device_label(name: str, device: str) -> str:
    """`camera 0 = /dev/video0 (C920)`: what the number turned out to be."""
    model = Path("/sys/class/video4linux") / Path(device).resolve().name / "name"
    product = f" ({model.read_text(encoding='utf-8', errors='replace').strip()})" if model.is_file() else ""
    return f"camera {name} = {device}{product}" if name != device else f"camera {device}{product}"


def _check_device(address: CameraAddress) -> None:
    """The two reasons that can be told before opening: it is not there, or it is not ours.

    Raises:
        SourceError: one of them.
    """
    target = str(address.target)
    if not target.startswith("/dev/"):
        return
    if not Path(target).exists():
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise SourceError(f"{address.label} is not there (cameras here: {there}); check the cable; {_NO_CAMERA}")
    if not os.access(target, os.R_OK | os.W_OK):
        raise SourceError(f"{address.label} may not be read; add yourself to its group: sudo usermod -aG video $USER")


def _capture(address: CameraAddress) -> cv2.VideoCapture | None:
    """Open once; None if it does not open."""
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS]
    capture = cv2.VideoCapture(address.target, address.backend, timeouts if address.timeouts else [])
    if not capture.isOpened():
        capture.release()
        return None
    for key, value in address.mode:
        capture.set(key, value)
    return capture


class CameraSource:
    """An opened camera or stream."""

    is_live = True
    skipped = 0

    def __init__(self, address: CameraAddress, reconnect_s: float) -> None:
        self._address = address
        self._reconnect_s = reconnect_s
        self._stop = threading.Event()
        self._index = 0
        self._start_s = self._last_grab_s = time.monotonic()
        self._after_gap = False
        _check_device(address)
        capture = _capture(address)
        if capture is None:
            raise SourceError(
                f"{address.label} does not open; is another program using it, is the address right? {_NO_CAMERA}"
            )
        self._capture: cv2.VideoCapture | None = capture
        self.fps = self._announced_fps(capture)
        self.description = self._describe(capture)

    @staticmethod
    def _announced_fps(capture: cv2.VideoCapture) -> float | None:
        fps = capture.get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps < 1000 else None

    def _describe(self, capture: cv2.VideoCapture) -> str:
        """The label with the mode that the camera really took, and a warning where that is not what was asked."""
        size = f"{capture.get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{capture.get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        refused = [key for key, value in self._address.mode if abs(capture.get(key) - value) > 0.5]
        rate = f"{self.fps:.4g} fps" if self.fps else "unknown fps"
        if refused:
            _LOG.warning(
                "%s did not take the mode that was asked for; it gives %s at %s", self._address.label, size, rate
            )
        return f"{self._address.label} ({size}, {rate}, {capture.getBackendName()})"

    def read(self) -> Frame | None:
        """The next frame, waiting for it; None after `interrupt`.

        Raises:
            SourceError: no first frame, or lost for longer than the patience.
        """
        while not self._stop.is_set():
            if (frame := self._grab()) is not None:
                return frame
            if not self._index:
                raise SourceError(
                    f"{self._address.label} opens but gives no frame; is another program using it? Cameras often "
                    "have a second device without pictures: try the next number"
                )
            self._reconnect()
        return None

    def _grab(self) -> Frame | None:
        if self._capture is None:
            return None
        if time.monotonic() - self._last_grab_s > _PAUSE_S:
            self._drain(self._capture)
        if not self._capture.grab():
            return None
        self._last_grab_s = now = time.monotonic()
        has_image, pixels = self._capture.retrieve()
        image = bgr_from_pixels(pixels) if has_image else None
        if image is None:
            return None
        index, self._index = self._index, self._index + 1
        after_gap, self._after_gap = self._after_gap, False
        return Frame(
            image=image,
            index=index,
            t_capture_s=now,
            t_media_s=now - self._start_s,
            capture_s=time.monotonic() - now,
            is_after_gap=after_gap,
        )

    @staticmethod
    def _drain(capture: cv2.VideoCapture) -> None:
        """Throw away what drivers kept while nobody read: such frames come at once, and are older than their stamp."""
        start = now = time.monotonic()
        while now - start < _LONGEST_DRAIN_S and capture.grab():
            before, now = now, time.monotonic()
            if now - before > _WAITED_S:
                return

    def _reconnect(self) -> None:
        """Open again, with pauses that double and are spread, so that many clients do not come back at once.

        Raises:
            SourceError: the patience has ended.
        """
        lost_s = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        _LOG.warning("%s is lost; trying again for %.0f s", self._address.label, self._reconnect_s)
        self.close()
        while not self._stop.wait(pause_s * random.uniform(0.75, 1.25)):
            if (capture := _capture(self._address)) is not None and capture.grab():
                self._capture, self._after_gap = capture, True
                _LOG.warning("%s is back after %.1f s", self._address.label, time.monotonic() - lost_s)
                return
            if time.monotonic() - lost_s > self._reconnect_s:
                raise SourceError(
                    f"{self._address.label} was lost and did not come back within {self._reconnect_s:.0f} s"
                )
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def interrupt(self) -> None:
        """End a wait for the camera to come back; a blocked grab ends by its own timeout."""
        self._stop.set()

    def close(self) -> None:
        """Let go of the camera."""
        if self._capture is not None:
            self._capture.release()
            self._capture = None


def open_camera(text: str, reconnect_s: float) -> CameraSource:
    """Open what a user's string names; see `brixel_edge.runtimes.sources.opening`.

    Raises:
        SourceError, BackendMissing, SpecError: as `open_source`.
    """
    return CameraSource(parse_camera(text), reconnect_s)
