"""What a training run is told, checked before anything is loaded.

`defining` is the part that decides what comes out; a run resumes only with the same.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from brixel_edge.errors import SpecError
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.model.spec import AdapterKind
from brixel_edge.training.losses import LossSettings
from brixel_edge.training.views import ViewSettings

Schedule = Literal["constant", "cosine"]
Arithmetic = Literal["auto", "fp32", "bf16"]
DeviceKind = Literal["auto", "cpu", "cuda"]

WARMUP_FACTOR = 0.1
# Streams have no known length; the warm-up of the authors' 3 epochs is a third, far more than the run needs.
STREAM_WARMUP_SHARE = 0.1
DEFAULT_EPOCHS = 3
EVALUATIONS = 10


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training run.

    Attributes:
        data: training photographs: folders, shards, addresses, `pipe:COMMAND`.
        val: photographs held out; nothing is fitted to them but the choice of the best weights.
        out: folder for everything that the run writes.
        backbone: its name in the table, or `dinov3`.
        backbone_weights: file, `pretrained` or `random`.
        tap_layers: blocks that the adapter reads; None takes the table's.
        adapter: kind of refiner.
        conv: settings of the kind `conv`; None for its defaults.
        views: sizes and augmentation.
        losses: weights and readings of the terms.
        batch: photographs a step, over all processes (authors: 16).
        epochs: how long, where `steps` is None (authors: 3).
        steps: how long; None takes `epochs`.
        learning_rate: after the warm-up.
        warmup_steps: steps at a tenth of it; None is one epoch (a tenth of a streamed run).
        schedule: of the learning rate after the warm-up.
        drop_path: stochastic depth of the paper's adapter.
        seed: of weights, order and augmentation.
        device: `auto` takes a GPU where there is one.
        precision: of the student; `auto` is bf16 on a GPU, fp32 on a CPU.
        teacher_precision: `auto` is bf16 on a GPU and on CPUs with AVX512-BF16 or AMX, else fp32.
        teacher_batch: photographs that the teacher sees at once; 0 is the whole share of a process.
        is_compiled: run the teacher through torch.compile.
        workers: decoding threads.
        prefetch: batches decoded ahead.
        cache: folder for the teacher's maps.
        cache_budget_bytes: the most that the cache may take.
        eval_every: steps; None makes ten evaluations a run.
        save_every: steps between checkpoints.
        val_limit: at most so many photographs are evaluated, evenly spread.
        is_resumed: go on from the last checkpoint in `out`, if there is one.
        export_official: also write the weights under the authors' key names here.
    """

    data: tuple[str, ...]
    val: tuple[str, ...]
    out: Path
    backbone: str
    backbone_weights: str
    tap_layers: tuple[int, ...] | None = None
    adapter: AdapterKind = "brixel"
    conv: ConvSettings | None = None
    views: ViewSettings = field(default_factory=ViewSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    batch: int = 16
    epochs: int = DEFAULT_EPOCHS
    steps: int | None = None
    learning_rate: float = 1e-3
    warmup_steps: int | None = None
    schedule: Schedule = "constant"
    drop_path: float = 0.3
    seed: int = 0
    device: DeviceKind = "auto"
    precision: Arithmetic = "auto"
    teacher_precision: Arithmetic = "auto"
    teacher_batch: int = 0
    is_compiled: bool = False
    workers: int = 4
    prefetch: int = 3
    cache: Path | None = None
    cache_budget_bytes: int = 0
    eval_every: int | None = None
    save_every: int = 200
    val_limit: int = 100
    is_resumed: bool = False
    export_official: Path | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "epochs", "workers", "prefetch", "save_every", "val_limit"):
            _check_at_least(1, name, getattr(self, name))
        for name in ("steps", "eval_every"):
            _check_at_least(1, name, getattr(self, name))
        for name in ("warmup_steps", "teacher_batch", "seed"):
            _check_at_least(0, name, getattr(self, name))
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise SpecError(f"learning rate {self.learning_rate} must be above zero; the paper has 1e-3")
        if not 0 <= self.drop_path < 1:
            raise SpecError(f"drop_path {self.drop_path} must be from 0 to below 1; the authors have 0.3")
        _check_choice("schedule", self.schedule, get_args(Schedule))
        _check_choice("device", self.device, get_args(DeviceKind))
        _check_choice("precision", self.precision, get_args(Arithmetic))
        _check_choice("teacher_precision", self.teacher_precision, get_args(Arithmetic))
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.adapter == "none":
            raise SpecError("adapter 'none' has nothing to train; use brixel or conv")
        if self.conv is not None and self.adapter != "conv":
            raise SpecError(f"--conv-width and --full-frame are for --adapter conv, this is {self.adapter}")
        if self.export_official is not None and self.adapter != "brixel":
            raise SpecError(f"--export-official is for the paper's adapter, this is {self.adapter!r}; leave it out")
        if self.cache is not None and self.views.crops == "random":
            raise SpecError("--cache keeps the teacher's map of a fixed view; leave --cache or --crops random out")
        if self.cache is not None and self.cache_budget_bytes <= 0:
            raise SpecError("--cache needs --cache-budget, for instance --cache-budget 20GiB")

    def to_json(self) -> dict[str, object]:
        """All settings as plain JSON values."""
        return _plain(dataclasses.asdict(self))

    def defining(self, data_hash: str, backbone_hash: str) -> dict[str, object]:
        """What decides the weights that come out, as plain JSON values: settings, data and backbone by hash."""
        record = self.to_json()
        length = {name: record[name] for name in ("epochs", "steps", "warmup_steps")}
        kept = (
            "tap_layers",
            "adapter",
            "conv",
            "views",
            "losses",
            "batch",
            "learning_rate",
            "schedule",
            "drop_path",
            "seed",
        )
        defining = {name: record[name] for name in (*kept, "precision", "teacher_precision", "teacher_batch")}
        if self.schedule == "cosine":  # under a constant rate a run may be made longer
            defining["length"] = length
        defining["warmup_steps"] = self.warmup_steps
        defining["is_cached"] = self.cache is not None
        return {**defining, "data_hash": data_hash, "backbone_hash": backbone_hash}


def learning_rate_at(step: int, settings: TrainSettings, warmup: int, total: int) -> float:
    """The learning rate of a step: a tenth in the warm-up, then constant or a half cosine down to zero.

    Args:
        step: from 0.
        settings: of the run.
        warmup: steps.
        total: steps of the run.
    """
    if step < warmup:
        return settings.learning_rate * WARMUP_FACTOR
    if settings.schedule == "constant":
        return settings.learning_rate
    done = (step - warmup) / max(total - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def differing(ours: dict[str, object], theirs: dict[str, object]) -> list[str]:
    """`name: theirs, now ours` for each entry that differs."""
    names = sorted(ours.keys() | theirs.keys())
    return [f"{name}: {theirs.get(name)}, now {ours.get(name)}" for name in names if ours.get(name) != theirs.get(name)]


def _check_at_least(least: int, name: str, value: int | None) -> None:
    if value is not None and value < least:
        raise SpecError(f"{name} {value} must be {least} or more")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SpecError(f"{name} {value!r} is not one of {', '.join(allowed)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
