"""A camera or network stream: its frames' true times, timeouts, opened again when it is lost.

OpenCV's own defaults wait 30 s for a dead network stream, and say that it is open for ever. Here every open and read of
a stream has a timeout, a failed read closes the capture, and it is tried again with growing pauses until the patience
ends. A frame is never made up or given twice: the first one after a gap says so.
"""

from __future__ import annotations

import logging
import random
import threading
import time

from brixel_edge.errors import SourceError
from brixel_edge.image.reading import bgr_from_pixels
from brixel_edge.runtimes.sources.camera_address import NO_CAMERA, CameraAddress, check_device, parse_camera
from brixel_edge.runtimes.sources.capture import Capture, CaptureFailed, open_capture
from brixel_edge.runtimes.sources.diagnosis import FailureKind
from brixel_edge.runtimes.sources.frames import Frame, FrameMemory, SourceStatus

_LOG = logging.getLogger(__name__)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
# Silence after which a frame comes after a gap; slow cameras may take three times their pace.
_SILENCE_S, _SILENT_FRAMES = 1.0, 3
# For how long frames are thrown away because nobody can say yet how old they are.
_LONGEST_START_S = 3.0


class CameraSource:
    """An opened camera or stream.

    Args:
        address: of it.
        reconnect_s: for how long it is tried again when it is lost [s]; None leaves that to the caller.

    Raises:
        SourceError: it does not open.
    """

    is_live = True
    skipped = 0

    def __init__(self, address: CameraAddress, reconnect_s: float | None) -> None:
        self._address = address
        self._reconnect_s = reconnect_s
        self._stop = threading.Event()
        self._index = 0
        self._start_s = time.monotonic()
        self._after_gap = self._has_grabbed = False
        self.status = SourceStatus()
        check_device(address)
        try:
            capture = open_capture(address)
        except CaptureFailed as failure:
            raise SourceError(
                f"{address.label} does not open: it {failure.reason}; {NO_CAMERA}", kind=failure.kind
            ) from None
        self._capture: Capture | None = capture
        self._first_s: float | None = None
        self.fps = capture.fps
        self.description = self._describe(capture)
        width, height = (int(side) for side in capture.size.split("x"))
        self._memory = FrameMemory.of_video(height, width)

    def _describe(self, capture: Capture) -> str:
        """The label with the mode that the camera really took, and a warning where that is not what was asked."""
        rate = f"{self.fps:.4g} fps" if self.fps else "unknown fps"
        if any(abs(capture.get(key) - value) > 0.5 for key, value in self._address.mode):
            _LOG.warning(
                "%s did not take the mode that was asked for; it gives %s at %s",
                self._address.label, capture.size, rate,
            )  # fmt: skip
        return f"{self._address.label} ({capture.size}, {rate}, {capture.backend})"

    def read(self) -> Frame | None:
        """The next frame, waiting for it; None after `interrupt`.

        Raises:
            SourceError: no first frame, or lost for longer than the patience.
        """
        while not self._stop.is_set():
            if self._capture is None:
                return None
            if (failure := self._grab(self._capture)) is not None:
                self._lose(failure)
            elif (frame := self._frame(self._capture)) is not None:
                return frame
        return None

    def _grab(self, capture: Capture) -> FailureKind | None:
        if self._has_grabbed:
            self._has_grabbed = False
            return None
        failure = capture.grab()
        # Frames that were too old to be looked at have their numbers too.
        self._index += capture.thrown
        self.status.drained += capture.thrown
        return failure

    def _lose(self, kind: FailureKind) -> None:
        """After a failed read.

        Raises:
            SourceError: there was never a frame, it is not tried again, or the patience has ended.
        """
        if self._stop.is_set():
            return
        if not self._index:
            raise SourceError(
                f"{self._address.label} opens but gives no frame; is another program using it? Cameras often "
                "have a second device without pictures: try the next number",
                kind=kind,
            )
        if self._reconnect_s is None:
            raise SourceError(f"{self._address.label} gives no frame any more", kind=kind)
        self._reconnect(kind, self._reconnect_s)

    def _frame(self, capture: Capture) -> Frame | None:
        """The grabbed frame; None where it cannot be decoded, or nobody can say yet how old it is."""
        start_s = time.monotonic()
        silence_s = max(_SILENCE_S, _SILENT_FRAMES / self.fps if self.fps else 0.0)
        self._after_gap |= bool(self._index) and (capture.waited_s > silence_s or capture.is_new_line)
        index, self._index = self._index, self._index + 1
        if self._first_s is None:
            self._first_s = start_s
        pixels = capture.retrieve() if capture.is_sure or start_s - self._first_s > _LONGEST_START_S else None
        image = bgr_from_pixels(pixels) if pixels is not None else None
        if image is None:
            self.status.drained += 1
            return None
        after_gap, self._after_gap = self._after_gap, False
        return Frame(
            image=image,
            index=index,
            t_capture_s=capture.t_capture_s,
            t_stream_s=capture.t_stream_s,
            t_media_s=max(0.0, capture.t_capture_s - self._start_s),
            capture_s=time.monotonic() - start_s,
            is_after_gap=after_gap,
        )

    def _reconnect(self, kind: FailureKind, reconnect_s: float) -> None:
        """Open again, with pauses that double and are spread, so that many clients do not come back at once.

        Raises:
            SourceError: the patience has ended.
        """
        lost_s = time.monotonic()
        pause_s = _FIRST_PAUSE_S
        self.status.failure = kind
        _LOG.warning("%s is lost (%s); trying again for %.0f s", self._address.label, kind, reconnect_s)
        self.close()
        while not self._stop.wait(pause_s * random.uniform(0.75, 1.25)):
            failure = self._open_again()
            if failure is None:
                _LOG.warning("%s is back after %.1f s", self._address.label, time.monotonic() - lost_s)
                return
            self.status.failure = failure
            if time.monotonic() - lost_s > reconnect_s:
                raise SourceError(
                    f"{self._address.label} was lost and did not come back within {reconnect_s:.0f} s ({failure})",
                    kind=failure,
                )
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _open_again(self) -> FailureKind | None:
        """Once; it is back when it gives a frame."""
        try:
            capture = open_capture(self._address)
        except CaptureFailed as failed:
            return failed.kind
        failure = capture.grab()
        if failure is not None:
            capture.release()
            return failure
        self._capture, self._first_s = capture, None
        self._after_gap = self._has_grabbed = True
        self.status.failure = None
        self.status.reconnects += 1
        return None

    def memory(self) -> FrameMemory:
        """What decoding takes, in the mode in which it was opened."""
        return self._memory

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
