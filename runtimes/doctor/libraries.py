"""OpenCV, GStreamer, the display, and the engines' libraries: what they really can do here."""

from __future__ import annotations

from collections.abc import Mapping

from brixel_edge.machine.board import Board
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.findings import Finding

# Each installs a folder cv2, and the last one wins.
OPENCV_PACKAGES = (
    "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless",
)  # fmt: skip
_SYSTEM_GSTREAMER = "sudo apt install python3-gi gstreamer1.0-plugins-base, in an environment with system site packages"


def opencv_findings(answer: Answer, packages: Mapping[str, str]) -> list[Finding]:
    """Which cv2 this is, and what it was built with."""
    if answer.failure is not None:
        text, remedy = f"does not load: {answer.failure}", "pip install --force-reinstall opencv-python-headless"
        return [Finding(topic="OpenCV", state="no", text=text, remedy=remedy)]
    facts = answer.facts
    has = {"FFmpeg": facts["ffmpeg"], "V4L2": facts["v4l"], "GStreamer": facts["gstreamer"]}
    built = ", ".join(name if value else f"no {name}" for name, value in has.items())
    window = facts["gui"] or "no windows"
    found = [
        Finding(topic="OpenCV", state="ok", text=f"{facts['version']}: {built}, {window}; {facts['file']}", facts=facts)
    ]
    several = [name for name in OPENCV_PACKAGES if name in packages]
    if len(several) > 1:
        text = f"{' and '.join(several)} are installed over each other: which one works is chance"
        remedy = f"pip uninstall {' '.join(several)} && pip install opencv-python-headless"
        found.append(Finding(topic="OpenCV", state="note", text=text, remedy=remedy))
    return found


def gstreamer_findings(answer: Answer | None, opencv: Answer, board: Board) -> list[Finding]:
    """Whether `gst:` and `csi:` open."""
    if answer is not None and answer.failure is None:
        elements = answer.facts["elements"]
        lacks = [name for name in ("appsink", "videoconvert") if name not in elements]
        if board.is_jetson and "nvarguscamerasrc" not in elements:
            lacks.append("nvarguscamerasrc")
        text = f"{answer.facts['version']} through python3-gi" + (f", without {', '.join(lacks)}" if lacks else "")
        remedy = None
        if lacks:
            remedy = f"sudo apt install gstreamer1.0-plugins-base{' nvidia-l4t-gstreamer' if board.is_jetson else ''}"
        return [
            Finding(topic="GStreamer", state="note" if lacks else "ok", text=text, remedy=remedy, facts=answer.facts)
        ]
    if opencv.failure is None and opencv.facts["gstreamer"]:
        return [Finding(topic="GStreamer", state="ok", text="through this cv2")]
    reason = "python3-gi is not in this environment" if answer is None else answer.failure
    return [
        Finding(topic="GStreamer", state="note", text=f"no gst: and csi: sources: {reason}", remedy=_SYSTEM_GSTREAMER)
    ]


def display_findings(environ: Mapping[str, str], opencv: Answer, has_tkinter: bool) -> list[Finding]:
    """Whether a window can be shown."""
    display = environ.get("WAYLAND_DISPLAY") or environ.get("DISPLAY")
    if not display:
        text = "none (neither DISPLAY nor WAYLAND_DISPLAY is set): nothing is shown"
        return [Finding(topic="display", state="note", text=text, remedy="brixel-run --headless, or --save out.mp4")]
    gui = opencv.facts.get("gui") or ("tkinter" if has_tkinter else "")
    if not gui:
        text = f"{display}, but neither this cv2 nor Python can draw windows"
        return [Finding(topic="display", state="note", text=text, remedy="sudo apt install python3-tk")]
    return [Finding(topic="display", state="ok", text=f"{display}, windows by {gui}", facts={"display": display})]


def ort_findings(answer: Answer) -> list[Finding]:
    """ONNX Runtime, with the providers that it was built with."""
    if answer.failure is not None:
        text, remedy = f"does not load: {answer.failure}", "pip install --force-reinstall onnxruntime"
        return [Finding(topic="ONNX Runtime", state="no", text=text, remedy=remedy)]
    providers = ", ".join(name.removesuffix("ExecutionProvider") for name in answer.facts["providers"])
    text = f"{answer.facts['version']}: {providers}"
    return [Finding(topic="ONNX Runtime", state="ok", text=text, facts=answer.facts)]


def openvino_findings(answer: Answer | None, is_x86: bool) -> list[Finding]:
    """OpenVINO, with what it computes in."""
    remedy = "pip install 'brixel-edge[openvino]'"
    if answer is None:
        if not is_x86:
            return []
        text = "not installed; on x86 it is the faster one"
        return [Finding(topic="OpenVINO", state="note", text=text, remedy=remedy)]
    if answer.failure is not None:
        text, remedy = f"does not load: {answer.failure}", "pip install --force-reinstall openvino"
        return [Finding(topic="OpenVINO", state="no", text=text, remedy=remedy)]
    kinds = [kind for kind in ("FP32", "BF16", "FP16", "INT8") if kind in answer.facts["arithmetic"]]
    release = answer.facts["version"].partition("-")[0]
    return [Finding(topic="OpenVINO", state="ok", text=f"{release}: {', '.join(kinds)} on the CPU", facts=answer.facts)]
