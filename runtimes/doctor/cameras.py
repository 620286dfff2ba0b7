"""Every video device of the system: what its driver says, in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brixel_edge.machine.board import Board
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.findings import Finding

_SHOWN_SIZES = 3


def camera_devices(system: SystemFiles) -> list[Path]:
    """`/dev/video*`, by number."""
    return system.found("dev/video*")


def camera_findings(system: SystemFiles, board: Board, answers: Mapping[Path, Answer]) -> list[Finding]:
    """One for each device that gives pictures; those that only give data about them are left out.

    Args:
        system: its files.
        board: a Jetson's CSI cameras have no formats that OpenCV could read.
        answers: of each device.
    """
    names = _stable_names(system)
    found = []
    for device, answer in answers.items():
        if answer.failure is not None:
            found.append(_silent(device, answer.failure))
        elif answer.facts["has_pictures"]:
            found.append(_camera(device, answer.facts, names.get(device.name)))
    if not found:
        remedy = "check the cable; brixel-run --source test:pattern goes without one"
        if board.is_jetson:
            remedy += "; a CSI camera: brixel-run --source csi:0"
        found.append(Finding(topic="camera", state="note", text="none that gives pictures", remedy=remedy))
    return found


def _stable_names(system: SystemFiles) -> dict[str, str]:
    """Links that stay the same when cameras are plugged in another order, by the device's name."""
    links = system.found("dev/v4l/by-id/*")
    return {Path(system.link(f"dev/v4l/by-id/{link.name}")).name: f"/dev/v4l/by-id/{link.name}" for link in links}


def _silent(device: Path, failure: str) -> Finding:
    remedy = "unplug it and plug it in again"
    if "Permission denied" in failure:
        remedy = "sudo usermod -aG video $USER, then log in again"
    elif "busy" in failure:
        remedy = "close the program that uses it"
    return Finding(topic="camera", state="no", text=f"{device}: {failure}", remedy=remedy)


def _camera(device: Path, facts: dict[str, Any], stable_name: str | None) -> Finding:
    formats = "; ".join(_format(entry) for entry in facts["formats"]) or "no formats named"
    text = f"{device}: {facts['card']} ({facts['driver']}): {formats}"
    best = _fastest_large_mode(facts["formats"])
    remedy = f'brixel-run --camera "{stable_name or device}{best}"'
    facts = {"device": str(device), "stable_name": stable_name, **facts}
    is_raw = bool(facts["formats"]) and all(
        entry["fourcc"][:2] in ("RG", "BG", "GB", "GR", "BA") for entry in facts["formats"]
    )
    if is_raw:
        return Finding(
            topic="camera", state="note", text=f"{text}; a sensor's raw data", facts=facts,
            remedy="through its image processor: --source csi:0 on a Jetson, libcamerasrc on a Raspberry Pi",
        )  # fmt: skip
    return Finding(topic="camera", state="ok", text=text, remedy=remedy, facts=facts)


def _format(entry: dict[str, Any]) -> str:
    """`MJPG 1920x1080@30, 1280x720@60`, the largest first."""
    sizes = sorted(entry["sizes"], key=lambda size: -size["width"] * size["height"])
    shown = [f"{size['width']}x{size['height']}" + (f"@{size['fps']:g}" if size["fps"] else "") for size in sizes]
    more = f" and {len(shown) - _SHOWN_SIZES} smaller" if len(shown) > _SHOWN_SIZES else ""
    return f"{entry['fourcc']} {', '.join(shown[:_SHOWN_SIZES])}{more}".strip()


def _fastest_large_mode(formats: list[dict[str, Any]]) -> str:
    """What to ask for: the highest rate among sizes of at most 1280 x 720, then the largest of them."""
    modes = [
        (size["fps"] or 0.0, size["width"] * size["height"], size, entry["fourcc"])
        for entry in formats
        for size in entry["sizes"]
        if size["width"] <= 1280 and size["height"] <= 720
    ]
    if not modes:
        return ""
    fps, _, size, fourcc = max(modes, key=lambda mode: mode[:2])
    rate = f"&fps={fps:g}" if fps else ""
    return f"?width={size['width']}&height={size['height']}{rate}&fourcc={fourcc}"
