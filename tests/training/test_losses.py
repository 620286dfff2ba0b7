"""The three loss terms against the authors' own numbers and against second, slower ways to compute them."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from brixel_edge.errors import SpecError
from brixel_edge.training.losses import (
    FIRST_BIN,
    LossSettings,
    distillation_loss,
    edge_loss,
    l1_loss,
    principal_directions,
    ring_index,
    spectral_loss,
)


@pytest.fixture
def golden(shared):
    maps = np.load(shared / "golden" / "losses.npz")
    numbers = json.loads((shared / "golden" / "losses.json").read_text())
    return torch.tensor(maps["student"]).float(), torch.tensor(maps["teacher"]).float(), numbers


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(3)
    teacher = functional.interpolate(torch.randn(2, 12, 6, 5, generator=generator), size=(18, 15), mode="bicubic")
    return teacher + 0.3 * torch.randn(teacher.shape, generator=generator), teacher


def test_losses_equal_the_authors_numbers(golden):
    student, teacher, numbers = golden
    assert l1_loss(student, teacher).item() == pytest.approx(numbers["l1"], rel=1e-4)
    edge = edge_loss(student, teacher, norm="mse").item()
    assert abs(edge - numbers["edge_mse"]) <= numbers["edge_spread"] + 1e-5
    assert spectral_loss(student, teacher, mask="authors").item() == pytest.approx(numbers["spectral"], rel=1e-5)
    total = distillation_loss(student, teacher, LossSettings(edge_norm="mse", spectral_mask="authors"))["total"].item()
    assert total == pytest.approx(numbers["total"], rel=1e-5)


def test_directions_equal_a_singular_value_decomposition(maps):
    _, teacher = maps
    tokens = teacher.permute(0, 2, 3, 1).reshape(-1, 12).double()
    expected = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False).Vh[:4]
    found = principal_directions(teacher, 4).double()
    assert torch.allclose((expected @ found).abs(), torch.eye(4, dtype=torch.float64), atol=1e-5)


def test_directions_of_shared_batches_equal_those_of_the_whole_batch(maps):
    _, teacher = maps
    halves = teacher[:1], teacher[1:]
    sums = [[], []]
    # First what each half would send; then both runs again with the sums that a collective would give back.
    for half, sent in zip(halves, sums, strict=True):
        principal_directions(half, 4, lambda x, sent=sent: sent.append(x) or x)
    first = sums[0][0] + sums[1][0]
    mean = (first[:-1] / first[-1]).float()
    centred = [half.permute(0, 2, 3, 1).reshape(-1, 12) - mean for half in halves]
    second = sum((c.T @ c).double() for c in centred)
    replies = iter((first, second))
    shared = principal_directions(halves[1], 4, lambda _: next(replies))
    whole = principal_directions(teacher, 4)
    assert torch.allclose((shared.T @ whole).abs(), torch.eye(4), atol=1e-4)


@pytest.mark.parametrize("norm", ["l1", "mse"])
def test_edge_loss_equals_convolutions_with_sobel_kernels(maps, norm):
    student, teacher = maps
    directions = principal_directions(teacher, 8)
    kernel = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    expected = 0.0
    for sobel in (kernel, kernel.T):
        edges = [
            torch.stack([functional.conv2d((x * d[None, :, None, None]).sum(1, keepdim=True), sobel[None, None])
                         for d in directions.T])
            for x in (student, teacher)
        ]  # fmt: skip
        gap = edges[0] - edges[1]
        expected += gap.abs().mean() if norm == "l1" else gap.square().mean()
    assert edge_loss(student, teacher, norm=norm).item() == pytest.approx(float(expected), rel=1e-5)


def _spectral_by_hand(student, teacher, first_bin):
    """With the whole FFT, shifted, one circle after the other."""
    height, width = teacher.shape[-2:]
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    frequencies = np.hypot(
        *np.meshgrid(np.fft.fftshift(np.fft.fftfreq(height)), np.fft.fftshift(np.fft.fftfreq(width)), indexing="ij")
    )
    edges = np.linspace(0, 1, 25) * frequencies.max()
    gaps = []
    for pair in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        amplitude = [np.abs(np.fft.fftshift(np.fft.fft2(x * window, norm="ortho"), axes=(1, 2))).mean(0) for x in pair]
        for ring in range(first_bin, 24):
            inside = (frequencies > edges[ring] + 1e-12) & (frequencies <= edges[ring + 1] + 1e-12)
            if inside.any():
                gaps.append(np.diff([np.log(a[inside].mean() + 1e-8) for a in amplitude])[0] ** 2)
    return float(np.mean(gaps))


@pytest.mark.parametrize("shape", [(18, 15), (16, 16), (15, 22)])
def test_spectral_loss_equals_a_shifted_fft_circle_by_circle(shape):
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 2, 3, *shape, generator=generator).unbind()
    expected = _spectral_by_hand(student, teacher, FIRST_BIN)
    assert spectral_loss(student, teacher, "high").item() == pytest.approx(expected, rel=1e-4)


def _authors_spectral_by_hand(student, teacher):
    """Their formula with loops: a ring for each entry, its place running from -1 to 1 on either axis; no shift."""
    height, width = teacher.shape[-2:]
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    gaps = []
    for pair in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        amplitudes = [np.abs(np.fft.fft2(x * window, norm="ortho")).mean(0) for x in pair]
        rings = [[[] for _ in range(24)] for _ in pair]
        for i in range(height):
            for j in range(width):
                radius = math.hypot(2 * i / (height - 1) - 1, 2 * j / (width - 1) - 1) / math.sqrt(2)
                ring = max(math.ceil(24 * radius - 1e-9) - 1, 0)
                for amplitude, found in zip(amplitudes, rings, strict=True):
                    found[ring].append(amplitude[i, j])
        for ours, theirs in zip(*(found[7:] for found in rings), strict=True):
            if ours:
                gaps.append((math.log(np.mean(ours) + 1e-8) - math.log(np.mean(theirs) + 1e-8)) ** 2)
    return float(np.mean(gaps))


@pytest.mark.parametrize("shape", [(16, 16), (15, 22), (48, 80)])
def test_the_authors_spectral_term_equals_their_formula_entry_by_entry_on_maps_of_any_shape(shape):
    generator = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(2, 2, 3, *shape, generator=generator).cumsum(-1).unbind()
    expected = _authors_spectral_by_hand(student, teacher)
    assert spectral_loss(student, teacher, "authors").item() == pytest.approx(expected, rel=1e-4)


def test_the_mean_is_outside_the_papers_band_and_inside_the_authors():
    shifted = torch.fft.fftshift(ring_index(64, 64, "high"))
    assert shifted[32, 32] == 0 < FIRST_BIN
    assert shifted[0, 0] == 23
    assert ring_index(64, 64, "high")[0, 0] < FIRST_BIN
    assert ring_index(64, 64, "authors")[0, 0] >= FIRST_BIN


def test_a_slow_ripple_moves_only_the_authors_reading_and_a_fast_one_both():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(1, 4, 64, 64, generator=generator)
    slow, fast = torch.sin(2 * torch.pi * (x + y) / 64), torch.sin(2 * torch.pi * 20 * (x + y) / 64)
    assert spectral_loss(teacher + 5 * slow, teacher, "high").item() < 1e-3
    assert spectral_loss(teacher + 5 * slow, teacher, "authors").item() > 1e-2
    assert spectral_loss(teacher + 5 * fast, teacher, "high").item() > 1e-2


def test_losses_have_gradients_for_the_student_alone(maps):
    student, teacher = (x.clone().requires_grad_() for x in maps)
    distillation_loss(student, teacher, LossSettings())["total"].backward()
    assert teacher.grad is None
    assert student.grad is not None and student.grad.abs().min() > 0


def test_losses_of_half_precision_maps_are_computed_in_fp32(maps):
    student, teacher = (x.bfloat16() for x in maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = distillation_loss(student, teacher, LossSettings())
    plain = distillation_loss(student.float(), teacher.float(), LossSettings())
    for name, term in under_autocast.items():
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(plain[name].item(), rel=1e-6)


@pytest.mark.parametrize("left_out", ["l1", "edge", "spectral"])
def test_a_term_of_weight_zero_is_left_out(maps, left_out):
    student, teacher = maps
    terms = distillation_loss(student, teacher, LossSettings(**{left_out: 0.0}))
    assert left_out not in terms
    weights = {"l1": 1.0, "edge": 1.0, "spectral": 0.1}
    assert terms["total"].item() == pytest.approx(sum(weights[k] * v.item() for k, v in terms.items() if k != "total"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1": 0, "edge": 0, "spectral": 0}, "not all zero"),
        ({"edge": -1.0}, "zero or more"),
        ({"edge_norm": "l2"}, "l1, mse"),
        ({"spectral_mask": "low"}, "high, authors"),
        ({"components": 0}, "1 or more"),
    ],
)
def test_loss_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SpecError, match=message):
        LossSettings(**settings)


def test_maps_of_different_shape_are_refused(maps):
    student, teacher = maps
    with pytest.raises(SpecError, match="four times"):
        distillation_loss(student[..., :-1], teacher, LossSettings())
