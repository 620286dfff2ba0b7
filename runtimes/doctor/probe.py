"""What the doctor's child processes do: load one thing and print its facts as one line of JSON.

python -m brixel_edge.runtimes.doctor.probe WHAT [OF]
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from brixel_edge.errors import BrixelError


def _opencv(_: str) -> dict[str, Any]:
    cv2 = importlib.import_module("cv2")
    build = cv2.getBuildInformation()

    def line(name: str) -> str:
        match = re.search(rf"^\s*{re.escape(name)}:\s*(.*)$", build, re.MULTILINE)
        return match[1].strip() if match else ""

    return {
        "version": cv2.__version__,
        "file": cv2.__file__,
        "gui": "" if line("GUI").upper().startswith("NONE") else line("GUI"),
        "gstreamer": line("GStreamer").startswith("YES"),
        "ffmpeg": line("FFMPEG").startswith("YES"),
        "v4l": line("v4l/v4l2").startswith("YES"),
        "stream_backends": sorted(cv2.videoio_registry.getBackendName(b) for b in cv2.videoio_registry.getBackends()),
    }


def _onnxruntime(_: str) -> dict[str, Any]:
    module = importlib.import_module("onnxruntime")
    return {"version": module.__version__, "providers": module.get_available_providers()}


def _openvino(_: str) -> dict[str, Any]:
    module = importlib.import_module("openvino")
    core = module.Core()
    return {
        "version": module.get_version(),
        "devices": list(core.available_devices),
        "arithmetic": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
    }


def _tensorrt(kind: str) -> dict[str, Any]:
    from brixel_edge.machine.tensorrt import full_build, import_tensorrt

    assert kind in ("trt", "trt-rtx")
    module = import_tensorrt(kind, "brixel-doctor")
    return {"version": str(module.__version__), "build": full_build(module, kind), "file": module.__file__}


def _gpu(_: str) -> dict[str, Any]:
    from brixel_edge.machine.cuda import current_device, import_cudart

    return dataclasses.asdict(current_device(import_cudart()))


def _gstreamer(_: str) -> dict[str, Any]:
    gi = importlib.import_module("gi")
    gi.require_version("Gst", "1.0")
    gst = importlib.import_module("gi.repository.Gst")
    gst.init(None)
    names = ("appsink", "videoconvert", "v4l2src", "rtspsrc", "nvarguscamerasrc", "nvvidconv", "libcamerasrc")
    return {
        "version": ".".join(map(str, gst.version()[:3])),
        "elements": [name for name in names if gst.ElementFactory.find(name) is not None],
    }


def _camera(device: str) -> dict[str, Any]:
    from brixel_edge.runtimes.doctor.v4l2 import camera_facts

    return camera_facts(device)


PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "opencv": _opencv,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _tensorrt,
    "gpu": _gpu,
    "gstreamer": _gstreamer,
    "camera": _camera,
}


def main(what: str, of: str = "") -> int:
    """Print the facts, or the failure."""
    # Libraries may print; only the answer may reach stdout.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answer:
        os.dup2(2, 1)
        try:
            record = PROBES[what](of)
        except (ImportError, OSError, ValueError, RuntimeError, AttributeError, BrixelError) as error:
            record = {"failure": " ".join(str(error).split()) or type(error).__name__}
        answer.write(json.dumps(record) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
