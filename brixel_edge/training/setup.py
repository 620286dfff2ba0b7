"""Everything a run needs, built from its settings in one process: device, student, teacher, data, cache."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from brixel_edge.errors import BackendMissing, DataError
from brixel_edge.network.backbone import Backbone, load_backbone
from brixel_edge.network.student import Student, build_refiner, fitting_conv
from brixel_edge.network.weights_hash import weights_hash
from brixel_edge.training.batches import IndexedData, StreamedData, validation_batches
from brixel_edge.training.batchnorm import scale_momentum, synced_batchnorm
from brixel_edge.training.epochs import check_batch
from brixel_edge.training.facts import DataFacts, RunFacts
from brixel_edge.training.photograph_index import PhotographIndex, index_photographs
from brixel_edge.training.photograph_sources import resolve_sources
from brixel_edge.training.photograph_stream import StreamedPhotographs
from brixel_edge.training.processes import Processes
from brixel_edge.training.samples import SampleMaker
from brixel_edge.training.settings import STREAM_WARMUP_SHARE, TrainSettings
from brixel_edge.training.step import Arithmetics, Distiller, draw_drop_paths, has_fast_bf16
from brixel_edge.training.teacher_cache import TeacherCache, check_cache_fits, entry_bytes
from brixel_edge.training.validation import Validator
from brixel_edge.training.views import ViewSettings


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, ready to start.

    Attributes:
        settings: as given.
        processes: of the run.
        distiller: student, teacher, optimiser.
        data: training batches of this process.
        validator: held-out photographs of this process.
        total_steps: of the whole run.
        warmup_steps: of it.
        defining: what decides the result; a checkpoint must have the same.
        facts: for the record: hashes, counts, device.
    """

    settings: TrainSettings
    processes: Processes
    distiller: Distiller
    data: IndexedData | StreamedData
    validator: Validator
    total_steps: int
    warmup_steps: int
    defining: dict[str, object]
    facts: RunFacts


def chosen_device(kind: str) -> str:
    """`cuda` or `cpu`.

    Raises:
        BackendMissing: a GPU was asked for and there is none.
    """
    if kind == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendMissing("--device cuda, but torch finds no GPU here; use --device cpu or auto")
    return kind


def run_from_settings(settings: TrainSettings, processes: Processes, device: str) -> Run:
    """Load, check and build.

    Raises:
        BrixelError: whatever does not fit; nothing has been written yet.
    """
    place = torch.device("cuda", processes.local_rank) if device == "cuda" else torch.device("cpu")
    arithmetics = _arithmetics(settings, place)
    backbone = load_backbone(
        settings.backbone, settings.backbone_weights, tap_layers=settings.tap_layers, seed=settings.seed
    )
    backbone_hash = weights_hash(backbone)
    student = _student(settings, backbone, processes, place)
    scale = student.view_scale
    grids = [student.grid(scale * height, scale * width) for height, width in settings.views.sizes]
    maker = SampleMaker(views=settings.views, cache=_cache(settings, backbone_hash, arithmetics), student_scale=scale)
    data, facts = _training_data(settings, processes, maker)
    if settings.cache is not None:
        _check_cache(settings, data, backbone.spec.width, grids, scale)
    total, warmup = _lengths(settings, data)
    validator, val_facts = _validator(settings, processes, scale)
    distiller = _distiller(settings, student, processes, arithmetics, maker.cache)
    return Run(
        settings=settings,
        processes=processes,
        distiller=distiller,
        data=data,
        validator=validator,
        total_steps=total,
        warmup_steps=warmup,
        defining={**settings.defining(facts.hash, backbone_hash), **dataclasses.asdict(arithmetics)},
        facts=RunFacts(
            data=facts,
            val=val_facts,
            backbone_hash=backbone_hash,
            device=torch.cuda.get_device_name(place) if device == "cuda" else "cpu",
            processes=processes.world,
            threads=torch.get_num_threads(),
            arithmetic=arithmetics,
        ),
    )


def _arithmetics(settings: TrainSettings, device: torch.device) -> Arithmetics:
    def is_bf16(choice: str, automatic: bool) -> bool:
        return automatic if choice == "auto" else choice == "bf16"

    is_fast = has_fast_bf16(device)
    return Arithmetics(
        is_student_bf16=is_bf16(settings.precision, is_fast and device.type == "cuda"),
        is_teacher_bf16=is_bf16(settings.teacher_precision, is_fast),
    )


def _student(settings: TrainSettings, backbone: Backbone, processes: Processes, device: torch.device) -> Student:
    spec = backbone.spec
    conv = fitting_conv(backbone, settings.conv)
    refiner = build_refiner(spec.width, len(spec.tap_layers), settings.adapter, settings.seed, conv)
    assert refiner is not None
    draw_drop_paths(refiner, settings.drop_path)
    scale_momentum(refiner, settings.batch)
    refiner = synced_batchnorm(refiner, processes, device.type)
    return Student(backbone, refiner).train().to(device)


def _cache(settings: TrainSettings, backbone_hash: str, arithmetics: Arithmetics) -> TeacherCache | None:
    if settings.cache is None:
        return None
    return TeacherCache(settings.cache, f"{backbone_hash} {'bf16' if arithmetics.is_teacher_bf16 else 'fp32'}")


def _training_data(
    settings: TrainSettings, processes: Processes, maker: SampleMaker
) -> tuple[IndexedData | StreamedData, DataFacts]:
    sources = resolve_sources(settings.data)
    rank, world, seed = processes.rank, processes.world, settings.seed
    if sources.streams:
        _check_streamed(settings, world)
        stream = StreamedPhotographs(sources.streams, rank, world, seed)
        digest = hashlib.sha256("\n".join(sources.streams).encode()).hexdigest()
        data = StreamedData(stream, maker, share=settings.batch // world, seed=seed)
        return data, DataFacts(hash=digest, hash_of="names of the shards", shards=len(sources.streams))
    index = index_photographs(sources.paths, settings.workers, is_shown=processes.is_first)
    hashes = processes.gather(index.data_hash)
    if len(set(hashes)) > 1:
        raise DataError("the processes see different photographs; give all machines the same --data")
    data = IndexedData(index, maker, batch=settings.batch, seed=seed, rank=rank, world=world)
    check_batch(data.eligible, settings.batch, world, seed)
    return data, _index_facts(index, too_small=int((~data.eligible.any(1)).sum()))


def _index_facts(index: PhotographIndex, too_small: int | None = None) -> DataFacts:
    return DataFacts(
        hash=index.data_hash,
        hash_of="name, bytes and size of every photograph",
        photographs=len(index),
        left_out=index.left_out.counts,
        too_small=too_small,
    )


def _check_streamed(settings: TrainSettings, world: int) -> None:
    if settings.steps is None:
        raise DataError("streamed shards have no known length; give --steps")
    if settings.cache is not None:
        raise DataError(
            "the cache of streamed shards cannot be sized beforehand; leave --cache out or use local shards"
        )
    if settings.batch % world:
        raise DataError(f"batch {settings.batch} does not divide among {world} processes")


def _check_cache(
    settings: TrainSettings, data: IndexedData | StreamedData, dim: int, grids: list[tuple[int, int]], scale: int
) -> None:
    assert isinstance(data, IndexedData) and settings.cache is not None
    versions = 2 if settings.views.flips else 1
    needed = sum(
        int(count) * versions * entry_bytes(dim, (scale * height, scale * width), grid)
        for count, (height, width), grid in zip(data.eligible.sum(0), settings.views.sizes, grids, strict=True)
    )
    check_cache_fits(settings.cache, needed, settings.cache_budget_bytes)


def _lengths(settings: TrainSettings, data: IndexedData | StreamedData) -> tuple[int, int]:
    if isinstance(data, StreamedData):
        assert settings.steps is not None
        epoch = max(1, int(settings.steps * STREAM_WARMUP_SHARE))
        total = settings.steps
    else:
        epoch = data.steps_in(1)
        total = settings.steps if settings.steps is not None else data.steps_in(settings.epochs)
    return total, settings.warmup_steps if settings.warmup_steps is not None else epoch


def _validator(settings: TrainSettings, processes: Processes, scale: int) -> tuple[Validator, DataFacts]:
    sources = resolve_sources(settings.val)
    if sources.streams:
        raise DataError("--val must be read again and again; give a folder or local .tar shards")
    index = index_photographs(sources.paths, settings.workers, is_shown=processes.is_first)
    views = ViewSettings(sizes=settings.views.sizes[:1], max_upscale=settings.views.max_upscale)
    share = max(1, settings.batch // processes.world)
    batches = validation_batches(
        index, SampleMaker(views=views, student_scale=scale), batch=share, limit=settings.val_limit,
        rank=processes.rank, world=processes.world,
    )  # fmt: skip
    validator = Validator(
        batches, settings.losses, processes, workers=settings.workers, depth=min(2, settings.prefetch)
    )
    return validator, _index_facts(index)


def _distiller(
    settings: TrainSettings,
    student: Student,
    processes: Processes,
    arithmetics: Arithmetics,
    cache: TeacherCache | None,
) -> Distiller:
    network: nn.Module = student
    device = next(student.backbone.parameters()).device
    if processes.world > 1:
        devices = [device.index] if device.type == "cuda" else None
        # Running statistics are equal in all processes already. torch 2.15 renamed the argument.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        network = DistributedDataParallel(student, device_ids=devices, **{name: False})  # type: ignore[arg-type]  # a dict of one bool
    assert student.refiner is not None
    optimiser = torch.optim.Adam(student.refiner.parameters(), lr=settings.learning_rate)
    teacher: Callable[[Tensor], list[Tensor]] = student.backbone
    if settings.is_compiled:
        teacher = torch.compile(student.backbone)  # type: ignore[assignment]  # compile returns a callable
    return Distiller(
        student,
        network,
        optimiser,
        losses=settings.losses,
        arithmetics=arithmetics,
        processes=processes,
        seed=settings.seed,
        teacher=teacher,
        teacher_batch=settings.teacher_batch,
        cache=cache,
    )
