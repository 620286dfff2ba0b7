"""BatchNorm whose statistics are those of the whole batch, however many processes share it.

torch's SyncBatchNorm runs on CUDA only. This one works on any device that torch.distributed can sum on, gloo on CPU
included, and gives the gradients that one process with the whole batch would have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from brixel_edge.training.processes import Processes

# At this many photographs a step running statistics forget as fast as torch's default says; at fewer, more slowly, so
# that they always average over about as many photographs.
REFERENCE_BATCH = 16


class _Sum(Function):
    """Sum over processes. Every process's loss depends on every process's input: gradients are summed likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, processes: Processes) -> Tensor:  # type: ignore[override]  # torch has (*args)
        ctx.processes = processes
        return processes.sum(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return ctx.processes.sum(gradients[0]), None


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes; the same as BatchNorm2d in evaluation and in state."""

    processes = Processes()

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape; fp32 inside."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = torch.tensor([x.numel() / x.shape[1]], device=x.device)
        sums = self._sum(torch.cat((x.sum((0, 2, 3)), count)))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean[:, None, None]
        # A second sum, of squares of what is centred: subtracting the squared mean would lose digits.
        variance = self._sum(centred.square().sum((0, 2, 3))) / total
        self._update_running(mean.detach(), variance.detach() * total / (total - 1).clamp(min=1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    def _sum(self, x: Tensor) -> Tensor:
        return _Sum.apply(x, self.processes)  # type: ignore[return-value]  # torch declares apply as Any or None

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def scale_momentum(module: nn.Module, batch: int) -> None:
    """Let running statistics of small batches average over more steps."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d) and child.momentum is not None:
            child.momentum = 0.1 * min(1.0, batch / REFERENCE_BATCH)


def synced_batchnorm(module: nn.Module, processes: Processes, device: str) -> nn.Module:
    """Let every BatchNorm2d in a module take its statistics from all processes; parameters stay the same tensors.

    Args:
        module: changed in place where it contains BatchNorm2d.
        processes: of the run; with one nothing changes.
        device: on `cuda` torch's own SyncBatchNorm is used.

    Returns:
        the module.
    """
    if processes.world == 1:
        return module
    if device == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            synced = SyncedBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            synced.weight, synced.bias = child.weight, child.bias
            synced.processes = processes
            setattr(module, name, synced.train(child.training))
        else:
            synced_batchnorm(child, processes, device)
    return module
