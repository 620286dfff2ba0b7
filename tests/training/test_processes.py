"""BatchNorm over several processes, played by threads: the same as one process with the whole batch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from brixel_edge.errors import SpecError
from brixel_edge.training.batchnorm import SyncedBatchNorm2d, scale_momentum, synced_batchnorm
from brixel_edge.training.processes import Processes, joined_processes


class Together:
    """Sums what two threads bring, in the order of their ranks."""

    def __init__(self, world):
        self.world, self._parts, self._barrier = world, [None] * world, threading.Barrier(world)

    def of(self, rank):
        return type("Seat", (), {"rank": rank, "world": self.world, "sum": lambda _, x: self._sum(rank, x)})()

    def _sum(self, rank, x):
        self._parts[rank] = x.detach().clone()
        self._barrier.wait(20)
        total = torch.stack(self._parts).sum(0)
        self._barrier.wait(20)
        return total


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    whole = nn.BatchNorm2d(3)
    with torch.no_grad():
        whole.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
        whole.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = 3 + 2 * torch.randn(4, 3, 5, 6, generator=generator)
    return whole, x, torch.randn(x.shape, generator=generator)


def test_statistics_and_gradients_are_those_of_the_whole_batch(problem):
    whole, x, upstream = problem
    together = Together(2)

    def part(rank):
        norm = SyncedBatchNorm2d(3)
        norm.load_state_dict(whole_before)
        norm.processes = together.of(rank)
        mine = x[2 * rank : 2 * rank + 2].clone().requires_grad_()
        y = norm(mine)
        (y * upstream[2 * rank : 2 * rank + 2]).sum().backward()
        return norm, mine.grad, y.detach()

    whole_before = {key: value.clone() for key, value in whole.state_dict().items()}
    expected_x = x.clone().requires_grad_()
    expected = whole(expected_x)
    (expected * upstream).sum().backward()
    with ThreadPoolExecutor(2) as pool:
        parts = list(pool.map(part, range(2)))
    assert torch.allclose(torch.cat([y for _, _, y in parts]), expected, atol=1e-5)
    assert torch.allclose(torch.cat([gradient for _, gradient, _ in parts]), expected_x.grad, atol=1e-5)
    for name in ("weight", "bias"):
        summed = sum(getattr(norm, name).grad for norm, _, _ in parts)
        assert torch.allclose(summed, getattr(whole, name).grad, atol=1e-4)
    for norm, _, _ in parts:
        assert torch.allclose(norm.running_mean, whole.running_mean, atol=1e-6)
        assert torch.allclose(norm.running_var, whole.running_var, atol=1e-5)
        assert norm.num_batches_tracked == 1


def test_a_large_offset_costs_no_digits(problem):
    whole, x, _ = problem
    norm = SyncedBatchNorm2d(3)
    norm.load_state_dict(whole.state_dict())
    assert torch.allclose(norm(x + 3000), whole(x + 3000), atol=2e-3)


def test_conversion_keeps_parameters_state_and_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4))).train()
    parameters, state = list(net.parameters()), net.state_dict()
    changed = synced_batchnorm(net, Processes(rank=0, world=2), "cpu")
    assert isinstance(changed[1][0], SyncedBatchNorm2d) and changed[1][0].training
    assert all(a is b for a, b in zip(changed.parameters(), parameters, strict=True))
    assert changed.state_dict().keys() == state.keys()
    plain = nn.Sequential(nn.BatchNorm2d(4))
    assert type(synced_batchnorm(plain, Processes(), "cpu")[0]) is nn.BatchNorm2d


@pytest.mark.parametrize(("batch", "momentum"), [(1, 0.1 / 16), (8, 0.05), (16, 0.1), (64, 0.1)])
def test_running_statistics_average_over_as_many_photographs(batch, momentum):
    net = nn.Sequential(nn.BatchNorm2d(4))
    scale_momentum(net, batch)
    assert net[0].momentum == pytest.approx(momentum)


def test_one_process_starts_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined_processes("cpu") as processes:
        assert processes.is_first and processes.gather("a") == ["a"]
        x = torch.ones(2)
        assert processes.sum(x) is x
    assert not torch.distributed.is_initialized()


def test_an_environment_that_is_none_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(SpecError, match="torchrun"), joined_processes("cpu"):
        pass
