"""What a camera's address means: a number or device with a mode, a URL, a pipeline."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

import cv2

from brixel_edge.errors import BackendMissing, SourceError, SpecError
from brixel_edge.machine.addresses import address_for_libraries, label_from_address

_MODE_KEYS = ("width", "height", "fps", "fourcc")
NO_CAMERA = "without a camera: --source test:pattern"


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
    return name.isdecimal() or name.startswith("/dev/video") or name.startswith("/dev/v4l/")


def has_gstreamer_in_cv2() -> bool:
    """Whether this cv2 is built with GStreamer; JetPack's and Debian's are."""
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
        if not has_gstreamer_in_cv2():
            raise BackendMissing(
                "gst: needs a cv2 with GStreamer, and the one from PyPI has none: uninstall opencv-python-headless and "
                "use JetPack's or your distribution's (python3-opencv) in an environment with system site packages"
            )
        return CameraAddress(target=text[4:].strip(), backend=cv2.CAP_GSTREAMER, label=label_from_address(text))
    if not is_camera_address(text):
        return CameraAddress(
            target=address_for_libraries(text),
            backend=cv2.CAP_FFMPEG,
            label=label_from_address(text),
            timeouts=True,
        )
    name, _, query = text.partition("?")
    mode = _mode(query, text)
    if sys.platform != "linux":
        return CameraAddress(target=int(name) if name.isdecimal() else name, backend=cv2.CAP_ANY, label=name, mode=mode)
    device = f"/dev/video{int(name)}" if name.isdecimal() else name
    return CameraAddress(target=device, backend=cv2.CAP_V4L2, label=_device_label(name, device), mode=mode)


def _device_label(name: str, device: str) -> str:
    """`camera 0 = /dev/video0 (C920)`: what the number turned out to be."""
    model = Path("/sys/class/video4linux") / Path(device).resolve().name / "name"
    product = f" ({model.read_text(encoding='utf-8', errors='replace').strip()})" if model.is_file() else ""
    return f"camera {name} = {device}{product}" if name != device else f"camera {device}{product}"


def check_device(address: CameraAddress) -> None:
    """The two reasons that can be told before opening: it is not there, or it is not ours.

    Raises:
        SourceError: one of them.
    """
    target = str(address.target)
    if not target.startswith("/dev/"):
        return
    if not Path(target).exists():
        there = ", ".join(str(path) for path in sorted(Path("/dev").glob("video*"))) or "none"
        raise SourceError(
            f"{address.label} is not there (cameras here: {there}); check the cable; {NO_CAMERA}", kind="not found"
        )
    if not os.access(target, os.R_OK | os.W_OK):
        raise SourceError(
            f"{address.label} may not be read; add yourself to its group: sudo usermod -aG video $USER", kind="refused"
        )
