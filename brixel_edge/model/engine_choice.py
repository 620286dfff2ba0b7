"""What `--engine` names: a file of one kind and one precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from brixel_edge.errors import SpecError
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.spec import Precision


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """A kind of file and its precision; as text its name on the command line.

    Attributes:
        kind: an ONNX graph, or a plan of TensorRT or of TensorRT-RTX.
        precision: of the file.
    """

    kind: Literal["onnx"] | EngineKind
    precision: Precision

    def __str__(self) -> str:
        if self.kind == "trt-rtx":
            return "trt-rtx"
        return "onnx" if self == EngineChoice(kind="onnx", precision="fp32") else f"{self.kind}-{self.precision}"

    @property
    def tensorrt(self) -> EngineKind | None:
        """Which TensorRT builds it; None for a graph."""
        return None if self.kind == "onnx" else self.kind

    @property
    def float_precision(self) -> Precision:
        """Of the float graph that it starts from; TensorRT's INT8 is judged against fp16."""
        if self.precision != "int8":
            return self.precision
        return "fp32" if self.kind == "onnx" else "fp16"


_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
ENGINES = (
    *(EngineChoice(kind="onnx", precision=precision) for precision in _PRECISIONS),
    *(EngineChoice(kind="trt", precision=precision) for precision in _PRECISIONS),
    EngineChoice(kind="trt-rtx", precision="fp16"),
)
ENGINE_NAMES = tuple(map(str, ENGINES))


def engine_choice(name: str) -> EngineChoice:
    """What a name of the command line stands for.

    Raises:
        SpecError: it is none.
    """
    for choice in ENGINES:
        if str(choice) == name:
            return choice
    raise SpecError(f"engine {name!r} is not one of {', '.join(ENGINE_NAMES)}")


def engine_choices(names: str) -> tuple[EngineChoice, ...]:
    """What a list of names stands for, in its order: `onnx-fp16,onnx-bf16`.

    Raises:
        SpecError: one is none, or two of them would write the same file differently.
    """
    choices = tuple(dict.fromkeys(engine_choice(name.strip()) for name in names.split(",")))
    kinds = {choice.kind for choice in choices if choice.kind != "onnx"}
    if len(kinds) > 1:
        raise SpecError(f"--engine {names}: one export makes engines of TensorRT or of TensorRT-RTX; make two exports")
    if sum(choice.precision == "int8" for choice in choices) > 1:
        raise SpecError(f"--engine {names}: one export quantises once; add trt-int8 with --from, or make two exports")
    return choices


def tensorrt_of(choices: Iterable[EngineChoice]) -> EngineKind | None:
    """Which TensorRT builds some of them; None where all are graphs."""
    return next((choice.tensorrt for choice in choices if choice.tensorrt is not None), None)
