"""One connection through OpenCV: opened and read with timeouts, each grab with the time its frame was taken at."""

from __future__ import annotations

import time
from collections import deque
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from brixel_edge.runtimes.sources.camera_address import CameraAddress
from brixel_edge.runtimes.sources.clock import StreamClock
from brixel_edge.runtimes.sources.diagnosis import TIMED_OUT, Failure, FailureKind, diagnose

# Together with the question why it does not open, a dead stream is refused within five seconds.
_OPEN_TIMEOUT_MS, _DIAGNOSIS_S = 4000, 0.9
_READ_TIMEOUT_MS = 5000
# A reader that comes back after a pause finds old frames in the driver's buffers; a new one has to be waited for.
_PAUSE_S, _WAITED_S, _LONGEST_DRAIN_S = 0.2, 0.005, 1.0
# FFmpeg gives the first frames of a stream one stamp; one that stands still for longer is no clock.
_STANDING_FRAMES = 10
# FFmpeg gives out a frame of most codecs when the next one begins: it is older by one interval, which is the middle one
# of the last few, since stalls lengthen some.
_INTERVALS, _LONGEST_INTERVAL_S = 15, 1.0
# A driver's stamps are `time.monotonic()`'s where they lie so little before now.
_DRIVER_AGE_S = 10.0


class CaptureFailed(Exception):
    """It does not open.

    Attributes:
        kind: the class of the failure.
        reason: for people.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.kind: FailureKind = failure.kind
        self.reason = failure.reason


class Capture:
    """An open capture.

    Attributes:
        t_capture_s: when the grabbed frame was taken, `time.monotonic()` [s].
        t_stream_s: its stamp by the stream or driver [s]; None where it has none.
        thrown: frames that the grab threw away before it.
        waited_s: how long the grab waited for it [s].
        is_sure: whether its age is known; see `StreamClock`.
        is_new_line: the stream's stamps jumped just before.
    """

    def __init__(self, capture: cv2.VideoCapture, address: CameraAddress, opened_s: float) -> None:
        self._capture = capture
        self._address = address
        self._clock = StreamClock(opened_s) if self._has_stamps() else None
        self._is_held_back = address.timeouts and not self._is_jpeg()
        self._intervals_s: deque[float] = deque(maxlen=_INTERVALS)
        self._last_grab_s, self._standing = opened_s, 0
        self.t_capture_s = opened_s
        self.t_stream_s: float | None = None
        self.waited_s, self.thrown = 0.0, 0
        self.is_sure, self.is_new_line = True, False
        fps = capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if 0 < fps < 1000 else None
        self.size = f"{capture.get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{capture.get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        self.backend = capture.getBackendName()

    def _is_jpeg(self) -> bool:
        fourcc = int(self._capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
        return fourcc.upper() == b"MJPG"

    def _has_stamps(self) -> bool:
        """Whether stamps follow the sender's clock: FFmpeg makes up those of JPEGs over HTTP, one each 40 ms."""
        is_http = str(self._address.target).lower().startswith("http")
        return self._address.timeouts and not (is_http and self._is_jpeg())

    def get(self, key: int) -> float:
        """A property of OpenCV."""
        return self._capture.get(key)

    def grab(self) -> FailureKind | None:
        """Wait for the next frame; the kind of failure where none comes."""
        has_paused = time.monotonic() - self._last_grab_s > _PAUSE_S
        self.thrown = self._drain() if self._clock is None and has_paused else 0
        asked_s = time.monotonic()
        if not self._capture.grab():
            return "timeout" if time.monotonic() - asked_s > 0.9e-3 * _READ_TIMEOUT_MS else "end"
        arrival_s = time.monotonic()
        self.waited_s, self._last_grab_s = arrival_s - asked_s, arrival_s
        self._stamp(asked_s, arrival_s)
        return None

    def _stamp(self, asked_s: float, arrival_s: float) -> None:
        stamp_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        if self._clock is not None:
            self._standing = self._standing + 1 if stamp_s == self.t_stream_s else 0
            if self._standing == _STANDING_FRAMES:
                self._clock = None
            else:
                if self._is_held_back and self.t_stream_s is not None and stamp_s > self.t_stream_s:
                    self._intervals_s.append(min(stamp_s - self.t_stream_s, _LONGEST_INTERVAL_S))
                held_s = median(self._intervals_s) if self._intervals_s else 0.0
                stamp = self._clock.stamp(stamp_s, asked_s, arrival_s)
                self.t_capture_s, self.t_stream_s = stamp.t_capture_s - held_s, stamp_s
                self.is_sure, self.is_new_line = stamp.is_sure, stamp.is_new_line
                return
        self.is_sure, self.is_new_line = True, False
        is_driver_s = self._address.backend == cv2.CAP_V4L2 and 0 < arrival_s - stamp_s < _DRIVER_AGE_S
        self.t_capture_s, self.t_stream_s = (stamp_s, stamp_s) if is_driver_s else (arrival_s, None)

    def _drain(self) -> int:
        """Throw away what drivers kept while nobody read, which comes at once and is older than it looks; how many."""
        start = now = time.monotonic()
        thrown = 0
        while now - start < _LONGEST_DRAIN_S and self._capture.grab():
            thrown += 1
            before, now = now, time.monotonic()
            if now - before > _WAITED_S:
                break
        return thrown

    def retrieve(self) -> NDArray[np.uint8] | None:
        """Decode what was grabbed; None where that fails."""
        has_image, pixels = self._capture.retrieve()
        return np.asarray(pixels, np.uint8) if has_image else None

    def release(self) -> None:
        """Let go of it."""
        self._capture.release()


def open_capture(address: CameraAddress) -> Capture:
    """Open once.

    Raises:
        CaptureFailed: it does not open.
    """
    parameters: list[int] = []
    if address.timeouts:
        # One thread: FFmpeg's frame threads keep back a frame each, which no stamp would tell.
        parameters = [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_TIMEOUT_MS,
            cv2.CAP_PROP_N_THREADS, 1,
        ]  # fmt: skip
    start_s = time.monotonic()
    capture = cv2.VideoCapture(address.target, address.backend, parameters)
    if not capture.isOpened():
        capture.release()
        raise CaptureFailed(_failure(address, time.monotonic() - start_s))
    for key, value in address.mode:
        capture.set(key, value)
    return Capture(capture, address, start_s)


def _failure(address: CameraAddress, taken_s: float) -> Failure:
    if not address.timeouts:
        return Failure(kind="refused", reason="is perhaps used by another program, or gives no pictures")
    if taken_s > 0.9e-3 * _OPEN_TIMEOUT_MS:
        return TIMED_OUT
    return diagnose(str(address.target), _DIAGNOSIS_S)
