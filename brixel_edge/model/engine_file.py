"""What is known of a built TensorRT engine: its file name and the report that lies beside it.

A plan runs on one TensorRT release and one kind of GPU. The file name says which, so that a wrong one is refused before
it is read; the report `PLAN.json` says the rest. The plan itself stays a plain TensorRT plan, for trtexec and C++.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from brixel_edge.errors import BundleError
from brixel_edge.machine.cuda import DeviceIdentity
from brixel_edge.machine.tensorrt import EngineKind
from brixel_edge.model.engine_choice import EngineChoice
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.model.spec import Precision

Typing = Literal["strong", "weak"]
HardwareCompatibility = Literal["none", "ampere+", "same-cc"]

REPORT_VERSION = 1

# engine.sm87.10.3.0.fp16.plan, engine.sm86+sm89.rtx1.7.1.116.fp16.plan
_NAME = re.compile(r"engine\.(sm\d+(?:\+sm\d+)*)\.(rtx)?(\d+(?:\.\d+)*)\.(fp32|fp16|bf16|int8)\.plan")


@dataclass(frozen=True, kw_only=True)
class EngineIdentity:
    """What a plan's file name says.

    Attributes:
        kind: TensorRT or TensorRT-RTX.
        compute_capabilities: the GPUs it was built for, 87 for SM 8.7.
        version: of TensorRT, as its module names it.
        precision: of the graph it was built from.
    """

    kind: EngineKind
    compute_capabilities: tuple[int, ...]
    version: str
    precision: Precision

    @property
    def file_name(self) -> str:
        """`engine.<sm>.<trt>.<precision>.plan`."""
        targets = "+".join(f"sm{capability}" for capability in self.compute_capabilities)
        release = ("rtx" if self.kind == "trt-rtx" else "") + self.version
        return f"engine.{targets}.{release}.{self.precision}.plan"

    @property
    def choice(self) -> EngineChoice:
        """What brixel-export is asked for to make such an engine."""
        return EngineChoice(kind=self.kind, precision=self.precision)

    @property
    def rebuild_option(self) -> str:
        """The same as an option of its command line."""
        return f"--engine {self.choice}"


def identity_from_name(name: str) -> EngineIdentity | None:
    """Read a plan's file name; None if it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    targets, rtx, version, precision = match.groups()
    return EngineIdentity(
        kind="trt-rtx" if rtx else "trt",
        compute_capabilities=tuple(int(target[2:]) for target in targets.split("+")),
        version=version,
        precision=next(kind for kind in get_args(Precision) if kind == precision),
    )


@dataclass(frozen=True, kw_only=True)
class EngineTensor:
    """An input or output of an engine; `dtype` is fp32, fp16, bf16, uint8, int8, int32, int64 or bool."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    is_input: bool


@dataclass(frozen=True, kw_only=True)
class BuildAttempt:
    """One try of the builder, and why it failed; None if it did not."""

    typing: Typing
    error: str | None


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """How an engine was built and what it needs.

    Attributes:
        identity: its target.
        size_bytes: of the plan.
        sha256: of the plan.
        graph_sha256: of the ONNX file it was built from.
        device_name: the GPU it was timed on; None for TensorRT-RTX, which builds ahead of time.
        cuda_version: 12060 for 12.6; None as above.
        typing: whether the graph's types were binding (strong) or flags and pins stood in for them (weak).
        pinned_layers: layers pinned to fp32 under weak typing.
        optimization_level: 0 to 5.
        workspace_bytes: limit given to the builder; None left it to TensorRT.
        weights_bytes: device memory of the weights; None if the release does not say.
        activation_bytes: device memory of one execution context; None if the release does not say.
        build_s: time of the build, without the parse [s]; None in a file, which is the same whenever the build is.
        peak_host_bytes: largest resident memory of the building process; None in a file, too.
        tensors: inputs and outputs.
        layer_types: layers of the parsed network by the type of their first output.
        hardware_compatibility: which other GPUs may run it.
        is_version_compatible: whether later releases may run it.
        timing_cache: name of the timing cache file, if one was used.
        attempts: every try in order, the last is the one that worked.
        warnings: known troubles of this target with this graph, and TensorRT's own warnings.
        other_typings: that the release has besides.
        device: what it was timed on, in full; None as `device_name`, and in reports of earlier releases.
    """

    identity: EngineIdentity
    size_bytes: int
    sha256: str
    graph_sha256: str
    device_name: str | None
    cuda_version: int | None
    typing: Typing
    pinned_layers: int
    optimization_level: int
    workspace_bytes: int | None
    weights_bytes: int | None
    activation_bytes: int | None
    build_s: float | None
    peak_host_bytes: int | None
    tensors: tuple[EngineTensor, ...]
    layer_types: dict[str, int]
    hardware_compatibility: HardwareCompatibility
    is_version_compatible: bool
    timing_cache: str | None
    attempts: tuple[BuildAttempt, ...]
    warnings: tuple[str, ...]
    other_typings: tuple[Typing, ...] | None = None
    device: DeviceIdentity | None = None

    @property
    def measured(self) -> dict[str, Any]:
        """What differs from build to build; it belongs to the receipt's measurements."""
        return {"build_s": self.build_s, "peak_host_bytes": self.peak_host_bytes}

    def without_measured(self) -> EngineReport:
        """What lies beside the plan."""
        return dataclasses.replace(self, build_s=None, peak_host_bytes=None)

    def to_json(self) -> dict[str, Any]:
        """This report as plain JSON values, with the version of the form."""
        return {"report_version": REPORT_VERSION, **fields_to_json(self)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EngineReport:
        """Read what `to_json` wrote.

        Raises:
            BundleError: a field is missing, unknown or of another version.
        """
        fields = dict(record)
        version = fields.pop("report_version", None)
        if version != REPORT_VERSION:
            raise BundleError(f"engine report has version {version!r}, this release reads {REPORT_VERSION}; rebuild it")
        try:
            return fields_from_json(cls, fields)
        except BundleError as error:
            raise BundleError(f"engine report is not readable ({error}); rebuild the engine") from error


def report_path(plan: Path) -> Path:
    """Where the report of a plan lies."""
    return plan.with_name(plan.name + ".json")


def read_report(plan: Path) -> EngineReport | None:
    """The report beside a plan, or None where there is none.

    Raises:
        BundleError: there is one, and it cannot be read.
    """
    path = report_path(plan)
    if not path.is_file():
        return None
    try:
        return EngineReport.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise BundleError(f"{path} is not a readable engine report ({error}); rebuild the engine") from error
