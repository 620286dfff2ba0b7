"""The recipe of brixel-nano on small pictures: what the closed start holds, that it learns, that resuming is exact."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch

from nano import photographs
from nano.context import WINDOWS, Window, window_mean
from nano.network import build, embed, normalise
from nano.objectives import cut_cells
from nano.photographs import permitted_photographs
from nano.preparation import prepare, start_sample
from nano.start import RESERVED, _fill_window, start_closed
from nano.teacher import LOCAL, PLAIN
from nano.training import RECIPES, Run, Settings, train
from nano.windows import Windows

LICENCES = ("CC0-1.0 (LICENSE)", "Pexels License", "CC-BY-4.0", "CC-BY-SA-4.0", "GPL-2.0-only", "MIT (LICENSE.md)")


def _picture(seed):
    """Coloured regions with a stripe texture each, so that local energy and context both say something."""
    rng = np.random.default_rng(seed)
    height, width = 240, 320
    regions = cv2.resize(rng.random((5, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) * 4
    y, x = np.mgrid[:height, :width]
    image = np.zeros((height, width, 3), np.float32)
    for index in range(4):
        angle, period = rng.random() * np.pi, rng.uniform(3, 12)
        wave = 30 * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
        image[regions.astype(int) == index] = (rng.integers(60, 200, 3) + wave[..., None])[regions.astype(int) == index]
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "photos").mkdir()
    rows = []
    for index in range(12):
        name = f"photos/{index}.png"
        cv2.imwrite(str(root / name), _picture(index))
        rows.append({"path": name, "licence": LICENCES[index % len(LICENCES)]})
    with (root / "MANIFEST.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["path", "licence"])
        writer.writeheader()
        writer.writerows(rows)
    return root


@pytest.fixture(scope="module")
def prepared(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photographs, "SHORT_SIDES_PX", (80, 112, 160, 224, 320))
        yield prepare(data, tmp_path_factory.mktemp("work"), batches=8)


def test_only_permissive_licences_train(data):
    assert [path.stem for path in permitted_photographs(data)] == ["0", "1", "2", "6", "7", "8"]


def test_a_window_averages_what_lies_in_it():
    rows = torch.arange(16.0).view(1, 1, 16, 1).expand(1, 1, 16, 16)
    upper = window_mean(rows, Window(0.02, 0.25))
    assert torch.allclose(upper[0, 0, 6:, 0], torch.arange(2.0, 12.0), atol=1e-3)  # a quarter of 16 rows higher
    assert torch.allclose(window_mean(rows, Window(None)), torch.full((16, 16), 7.5))


@pytest.mark.parametrize("window", [window for window in WINDOWS if window.spread])
def test_attention_of_a_filled_head_is_the_window(window):
    vit = build()
    grid = (12, 16)
    rope = vit.rope.get_embed(shape=grid)
    query, key = torch.zeros(2, 64, vit.embed_dim)
    _fill_window(query, key, window, 64)
    constant = torch.zeros(1, 1, 5 + grid[0] * grid[1], vit.embed_dim)
    constant[..., 0] = 1
    constant[:, :, :5, 1] = 19
    sin, cos = rope.chunk(2, -1)

    def turned(rows):
        patches = rows[:, :, 5:]
        half = torch.cat([-patches[..., 32:], patches[..., :32]], -1)
        return torch.cat([rows[:, :, :5], patches * cos + half * sin], 2)

    scores = turned(constant @ query.T) @ turned(constant @ key.T).transpose(2, 3) / 8
    attention = scores[0, 0, 5:].softmax(-1)
    assert attention[:, :5].sum(1).max() < 1e-3
    picture = torch.randn(1, 1, *grid, generator=torch.Generator().manual_seed(0))
    expected = window_mean(picture, window)[0, 0]
    given = (attention[:, 5:] @ picture.flatten()).reshape(grid)
    middle = (torch.arange(grid[0]) + 0.5) / grid[0] - window.above
    inside = (middle > 0) & (middle < 1)  # a cosine is no parabola where the window's middle is beyond the border
    assert torch.allclose(given[inside], expected[inside], atol=0.06)


def test_the_teacher_is_white_on_what_it_was_fitted_to(prepared):
    targets = start_sample(prepared, seed=5, tokens=4000).targets.flatten(0, 1)
    assert targets.mean(0).abs().mean() < 0.2
    assert 0.6 < targets.std(0).mean() < 1.4


def _map(vit, images):
    with torch.inference_mode():
        x, rope = embed(vit, normalise(images))
        for block in vit.blocks:
            x = block(x, rope=rope)
    return x[:, vit.num_prefix_tokens :, RESERVED:]


@pytest.fixture(scope="module")
def started(prepared):
    vit = build(seed=0)
    return vit, start_closed(vit, start_sample(prepared, tokens=6000), prepared.filters)


def test_the_closed_start_contains_the_descriptors(prepared, started):
    """On windows that the fit did not see; the teacher measures them by code that shares nothing with the network."""
    vit, explained = started
    held = start_sample(prepared, seed=9, tokens=2000)
    rest = (held.targets - _map(vit, held.images)).square().mean((0, 1)) / held.targets.var((0, 1))
    assert 1 - rest[:LOCAL].mean() > 0.5
    assert 1 - rest[LOCAL:PLAIN].mean() > 0.5
    assert explained == sorted(explained)


def test_context_comes_from_the_surroundings(prepared, started):
    vit, _ = started
    images = start_sample(prepared, seed=9, tokens=200).images[:1].clone()
    before = _map(vit, images)
    images[:, :, 96:] = 128  # the right end
    change = (_map(vit, images) - before).reshape(8, 11, -1)[:, :4]  # of tokens at the left
    assert change[..., :LOCAL].abs().max() < 0.5 * change[..., LOCAL:PLAIN].abs().max()
    assert change[..., LOCAL:PLAIN].abs().mean() > 0.05


def test_measurements_are_of_what_the_network_sees(prepared):
    windows = Windows(prepared.pyramid, 600, grids=((8, 8),), augmented=False)
    batch = windows.draw(np.random.default_rng(3))
    colours = batch.images.permute(0, 3, 1, 2).float() / 255
    brightness = (colours * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    pooled = torch.nn.functional.avg_pool2d(brightness, 16)
    assert (cut_cells(prepared.cells, batch)[:, :1] - pooled).abs().mean() < 0.01


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns_and_goes_on_to_the_same_weights(prepared, tmp_path, recipe):
    settings = Settings(recipe=recipe, start="random", tokens=128, warmup=2, steps=6, cool=2)
    whole = Run(settings, prepared, tmp_path / "whole.pt")
    before = whole.vit.patch_embed.proj.patch.weight.clone()
    train(whole)
    assert not torch.equal(whole.vit.patch_embed.proj.patch.weight, before)
    stopped = Run(settings, prepared, tmp_path / "stopped.pt")
    for _ in range(3):
        stopped.one_step()
    stopped.save()
    resumed = Run(settings, prepared, tmp_path / "stopped.pt")
    assert resumed.step == 3
    train(resumed)
    for kept, again in ((whole.vit, resumed.vit), (whole.average, resumed.average)):
        for one, other in zip(kept.parameters(), again.parameters(), strict=True):
            assert torch.equal(one, other)
