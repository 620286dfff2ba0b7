"""The board, its processor, memory and GPU, from the system's files; the GPU also from its own library."""

from __future__ import annotations

import dataclasses

from brixel_edge.machine.board import Board, Memory
from brixel_edge.machine.instructions import Instructions
from brixel_edge.machine.memory import format_bytes
from brixel_edge.machine.system_files import SystemFiles
from brixel_edge.model.boards import recognised_board
from brixel_edge.runtimes.doctor.asking import Answer
from brixel_edge.runtimes.doctor.findings import Finding

_NVIDIA, _DISPLAY_CLASS = "0x10de", "0x03"
_LOW_MEMORY_BYTES, _SMALL_BOARD_BYTES = 600 << 20, 9 << 30


def board_findings(board: Board, memory: Memory) -> list[Finding]:
    """What board it is, its release, power mode and desktop; nothing on a machine that is none."""
    if not board.model and not board.is_jetson:
        return []
    entry = recognised_board(board.model, memory.total, board.l4t)
    release = ""
    if board.l4t is not None:
        release = f", L4T {board.l4t}" + (f" (JetPack {board.jetpack})" if board.jetpack else "")
    facts = {"model": board.model, "l4t": board.l4t, "jetpack": board.jetpack, "for": entry.name if entry else None}
    name = (board.model or "Jetson") + release
    found = [
        Finding(
            topic="board", state="ok", text=name, facts=facts,
            remedy=f"models for it: brixel-export --for {entry.name}" if entry else None,
        )
    ]  # fmt: skip
    if board.jetpack is not None and board.jetpack < 6:
        found = [
            Finding(
                topic="board", state="no", text=f"{name}: its TensorRT is for Python 3.8 and older, which is too old",
                remedy="flash JetPack 6", facts=facts,
            )
        ]  # fmt: skip
    return found + (_jetson_findings(board, memory) if board.is_jetson else [])


def _jetson_findings(board: Board, memory: Memory) -> list[Finding]:
    found = []
    if (power := board.power) is None:
        found.append(Finding(topic="power", state="note", text="mode unknown", remedy="sudo nvpmodel -q"))
    else:
        is_limited = power.fastest is not None and power.number != power.fastest
        found.append(
            Finding(
                topic="power", state="note" if is_limited else "ok", facts=dataclasses.asdict(power),
                text=f"mode {power.number} ({power.name or 'unnamed'})" + (", not its fastest" if is_limited else ""),
                remedy=f"sudo nvpmodel -m {power.fastest}, if its supply and cooling allow it" if is_limited else None,
            )
        )  # fmt: skip
    if not memory.swap_on_disk:
        text = f"none on disk ({format_bytes(memory.swap)} in compressed memory)" if memory.swap else "none"
        found.append(
            Finding(
                topic="swap", state="note", text=f"{text}; building an engine may be killed",
                remedy="sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
                "sudo swapon /swapfile",
            )
        )  # fmt: skip
    if board.has_desktop and memory.total and memory.total < _SMALL_BOARD_BYTES:
        found.append(
            Finding(
                topic="desktop", state="note", text="starts with the board, and takes memory that the GPU shares",
                remedy="sudo systemctl set-default multi-user.target && sudo reboot",
            )
        )  # fmt: skip
    return found


def memory_findings(memory: Memory) -> list[Finding]:
    """How much there is."""
    if memory.total is None or memory.available is None:
        return [Finding(topic="memory", state="note", text="the system does not say")]
    text = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} available"
    text += f", {format_bytes(memory.swap)} of swap" if memory.swap else ", no swap"
    is_low = memory.available < _LOW_MEMORY_BYTES
    remedy = "close other programs; brixel-run --budget SIZE refuses what does not fit" if is_low else None
    return [
        Finding(
            topic="memory", state="note" if is_low else "ok", text=text, remedy=remedy, facts=dataclasses.asdict(memory)
        )
    ]


def processor_findings(found: Instructions) -> list[Finding]:
    """What it is, and which instructions it has for networks."""
    facts = dataclasses.asdict(found)
    name = found.name or "a processor that the system does not name"
    if found.family is None:
        return [Finding(topic="processor", state="note", text=f"{name}; its instructions are not listed", facts=facts)]
    has_vectors = bool(found.vectors)
    lines = [
        Finding(
            topic="processor", state="ok" if has_vectors else "note", facts=facts,
            text=f"{name}, {found.cores} logical cores, " + (", ".join(found.vectors) or "no vector instructions"),
        )
    ]  # fmt: skip
    int8 = "VNNI or AMX" if found.family == "x86" else "dot product or i8mm"
    lines.append(
        Finding(topic="INT8", state="ok", text=f"integer dot products: {', '.join(found.int8)}")
        if found.int8
        else Finding(
            topic="INT8", state="note", text=f"no integer dot products ({int8}): INT8 gains little here",
            remedy="compare with brixel-bench MODEL",
        )
    )  # fmt: skip
    bf16 = ", ".join(found.bf16)
    lines.append(
        Finding(topic="BF16", state="ok", text=f"bfloat16: {bf16}")
        if bf16
        else Finding(topic="BF16", state="note", text="no bfloat16 arithmetic: OpenVINO computes in f32 here")
    )
    return lines


def gpu_findings(system: SystemFiles, board: Board, answer: Answer | None) -> list[Finding]:
    """GPU, driver and CUDA.

    Args:
        system: its files.
        board: a Jetson's GPU has no files of a driver's.
        answer: of cuda-python; None where it is not installed.
    """
    driver = system.text("proc/driver/nvidia/version")
    cards = [path.read_text(errors="replace") for path in system.found("proc/driver/nvidia/gpus/*/information")]
    if not driver and not cards and not board.is_jetson:
        return [_no_driver(system)]
    names = [line.split(":", 1)[1].strip() for card in cards for line in card.splitlines() if line.startswith("Model")]
    name = ", ".join(names) or ("the board's own" if board.is_jetson else "unnamed")
    release = next((word for word in driver.split() if word[:1].isdecimal() and "." in word), "")
    kernel = f", driver {release}" if release else ""
    extra = "jetpack6" if board.is_jetson else "trt"
    if answer is None:
        text = f"{name}{kernel}; cuda-python, which TensorRT needs, is not installed"
        remedy = f"pip install 'brixel-edge[{extra}]'"
        return [Finding(topic="GPU", state="note", text=text, remedy=remedy, facts={"driver": release})]
    if answer.failure is not None:
        text = f"{name}{kernel}; CUDA cannot use it: {answer.failure}"
        return [
            Finding(
                topic="GPU", state="no", text=text, facts={"driver": release},
                remedy=f"cuda-python must fit the driver: pip install 'brixel-edge[{extra}]'",
            )
        ]  # fmt: skip
    facts = answer.facts
    version = facts["cuda_version"]
    cuda = f"CUDA {version // 1000}.{version % 1000 // 10}"
    text = (
        f"{facts['name']}, SM {facts['compute_capability'] / 10:.1f}, {cuda}{kernel}, "
        f"{format_bytes(facts['free_bytes'])} of {format_bytes(facts['total_bytes'])} free"
    )
    return [Finding(topic="GPU", state="ok", text=text, facts={**facts, "driver": release})]


def _no_driver(system: SystemFiles) -> Finding:
    for vendor in system.found("sys/bus/pci/devices/*/vendor"):
        kind = vendor.with_name("class")
        try:
            is_card = vendor.read_text().strip() == _NVIDIA and kind.read_text().startswith(_DISPLAY_CLASS)
        except OSError:
            continue
        if is_card:
            text = "a card of NVIDIA's is here, its driver is not loaded"
            return Finding(topic="GPU", state="no", text=text, remedy="sudo apt install nvidia-driver, then reboot")
    return Finding(topic="GPU", state="note", text="none of NVIDIA's; models run on the CPU")
