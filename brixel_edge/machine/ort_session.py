"""Opening ONNX Runtime: the one place that makes sessions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

CPU_PROVIDERS = ("CPUExecutionProvider",)
_ERRORS_ONLY = 3  # its optimiser warns of every constant that it folds; errors come back as exceptions as well
_NOTHING = 4


def open_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    providers: Sequence[str | tuple[str, dict[str, str]]] = CPU_PROVIDERS,
    in_file_order: bool = False,
    is_optimized: bool = True,
    has_arena: bool = True,
    has_memory_pattern: bool = True,
    is_silent: bool = False,
    profile_prefix: Path | None = None,
    optimized_out: Path | None = None,
) -> Any:
    """An `onnxruntime.InferenceSession`.

    Args:
        model: file, or a serialised graph.
        threads: of inference; None takes one per core.
        providers: in order of preference.
        in_file_order: run nodes where the file has them. For graphs that measure themselves: the default order runs
            all their reductions last and keeps every tensor until then (ViT-S at 256 px: 1020 MB and 6.2 s against
            540 MB and 2.5 s).
        is_optimized: let ONNX Runtime fuse and fold.
        has_arena: keep freed memory for the next tensor. It grows by doubling, to twice what lives.
        has_memory_pattern: plan memory by the pattern of the first run. Without it a ViT-S at 256 px takes 223 MB
            instead of 268 MB, and is as fast.
        is_silent: log no error either, since they come back as exceptions.
        profile_prefix: of the file with the time of every kernel; None profiles nothing.
        optimized_out: where the optimised graph is written; None does not write it.

    Raises:
        Exception: of ONNX Runtime's many kinds, which share no base class: it refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = _NOTHING if is_silent else _ERRORS_ONLY
    options.enable_cpu_mem_arena = has_arena
    options.enable_mem_pattern = has_memory_pattern
    if in_file_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not is_optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    if optimized_out is not None:
        options.optimized_model_filepath = str(optimized_out)
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=list(providers))
