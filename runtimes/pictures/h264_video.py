"""H.264 through PyAV: small, and browsers play it. Every picture has its own time stamp.

Every picture is a fragment of its own and goes to the disk at once (about 120 bytes more a picture), so that what is
there can be played at any moment: after a full disk, a killed process, a power cut.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.machine.files import UnbufferedFile
from brixel_edge.runtimes.pictures.video_file import VideoFile

_TIME_BASE = Fraction(1, 1000)
# Without look-ahead and frame threads x264 takes 16 MB instead of 49 MB for our pictures, and leaves the cores alone.
# Its middle quality is 23; colour maps are hard edges, which ask for a little more.
_X264 = {"crf": "21", "preset": "veryfast", "tune": "zerolatency", "threads": "1"}
_FRAGMENTS = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
# FFmpeg's name of the container, and what makes it write each picture at once.
_CONTAINERS = {
    ".mp4": ("mp4", _FRAGMENTS),
    ".mov": ("mov", _FRAGMENTS),
    ".mkv": ("matroska", {"cluster_time_limit": "0"}),
}


class H264Video(VideoFile):
    """A fragmented mp4 or mov, or an mkv.

    Raises:
        BundleError: the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        import av
        import av.error

        super().__init__(path)
        self._errors = (av.error.FFmpegError, OSError)
        self._picture_type = av.VideoFrame
        container, options = _CONTAINERS[path.suffix.lower()]
        try:
            self._target = UnbufferedFile(self.temporary)
            self._container: Any = av.open(self._target, "w", format=container, options=options)
        except self._errors as error:
            raise self.failed(error) from error
        self._stream: Any = None
        self._first_s = 0.0
        self._last_stamp = -1
        self._whole_bytes = 0
        self._is_broken = False

    def write(self, picture: NDArray[np.uint8], t_media_s: float, name: str | None) -> None:
        """Encode one picture, and put it on the disk.

        Raises:
            BundleError: it cannot be written; those before it are kept.
        """
        picture = self.fitted(picture)
        try:
            stream = self._stream or self._open_stream(t_media_s)
            frame = self._picture_type.from_ndarray(np.ascontiguousarray(picture), format="bgr24")
            frame.time_base = _TIME_BASE
            self._last_stamp = max(self._last_stamp + 1, round((t_media_s - self._first_s) / _TIME_BASE))
            frame.pts = self._last_stamp
            self._mux(stream.encode(frame))
        except self._errors as error:
            self._is_broken = True
            self._drop_the_last()
            raise self.failed(error, f" Its {self.count} frames until then are kept") from error
        self.count += 1

    def _drop_the_last(self) -> None:
        # A container writes a picture when the next one tells how long it is shown.
        self.count = max(0, self.count - 1)

    def _mux(self, packets: Any) -> None:
        self._container.mux(packets)
        self._whole_bytes = self._target.tell()

    def _open_stream(self, first_s: float) -> Any:
        assert self.size is not None
        self._first_s = first_s
        self._stream = self._container.add_stream("libx264", rate=30, options=_X264)
        self._stream.height, self._stream.width = self.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE
        return self._stream

    def close(self) -> None:
        """Flush the encoder and give the file its name; after a failed write, what is whole of it.

        Raises:
            BundleError: the end cannot be written; what came before is kept.
        """
        if self._container is None:
            return
        container, self._container = self._container, None
        failure: Exception | None = None
        try:
            if self._stream is not None and not self._is_broken:
                container.mux(self._stream.encode(None))
            container.close()
        except self._errors as error:
            failure = error
        if self._is_broken or failure is not None:
            # A fragment that was begun would be an error to players.
            self._target.cut(self._whole_bytes)
        self._target.close()
        if failure is not None and not self._is_broken:
            self._drop_the_last()
            self.publish()
            raise self.failed(failure, f" Its {self.count} frames until then are kept") from failure
        self.publish()
