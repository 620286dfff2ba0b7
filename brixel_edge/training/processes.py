"""One process or many: who am I, and sums over all of us.

Reads the environment that torchrun sets. One process needs no torch.distributed and starts none.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from brixel_edge.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: of this process among all.
        local_rank: of this process on its machine.
        world: how many there are.
    """

    rank: int = 0
    local_rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the results."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes; the same bits in each."""
        if self.world == 1:
            return x
        x = x.contiguous().clone()
        dist.all_reduce(x)
        return x

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise SpecError(f"environment variable {name}={text!r} is not a number; start several processes with torchrun")
    return int(text)


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started: over NCCL on GPUs, over gloo on CPUs.

    Args:
        device: `cuda` or `cpu`.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Processes()
        return
    processes = Processes(rank=_number("RANK", 0), local_rank=_number("LOCAL_RANK", 0), world=world)
    if device == "cuda":
        torch.cuda.set_device(processes.local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        with warnings.catch_warnings():
            # DDP minds the strides of 3x3 depthwise weights, where both layouts are the same bytes.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield processes
    finally:
        dist.destroy_process_group()
