"""What `--for` stands for: boards by name, and the options that each takes. Facts as data.

Releases are those of the systems that the boards come with (docs of JetPack 6.2 and 7.x); limits leave a 4 GB board
what its system and the camera need. The sampler is the one that no known trouble of that release forbids.
"""

from __future__ import annotations

from dataclasses import dataclass

from brixel_edge.model.spec import SamplerKind


@dataclass(frozen=True, kw_only=True)
class Board:
    """A device to export for.

    Attributes:
        name: for `--for`.
        system: what it runs, for people.
        memory_gib: of the board; on Jetson it is the GPU's, too.
        graphs: what the workstation makes, as of `--engine`.
        engines: what the board makes of them, as of `--engine`.
        sampler: lowering of deformable sampling.
        features: type of an fp16 graph's features.
        tensorrt: release that the board has; None for another engine.
        compute_capability: 87 for SM 8.7; None without a GPU of NVIDIA's.
        workspace: limit of a layer's scratch memory in the build.
        max_mem: limit of an engine.
    """

    name: str
    system: str
    memory_gib: int
    graphs: tuple[str, ...]
    engines: tuple[str, ...]
    sampler: SamplerKind
    features: str = "fp16"
    tensorrt: str | None = None
    compute_capability: int | None = None
    workspace: str | None = None
    max_mem: str | None = None

    @property
    def workstation_options(self) -> dict[str, str]:
        """By the argument's name."""
        return {"engine": ",".join(self.graphs), "sampler": self.sampler, "features": self.features}

    @property
    def board_options(self) -> dict[str, str]:
        """By the argument's name."""
        limits = {"workspace": self.workspace, "max_mem": self.max_mem}
        options = {"engine": ",".join(self.engines), "features": self.features}
        return options | {name: value for name, value in limits.items() if value is not None}


_GRAPHS, _ENGINES = ("onnx-fp16", "onnx-bf16"), ("trt-fp16",)
_JETPACK_6 = "JetPack 6.2: TensorRT 10.3, CUDA 12.6, Python 3.10"
_JETPACK_7 = "JetPack 7.2: TensorRT 10.16, CUDA 13.2, Python 3.12"


def _orin(name: str, memory_gib: int, workspace: str | None = None, max_mem: str | None = None) -> Board:
    return Board(
        name=name,
        system=f"{memory_gib} GB, {_JETPACK_6}",
        memory_gib=memory_gib,
        graphs=_GRAPHS,
        engines=_ENGINES,
        sampler="gridsample",
        tensorrt="10.3.0",
        compute_capability=87,
        workspace=workspace,
        max_mem=max_mem,
    )


_BOARDS = (
    _orin("jetson-orin-nano", 4, workspace="512MiB", max_mem="1536MiB"),
    _orin("jetson-orin-nano-8gb", 8, workspace="1GiB", max_mem="4GiB"),
    _orin("jetson-orin-nx", 8, workspace="1GiB", max_mem="4GiB"),
    _orin("jetson-agx-orin", 32),
    Board(
        name="jetson-orin-nano-jetpack7",
        system=f"4 GB, {_JETPACK_7}",
        memory_gib=4,
        graphs=_GRAPHS,
        engines=_ENGINES,
        sampler="gather",
        tensorrt="10.16.2",
        compute_capability=87,
        workspace="512MiB",
        max_mem="1536MiB",
    ),
    Board(
        name="desktop-rtx",
        system="x86, GeForce RTX of SM 8.6, 8.9 and 12.0, TensorRT-RTX 1.7",
        memory_gib=16,
        graphs=("onnx-fp16", "onnx-bf16"),
        engines=("trt-rtx",),
        sampler="gridsample",
    ),
    Board(
        name="raspberry-pi-5",
        system="8 GB, four Cortex-A76, ONNX Runtime",
        memory_gib=8,
        graphs=("onnx",),
        engines=("onnx",),
        sampler="gridsample",
        features="fp32",
    ),
)
BOARDS = {board.name: board for board in _BOARDS}


def recognised_board(model: str, memory_bytes: int | None, l4t: str | None) -> Board | None:
    """The entry of the table that a machine is.

    Args:
        model: of its device tree.
        memory_bytes: of the machine; what its system keeps for itself is missing from it.
        l4t: a Jetson's release, for instance `36.4.3`.

    Returns:
        None where the table has none.
    """
    has_8gb = (memory_bytes or 0) > 5 << 30
    is_jetpack_7 = l4t is not None and int(l4t.partition(".")[0]) >= 38
    if "Orin Nano" in model and is_jetpack_7:
        return None if has_8gb else BOARDS["jetson-orin-nano-jetpack7"]
    if is_jetpack_7:
        return None
    if "Orin Nano" in model:
        return BOARDS["jetson-orin-nano-8gb" if has_8gb else "jetson-orin-nano"]
    names = {"AGX Orin": "jetson-agx-orin", "Orin NX": "jetson-orin-nx", "Raspberry Pi 5": "raspberry-pi-5"}
    return next((BOARDS[name] for part, name in names.items() if part in model), None)
