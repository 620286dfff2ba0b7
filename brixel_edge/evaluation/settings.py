"""What can be chosen of an evaluation, checked before anything is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from brixel_edge.errors import SpecError
from brixel_edge.evaluation.tasks import TASKS
from brixel_edge.model.backbones import BACKBONES
from brixel_edge.network.backbone import RANDOM

Features = Literal["baseline", "logits", "probabilities", "brixel", "native", "equal-cost", "s2"]
ProtocolName = Literal["labels", "authors"]
ProbeKind = Literal["auto", "linear", "light"]

USUAL_PATCH_PX = 16  # of every DINOv3
NEED_ADAPTER = ("brixel", "equal-cost")


@dataclass(frozen=True, kw_only=True)
class InputSize:
    """How large the student's view of a picture is.

    Attributes:
        height: [px]; None keeps the picture's aspect.
        width: [px].
        short: of the shorter side [px], where the aspect is kept.
        step: sides are multiples of it [px]; None for twice the backbone's patch, which every adapter takes.
    """

    height: int | None = None
    width: int | None = None
    short: int = 256
    step: int | None = None

    def for_patch(self, patch_px: int) -> InputSize:
        """The same with its step settled."""
        return self if self.step is not None else replace(self, step=2 * patch_px)

    def of(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the view of a picture of a (height, width)."""
        if self.height is not None and self.width is not None:
            return self.height, self.width
        scale = self.short / min(size)
        return self._side(size[0] * scale), self._side(size[1] * scale)

    def _side(self, length: float) -> int:
        step = self.step or 2 * USUAL_PATCH_PX
        return max(1, round(length / step)) * step


def parse_input_size(text: str) -> InputSize:
    """Read `256` (the shorter side; the aspect is kept) or `HEIGHTxWIDTH` (every picture is stretched to it).

    Raises:
        SpecError: it is neither.
    """
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.strip().lower())
    if match is None:
        raise SpecError(f"--size {text!r} is neither a shorter side, as 256, nor HEIGHTxWIDTH, as 256x448, in pixels")
    if match[2] is None:
        return InputSize(short=int(match[1]))
    return InputSize(height=int(match[1]), width=int(match[2]))


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """An evaluation.

    Attributes:
        task: a name of `tasks.TASKS`.
        data: the data set's folder.
        model: a model directory, an .onnx file, or a backbone's name.
        backbone_weights: of a backbone's name: file, `pretrained` or `random`.
        tap_layers: overrides the table's.
        adapters: adapter files.
        features: kinds of feature, of a backbone's name.
        engines: of a model directory, `onnx-int8` and the like; empty for its default.
        size: of the student's view.
        protocol: `labels`: scored at the labels' own size; `authors`: as their scripts score.
        probe: `auto` is linear for classes and light for depth and normals, as in the paper.
        seeds: how many probes are trained.
        epochs: None takes the protocol's.
        batch: pictures of a step; None takes the protocol's.
        learning_rate: None takes the protocol's.
        limit: at most so many pictures of each split.
        cache: folder of the features; None holds them in memory.
        cache_budget: what they may take there, or in memory [bytes].
        device: `auto`, `cpu` or `cuda`.
        threads: of the CPU; None leaves it to torch.
        out: folder of the results; None writes none.
        is_receipt_written: add the scores of engines to the model directory's receipt.
        save_head: file of a head to write, of the only row; None writes none.
        head_kind: of that head: `probe`, `prototypes` (the mean feature of each class) or `pca-K` (components).
    """

    task: str
    data: Path
    model: str
    backbone_weights: str = RANDOM
    tap_layers: tuple[int, ...] | None = None
    adapters: tuple[str, ...] = ()
    features: tuple[Features, ...] = ()
    engines: tuple[str, ...] = ()
    size: InputSize = InputSize()
    protocol: ProtocolName = "labels"
    probe: ProbeKind = "auto"
    seeds: int = 3
    epochs: int | None = None
    batch: int | None = None
    learning_rate: float | None = None
    limit: int | None = None
    cache: Path | None = None
    cache_budget: int = 8 << 30
    device: str = "auto"
    threads: int | None = None
    out: Path | None = None
    is_receipt_written: bool = False
    save_head: Path | None = None
    head_kind: str = "probe"

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise SpecError(f"task {self.task!r} is not one of {', '.join(TASKS)}")
        for name, value, allowed in (
            ("protocol", self.protocol, get_args(ProtocolName)),
            ("probe", self.probe, get_args(ProbeKind)),
            ("device", self.device, ("auto", "cpu", "cuda")),
        ):
            if value not in allowed:
                raise SpecError(f"{name} {value!r} is not one of {', '.join(allowed)}")
        for name in ("seeds", "epochs", "batch", "limit", "threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise SpecError(f"--{name} {number} is not at least 1")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise SpecError(f"--learning-rate {self.learning_rate} is not above 0")
        self._check_features()
        self._check_head()
        self._check_targets()

    @property
    def is_model_directory(self) -> bool:
        """Whether MODEL is something exported, rather than a backbone's name."""
        return Path(self.model).exists() or self.model.endswith((".onnx", ".brixel"))

    @property
    def view(self) -> InputSize:
        """The size, in steps that fit the backbone."""
        if self.is_model_directory or self.model not in BACKBONES:
            return self.size.for_patch(USUAL_PATCH_PX)
        return self.size.for_patch(BACKBONES[self.model].patch_px)

    @property
    def is_probe_light(self) -> bool:
        """Whether the probe has a hidden layer."""
        if self.probe == "auto":
            return TASKS[self.task].kind != "segmentation"
        return self.probe == "light"

    def _check_head(self) -> None:
        kind, what = TASKS[self.task].kind, self.head_kind
        if what not in ("probe", "prototypes") and not re.fullmatch(r"pca-[1-9]\d*", what):
            raise SpecError(f"--head-kind {what!r} is not probe, prototypes or pca-K, for instance pca-3")
        if self.save_head is None:
            if what != "probe":
                raise SpecError(f"--head-kind {what} needs --save-head FILE")
            return
        if self.save_head.suffix != ".safetensors":
            raise SpecError(f"--save-head {self.save_head} is a safetensors file; name it so, as probe.safetensors")
        if not self.save_head.absolute().parent.is_dir():
            raise SpecError(f"there is no folder {self.save_head.parent} for --save-head; make it first")
        if kind == "video" or (what == "probe" and kind == "normals"):
            raise SpecError(f"--save-head is for classes and depth; {self.task} has {kind}")
        if what == "prototypes" and kind != "segmentation":
            raise SpecError(f"--head-kind prototypes is for classes; {self.task} has {kind}")
        if what == "probe" and self.is_probe_light:
            raise SpecError(f"a probe with a hidden layer is no head; add --probe linear to {self.task}")

    def _check_targets(self) -> None:
        """What cannot be written is known before the hours of an evaluation."""
        for flag, folder in (("--out", self.out), ("--cache", self.cache)):
            if folder is not None and folder.exists() and not folder.is_dir():
                raise SpecError(f"{flag} {folder} is a file; name a folder")
        if self.is_receipt_written and not os.access(self.model, os.W_OK):
            raise SpecError(
                f"--write-receipt: {self.model} cannot be written to; copy the model directory, or leave it out"
            )

    def _check_features(self) -> None:
        unknown = [name for name in self.features if name not in get_args(Features)]
        if unknown:
            raise SpecError(f"features {unknown[0]!r} are not one of {', '.join(get_args(Features))}")
        if self.is_model_directory:
            if self.features or self.adapters:
                raise SpecError(
                    f"{self.model} is an exported model: choose its engines with --engine; --features and --adapter "
                    "are for a backbone's name"
                )
            if self.is_receipt_written and Path(self.model).is_file():
                raise SpecError(f"--write-receipt needs a model directory; {self.model} is one file")
            return
        if self.engines:
            raise SpecError(f"--engine is for an exported model; {self.model} is a backbone's name")
        if self.is_receipt_written:
            raise SpecError(f"--write-receipt needs an exported model; {self.model} is a backbone's name")
        lacking = [name for name in self.features if name in NEED_ADAPTER and not self.adapters]
        if lacking:
            raise SpecError(f"features {lacking[0]} need --adapter FILE (or official)")
        if "probabilities" in self.features and TASKS[self.task].kind != "segmentation":
            raise SpecError(f"features probabilities are for classes; {self.task} has none")
