"""brixel-doctor's findings on machines that are not here, and on this one."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import fake_roots
import pytest

from brixel_edge.commands import doctor
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.runtimes.doctor import examination
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.examination import Patient, examine
from brixel_edge.runtimes.doctor.findings import Finding
from brixel_edge.runtimes.doctor.tensorrt import Environment

ORT = Answer(facts={"version": "1.23.0", "providers": ["CPUExecutionProvider"]})
OPENCV = Answer(
    facts={"version": "4.13.0", "file": "/x/cv2.so", "gui": "", "gstreamer": False, "ffmpeg": True, "v4l": True}
)
TENSORRT = Answer(facts={"version": "10.3.0", "build": "10.3.0.30", "file": "/usr/lib/tensorrt"})
ORIN_GPU = Answer(
    facts={
        "name": "Orin", "compute_capability": 87, "free_bytes": 2 << 30, "total_bytes": 3 << 30, "cuda_version": 12060,
        "multiprocessors": 8, "driver": "", "board": "", "has_mapped_memory": True,
    }
)  # fmt: skip
VENV = Environment(python="3.10", is_virtual=True, has_system_packages=False, packages={})


def patient(root: Path, answers: dict[str, Answer] | None = None, **changes) -> Patient:
    """A machine on which libraries answer as told, and the rest are not installed."""
    given = {"opencv": OPENCV, "onnxruntime": ORT, **(answers or {})}
    installed = {"gpu": "cuda", "gstreamer": "gi", "openvino": "openvino", "trt": "tensorrt"}

    def ask(what: str, of: str) -> Answer:
        return given[of if what in ("tensorrt", "camera") else what]

    healthy = Patient(
        system=SystemFiles(root),
        environ={},
        environment=VENV,
        installed=frozenset(module for name, module in installed.items() if name in given),
        ask=ask,
    )
    return dataclasses.replace(healthy, **changes)


def lines(found: examination.Examination, topic: str) -> list[tuple[str, str, str | None]]:
    return [(entry.state, entry.text, entry.remedy) for entry in found.findings if entry.topic == topic]


def test_a_jetson_without_tensorrt_in_its_environment_is_told_how_to_get_it(tmp_path):
    found = examine(None, patient(fake_roots.jetson_orin_nano(tmp_path)))
    [(state, text, remedy)] = lines(found, "TensorRT")
    assert state == "no"
    assert "the board has 10.3.0.30, but this environment hides the system's packages" in text
    assert remedy is not None and "--system-site-packages" in remedy and "brixel-edge[jetpack6]" in remedy
    assert found.can_run  # ONNX Runtime does


@pytest.mark.parametrize(
    ("change", "text", "remedy"),
    [
        (
            {"python": "3.12", "has_system_packages": True},
            "is for Python 3.10, this is 3.12",
            "/usr/bin/python3 -m venv",
        ),
        ({"is_virtual": False, "has_system_packages": True}, "does not see", "/usr/bin/python3 -m venv"),
    ],
)
def test_the_reason_why_tensorrt_is_not_seen_is_told(tmp_path, change, text, remedy):
    environment = dataclasses.replace(VENV, **change)
    found = examine(None, patient(fake_roots.jetson_orin_nano(tmp_path), environment=environment))
    [(state, told, typed)] = lines(found, "TensorRT")
    assert state == "no" and text in told and remedy in (typed or "")


def test_a_jetson_without_tensorrt_on_it_is_told_to_install_it(tmp_path):
    root = fake_roots.jetson_orin_nano(tmp_path)
    (root / "usr/lib/python3.10/dist-packages/tensorrt/__init__.py").unlink()
    (root / "usr/lib/python3.10/dist-packages/tensorrt").rmdir()
    [(_, text, remedy)] = lines(examine(None, patient(root)), "TensorRT")
    assert "10.3.0.30 is on the board, its Python package is not" in text
    assert remedy is not None and remedy.startswith("sudo apt install python3-libnvinfer")
    (root / "var/lib/dpkg/status").write_text("")
    [(_, text, remedy)] = lines(examine(None, patient(root)), "TensorRT")
    assert "is not on this board" in text
    assert remedy is not None and remedy.startswith("sudo apt install nvidia-jetpack")


def test_a_wheel_that_is_not_the_board_s_own_is_called_so(tmp_path):
    root = fake_roots.jetson_orin_nano(tmp_path)
    right = examine(None, patient(root, {"trt": TENSORRT, "gpu": ORIN_GPU}))
    assert lines(right, "TensorRT") == [("ok", "10.3.0.30, the board's own", None)]
    wrong = Answer(facts={"version": "10.13.2", "build": "10.13.2.6", "file": "/venv/tensorrt"})
    environment = dataclasses.replace(VENV, packages={"tensorrt-cu13": "10.13.2.6"})
    found = examine(None, patient(root, {"trt": wrong, "gpu": ORIN_GPU}, environment=environment))
    [(state, text, remedy)] = lines(found, "TensorRT")
    assert state == "no" and "is not the board's own, which is 10.3.0.30" in text
    assert remedy is not None and remedy.startswith("pip uninstall tensorrt-cu13")


def test_a_wheel_for_a_newer_cuda_than_the_driver_s_is_called_so(tmp_path):
    root = fake_roots.x86_server(tmp_path)
    fake_roots.write(root, {"proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14"})
    environment = dataclasses.replace(VENV, packages={"tensorrt-cu13": "10.13.2.6"})
    found = examine(None, patient(root, {"trt": TENSORRT, "gpu": ORIN_GPU}, environment=environment))
    [(state, text, remedy)] = lines(found, "TensorRT")
    assert state == "no" and "is for CUDA 13, the driver has CUDA 12" in text
    assert remedy is not None and "brixel-edge[trt-cu12]" in remedy


def test_a_jetson_s_board_power_swap_and_desktop(tmp_path):
    found = examine(None, patient(fake_roots.jetson_orin_nano(tmp_path)))
    [(state, text, remedy)] = lines(found, "board")
    assert (state, text) == ("ok", "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3 (JetPack 6)")
    assert remedy == "models for it: brixel-export --for jetson-orin-nano"
    assert lines(found, "power")[0][:2] == ("note", "mode 0 (15W), not its fastest")
    assert "sudo nvpmodel -m 2" in (lines(found, "power")[0][2] or "")
    assert lines(found, "swap")[0][0] == "note" and "compressed memory" in lines(found, "swap")[0][1]
    assert "multi-user.target" in (lines(found, "desktop")[0][2] or "")


def test_jetpack_5_is_too_old(tmp_path):
    old = "# R35 (release), REVISION: 5.0, GCID: 1"
    found = examine(None, patient(fake_roots.jetson_orin_nano(tmp_path, l4t=old)))
    assert lines(found, "board")[0][0] == "no"
    assert lines(found, "board")[0][2] == "flash JetPack 6"


def test_a_raspberry_pi_has_nothing_of_nvidia_s(tmp_path):
    found = examine(None, patient(fake_roots.raspberry_pi_5(tmp_path)))
    assert lines(found, "processor")[0][:2] == ("ok", "Cortex-A76, 1 logical cores, asimd")
    assert lines(found, "INT8") == [("ok", "integer dot products: asimddp", None)]
    assert not lines(found, "TensorRT") and not lines(found, "power") and not lines(found, "OpenVINO")
    assert lines(found, "GPU")[0][0] == "note"
    assert lines(found, "board")[0][2] == "models for it: brixel-export --for raspberry-pi-5"


def test_an_x86_without_display_cameras_or_openvino(tmp_path):
    found = examine(None, patient(fake_roots.x86_server(tmp_path)))
    assert not lines(found, "board")
    assert lines(found, "display")[0][0] == "note" and "--headless" in (lines(found, "display")[0][2] or "")
    assert lines(found, "camera")[0][1] == "none that gives pictures"
    assert lines(found, "OpenVINO")[0][2] == "pip install 'brixel-edge[openvino]'"
    assert lines(found, "GStreamer")[0][0] == "note"
    assert lines(found, "BF16")[0][0] == "note"


@pytest.mark.parametrize(
    ("environ", "gui", "modules", "state", "text"),
    [
        ({"DISPLAY": ":0"}, "GTK3", set(), "ok", ":0, windows by GTK3"),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "", {"tkinter", "_tkinter"}, "ok", "wayland-0, windows by tkinter"),
        ({"DISPLAY": ":0"}, "", {"tkinter"}, "note", "can draw windows"),
    ],
)
def test_a_display_needs_something_that_draws(tmp_path, environ, gui, modules, state, text):
    opencv = Answer(facts={**OPENCV.facts, "gui": gui})
    found = examine(
        None,
        patient(fake_roots.x86_server(tmp_path), {"opencv": opencv}, environ=environ, installed=frozenset(modules)),
    )
    assert lines(found, "display")[0][0] == state and text in lines(found, "display")[0][1]


def test_a_card_without_a_driver_is_seen_on_its_bus(tmp_path):
    root = fake_roots.x86_server(tmp_path)
    device = "sys/bus/pci/devices/0000:01:00.0"
    fake_roots.write(root, {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030000\n"})
    [(state, text, _)] = lines(examine(None, patient(root)), "GPU")
    assert state == "no" and "its driver is not loaded" in text


def test_a_card_with_its_driver_is_told_with_both(tmp_path):
    root = fake_roots.x86_server(tmp_path)
    version = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb 22 01:44:30 UTC 2024\nGCC version: 12"
    information = "Model: \t\t NVIDIA RTX A2000\nIRQ: 16\n"
    fake_roots.write(
        root, {"proc/driver/nvidia/version": version, "proc/driver/nvidia/gpus/0000:01:00.0/information": information}
    )
    [(state, text, remedy)] = lines(examine(None, patient(root)), "GPU")
    assert state == "note" and text.startswith("NVIDIA RTX A2000, driver 550.54.14; cuda-python")
    assert remedy == "pip install 'brixel-edge[trt]'"
    [(state, text, _)] = lines(examine(None, patient(root, {"gpu": ORIN_GPU})), "GPU")
    assert state == "ok" and "SM 8.7, CUDA 12.6, driver 550.54.14" in text
    failing = Answer(failure="CUDA cannot find a device: cudaErrorInsufficientDriver (35)")
    [(state, text, _)] = lines(examine(None, patient(root, {"gpu": failing})), "GPU")
    assert state == "no" and "cudaErrorInsufficientDriver" in text


CAMERA = {
    "card": "HD Webcam", "driver": "uvcvideo", "has_pictures": True,
    "formats": [
        {"fourcc": "YUYV", "description": "", "sizes": [{"width": 1280, "height": 720, "fps": 10.0}]},
        {"fourcc": "MJPG", "description": "", "sizes": [
            {"width": 640, "height": 480, "fps": 30.0}, {"width": 1920, "height": 1080, "fps": 30.0},
            {"width": 1280, "height": 720, "fps": 30.0}, {"width": 320, "height": 240, "fps": 30.0},
        ]},
    ],
}  # fmt: skip


def test_cameras_are_told_with_their_formats_and_what_to_type(tmp_path):
    root = fake_roots.x86_server(tmp_path)
    fake_roots.write(root, {f"dev/video{number}": "" for number in range(4)})
    (root / "dev/v4l/by-id").mkdir(parents=True)
    (root / "dev/v4l/by-id/usb-HD_Webcam-video-index0").symlink_to("../../video0")
    answers = {
        str(root / "dev/video0"): Answer(facts=CAMERA),
        str(root / "dev/video1"): Answer(facts={**CAMERA, "has_pictures": False, "formats": []}),
        str(root / "dev/video2"): Answer(failure="[Errno 13] Permission denied: '/dev/video2'"),
        str(root / "dev/video3"): Answer(failure="no answer within 20 s"),
    }
    found = lines(examine(None, patient(root, answers)), "camera")
    assert [state for state, *_ in found] == ["ok", "no", "no"]
    assert "MJPG 1920x1080@30, 1280x720@30, 640x480@30 and 1 smaller" in found[0][1]
    wanted = "/dev/v4l/by-id/usb-HD_Webcam-video-index0?width=1280&height=720&fps=30&fourcc=MJPG"
    assert found[0][2] == f'brixel-run --camera "{wanted}"'
    assert "usermod -aG video" in (found[1][2] or "")
    assert "no answer within 20 s" in found[2][1]


def test_a_sensor_s_raw_data_is_not_called_a_camera_for_opencv(tmp_path):
    root = fake_roots.jetson_orin_nano(tmp_path)
    fake_roots.write(root, {"dev/video0": ""})
    raw = {**CAMERA, "formats": [{"fourcc": "RG10", "description": "", "sizes": []}]}
    [(state, _, remedy)] = lines(examine(None, patient(root, {str(root / "dev/video0"): Answer(facts=raw)})), "camera")
    assert state == "note" and "csi:0" in (remedy or "")


def test_two_opencvs_over_each_other_are_told(tmp_path):
    packages = {"opencv-python": "4.10", "opencv-python-headless": "5.0"}
    environment = dataclasses.replace(VENV, packages=packages)
    found = lines(examine(None, patient(fake_roots.x86_server(tmp_path), environment=environment)), "OpenCV")
    assert found[1][0] == "note" and "opencv-python and opencv-python-headless" in found[1][1]


def test_engines_of_a_directory_with_their_proof(tmp_path, export_mini_fp16, monkeypatch):
    directory = export_mini_fp16("doctor.brixel")
    root = fake_roots.x86_server(tmp_path / "root")
    found = examine(directory, patient(root))
    engines = {entry.facts["engine"]: entry.facts for entry in found.findings if entry.topic == "engine"}
    assert engines["graph.fp32.onnx, ort"] == {
        "engine": "graph.fp32.onnx, ort", "runs": True, "proof": "at first load",
    }  # fmt: skip
    assert not engines["graph.fp32.onnx, openvino"]["runs"]  # as this machine is told: not installed
    (directory / "graph.fp16.onnx").write_bytes(b"changed")
    found = examine(directory, patient(root))
    [changed] = [entry for entry in found.findings if entry.text.startswith("graph.fp16.onnx, ort")]
    assert "differs from the file that was exported" in changed.text
    assert changed.remedy == f"copy {directory} here again, or export it again"


def test_what_does_not_work_says_what_to_do():
    with pytest.raises(ValueError, match=r"engine does not work .*, and nothing says what to do"):
        Finding(topic="engine", state="no", text="it does not run")


def test_a_bare_graph_whose_library_is_broken_says_what_to_type(tmp_path, graph):
    broken = {"onnxruntime": Answer(failure="ended by SIGILL")}
    found = examine(graph, patient(fake_roots.x86_server(tmp_path), broken))
    [engine] = [entry for entry in found.findings if entry.topic == "engine"]
    assert (engine.state, engine.remedy) == ("no", "pip install --force-reinstall onnxruntime")


def test_a_pass_that_was_noted_here_is_told(tmp_path, export_mini_fp16):
    import onnxruntime

    import brixel_edge

    directory = export_mini_fp16("noted.brixel")
    here = Answer(facts={"version": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()})
    with brixel_edge.open_model(directory, backend="ort", precision="fp32"):
        pass
    found = examine(directory, patient(fake_roots.x86_server(tmp_path / "root"), {"onnxruntime": here}))
    [text] = [entry.text for entry in found.findings if entry.facts.get("engine") == "graph.fp32.onnx, ort"]
    assert "runs; proven here at an earlier load (cosine mean" in text


def test_nothing_that_runs_is_exit_code_3(tmp_path, monkeypatch, capsys):
    broken = {"onnxruntime": Answer(failure="ended by SIGILL")}
    monkeypatch.setattr(examination, "this_machine", lambda: patient(fake_roots.x86_server(tmp_path), broken))
    assert doctor.main(["--json"]) == 3
    output = capsys.readouterr()
    assert "does not load: ended by SIGILL" in output.err
    assert json.loads(output.out)["error"]["kind"] == "BackendMissing"


def test_no_model_there_is_exit_code_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(examination, "this_machine", lambda: patient(fake_roots.x86_server(tmp_path)))
    assert doctor.main([str(tmp_path / "none.onnx")]) == 2
    assert capsys.readouterr().err.startswith("brixel-doctor: error: ")


def test_this_machine_is_told_without_torch_in_the_process():
    code = """
import sys
from brixel_edge.commands.doctor import main
code = main(["--json"])
loaded = {name.split(".")[0] for name in sys.modules} & {"torch", "timm", "onnx", "onnxruntime", "openvino", "cv2"}
assert not loaded, loaded
sys.exit(code)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["can_run"]
    by_topic = {entry["topic"]: entry for entry in record["findings"]}
    assert by_topic["ONNX Runtime"]["facts"]["providers"]
    assert by_topic["OpenCV"]["facts"]["ffmpeg"]
    assert by_topic["memory"]["facts"]["total"] > 0
