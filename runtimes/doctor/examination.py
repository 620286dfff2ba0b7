"""The doctor's round: what the system's files say, what libraries and devices answer, and what follows from both."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from brixel_edge.machine.board import board, memory
from brixel_edge.machine.instructions import instructions
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.machine.tensorrt import MODULES
from brixel_edge.runtimes.doctor.asking import Answer, Ask, ask_in_child
from brixel_edge.runtimes.doctor.cameras import camera_devices, camera_findings
from brixel_edge.runtimes.doctor.engines import TOPIC, engine_findings
from brixel_edge.runtimes.doctor.findings import Finding, table
from brixel_edge.runtimes.doctor.hardware import board_findings, gpu_findings, memory_findings, processor_findings
from brixel_edge.runtimes.doctor.libraries import (
    OPENCV_PACKAGES,
    display_findings,
    gstreamer_findings,
    opencv_findings,
    openvino_findings,
    ort_findings,
)
from brixel_edge.runtimes.doctor.tensorrt import Environment, tensorrt_findings, this_environment

_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx")
# Asked side by side: each is a process that mostly waits for its library to load.
_AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class Patient:
    """The machine that is looked at.

    Attributes:
        system: its files.
        environ: variables of the environment.
        environment: the Python that asks.
        installed: modules that can be imported.
        ask: how a library or device is asked.
    """

    system: SystemFiles
    environ: Mapping[str, str]
    environment: Environment
    installed: frozenset[str]
    ask: Ask = ask_in_child


_MODULES = ("gi", "tkinter", "_tkinter", "openvino", "cuda", *MODULES.values())


def this_machine() -> Patient:
    """The one that this process runs on."""
    return Patient(
        system=SystemFiles(),
        environ=os.environ,
        environment=this_environment(_versions((*OPENCV_PACKAGES, *_TENSORRT_PACKAGES))),
        installed=frozenset(name for name in _MODULES if importlib.util.find_spec(name) is not None),
    )


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was found.

    Attributes:
        findings: in the order in which they are shown.
    """

    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def can_run(self) -> bool:
        """Whether one engine at least of the model runs here."""
        return any(finding.topic == TOPIC and finding.state == "ok" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        findings = [
            {"topic": f.topic, "state": f.state, "text": f.text, "remedy": f.remedy, "facts": f.facts}
            for f in self.findings
        ]
        return {"can_run": self.can_run, "findings": findings}

    def table(self) -> str:
        """For people."""
        return table(self.findings)


def examine(model: Path | None, patient: Patient) -> Examination:
    """Look at a machine with a model in mind.

    Args:
        model: a model directory or graph; None is the built-in one.
        patient: the machine.

    Raises:
        BundleError: no model there.
    """
    system = patient.system
    found_board, found_memory, processor = board(system), memory(system), instructions(system)
    answers = _answers(patient)
    opencv = answers["opencv"]
    assert opencv is not None and answers["onnxruntime"] is not None
    devices = camera_devices(system)
    cameras = {device: answer for device in devices if (answer := answers[str(device)]) is not None}
    has_tkinter = {"tkinter", "_tkinter"} <= patient.installed
    return Examination(
        findings=(
            *board_findings(found_board, found_memory),
            *processor_findings(processor),
            *memory_findings(found_memory),
            *gpu_findings(system, found_board, answers["gpu"]),
            *tensorrt_findings(system, found_board, patient.environment, answers["trt"], answers["gpu"]),
            *ort_findings(answers["onnxruntime"]),
            *openvino_findings(answers["openvino"], processor.family == "x86"),
            *opencv_findings(opencv, patient.environment.packages),
            *gstreamer_findings(answers["gstreamer"], opencv, found_board),
            *display_findings(patient.environ, opencv, has_tkinter),
            *camera_findings(system, found_board, cameras),
            *engine_findings(model, answers),
        )
    )


def _answers(patient: Patient) -> dict[str, Answer | None]:
    """What libraries and devices say, by name; None where a library is not installed."""
    questions: dict[str, tuple[str, str] | None] = {"opencv": ("opencv", ""), "onnxruntime": ("onnxruntime", "")}
    for name, module in (("openvino", "openvino"), ("gstreamer", "gi"), ("gpu", "cuda")):
        questions[name] = (name, "") if module in patient.installed else None
    for kind, module in MODULES.items():
        questions[kind] = ("tensorrt", kind) if module in patient.installed else None
    for device in camera_devices(patient.system):
        questions[str(device)] = ("camera", str(device))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
        waiting: dict[str, Future[Answer] | None] = {
            name: None if question is None else pool.submit(patient.ask, *question)
            for name, question in questions.items()
        }
        return {name: None if future is None else future.result() for name, future in waiting.items()}
