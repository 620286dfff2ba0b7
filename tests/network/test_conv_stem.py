"""The conv adapter's stem: its first filters, what it adopts from a backbone, and what only the frame shows it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from brixel_edge.errors import SpecError
from brixel_edge.model.adapters import ConvSettings
from brixel_edge.network.backbone import load_backbone
from brixel_edge.network.conv_stem import ImageStem, dct_filters, first_neurons, texture_filters
from brixel_edge.network.student import adapter_metadata, load_student
from brixel_edge.network.weights import save_adapter

WIDTH = 32  # 16 filters, 96 neurons


class TinyViT(nn.Module):
    """As much of a ViT as the stem reads: 16 features."""

    def __init__(self, patch_px=16, gated=False, neurons=120):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def linear(inputs, outputs):
            layer = nn.Linear(inputs, outputs)
            nn.init.normal_(layer.weight, generator=generator)
            return layer

        self.patch_embed, block, mlp = nn.Module(), nn.Module(), nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, 16, patch_px, stride=patch_px)
        nn.init.normal_(self.patch_embed.proj.weight, generator=generator)
        block.norm2 = nn.LayerNorm(16)
        nn.init.uniform_(block.norm2.weight, 0.5, 2, generator=generator)
        if gated:
            mlp.fc1_g, mlp.fc1_x = linear(16, neurons), linear(16, neurons)
        else:
            mlp.fc1 = linear(16, neurons)
        mlp.fc2, block.mlp = linear(neurons, 16), mlp
        self.blocks = nn.ModuleList([block])
        self.requires_grad_(False)


def stem_of(frame_scale=None):
    torch.manual_seed(1)
    return ImageStem(WIDTH, frame_scale).eval()


def cosines(a, b):
    """(N, samples) and (M, samples) -> (N, M), each row minus its mean."""
    a, b = (functional.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (a, b))
    return a @ b.T


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_adopted_neurons_are_the_backbones_own_on_the_enlarged_view(gated):
    """Second method: the view is enlarged, and embedding, norm and MLP are applied one by one, as a ViT does."""
    vit, stem = TinyViT(gated=gated), stem_of()
    stem.adopt_first_block(vit)
    view = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(2))
    enlarged = functional.interpolate(view, scale_factor=4, mode="bilinear", align_corners=False)
    block = vit.blocks[0]
    with torch.no_grad():
        tokens = functional.conv2d(enlarged, vit.patch_embed.proj.weight, stride=16).permute(0, 2, 3, 1)
        first = block.mlp.fc1_g if gated else block.mlp.fc1
        expected = ((tokens - tokens.mean(-1, keepdim=True)) * block.norm2.weight) @ first.weight.T
        neurons = stem.neurons[0](stem.filters(view)).permute(0, 2, 3, 1)
    inside = (slice(None), slice(1, -1), slice(1, -1))  # at the border the stem sees zeros, enlargement repeats pixels
    alike = cosines(neurons[inside].flatten(0, 2).T, expected[inside].flatten(0, 2).T)
    best, which = alike.max(1)
    assert best.min() > 0.9999
    assert len(set(which.tolist())) == 96


def test_mix_starts_as_what_the_neurons_give():
    """All 96 neurons are chosen, so in other coordinates and another order the mix is the MLP's second layer."""
    vit, stem = TinyViT(neurons=96), stem_of()
    before = stem.mix.weight.detach().clone()
    stem.adopt_first_block(vit)
    given, mix = vit.blocks[0].mlp.fc2.weight, stem.mix.weight.detach()[..., 0, 0]
    assert torch.equal(mix[16:], before[16:, :, 0, 0])  # a ViT of 16 features gives no more
    scale = 0.3 / torch.linalg.svdvals(given).mean()
    assert torch.allclose(torch.linalg.svdvals(mix[:16]), scale * torch.linalg.svdvals(given), rtol=1e-4)
    lengths, expected = mix[:16].norm(dim=0).sort().values, given.norm(dim=0).sort().values
    assert torch.allclose(lengths, scale * expected, rtol=1e-4)


@pytest.mark.parametrize("change", ["no mlp", "few neurons", "packed gates"])
def test_a_vit_built_otherwise_leaves_the_stem_as_it_was(change):
    vit, stem = TinyViT(), stem_of(4)
    if change == "no mlp":
        del vit.blocks[0].mlp
    elif change == "few neurons":
        vit.blocks[0].mlp.fc1, vit.blocks[0].mlp.fc2 = nn.Linear(16, 95), nn.Linear(95, 16)
    else:
        vit.blocks[0].mlp.fc1 = nn.Linear(16, 240)
    before = {key: value.clone() for key, value in stem.state_dict().items()}
    stem.adopt_first_block(vit)
    assert all(torch.equal(value, before[key]) for key, value in stem.state_dict().items())


def test_patches_of_14_px_are_seen_at_16():
    seen, given = first_neurons(TinyViT(patch_px=14))
    assert seen.shape == (120, 3, 16, 16) and given.shape == (16, 120)


@pytest.mark.parametrize("name", ["vit_mini_dinov3", "vit_tiny_patch16_224", "vit_small_patch14_dinov2"])
def test_backbones_in_use_can_be_adopted(name):
    backbone = load_backbone(name)
    student = load_student(backbone, "random", "conv", conv=ConvSettings(width=WIDTH))
    untouched = load_student(backbone, "random", "conv", conv=ConvSettings(width=WIDTH)).refiner.adapter.stem
    torch.manual_seed(0)
    plain = ImageStem(WIDTH, None)
    assert torch.equal(student.refiner.adapter.stem.filters.weight, untouched.filters.weight)  # it is repeatable
    assert not torch.allclose(student.refiner.adapter.stem.filters.weight.std(), plain.filters.weight.std(), rtol=0.05)
    assert first_neurons(backbone.vit) is not None


def test_texture_is_contrast_that_the_view_does_not_show():
    """Stripes whose 4 x 4 means vanish: the stronger they are, the stronger the texture; a level frame has none."""
    stem = stem_of(4)
    stripes = torch.tensor([1.0, -1.0]).repeat(64).expand(1, 3, 128, 128)
    with torch.no_grad():
        none, weak, strong = (stem.texture(contrast * stripes) for contrast in (0.0, 0.5, 1.0))
        level = stem.texture(torch.full((1, 3, 128, 128), 0.7))
    assert torch.allclose(level, none, atol=1e-5)
    assert torch.allclose(strong - none, 2 * (weak - none), atol=1e-5) and (strong - none).amax() > 0.1
    assert none.shape == (1, 28, 8, 8)


def test_texture_filters_are_orthonormal_and_blind_to_a_level_patch():
    filters = texture_filters()
    flat = filters.flatten(1)
    assert filters.shape == (28, 3, 4, 4)
    assert torch.allclose(flat @ flat.T, torch.eye(28), atol=1e-5)
    assert filters.sum((2, 3)).abs().max() < 1e-5


def test_cosines_are_orthonormal_and_the_second_half_is_colour():
    filters = dct_filters(8, 48)
    flat = filters.flatten(1)
    assert filters.shape == (48, 3, 8, 8)
    assert torch.allclose(flat @ flat.T, torch.eye(48), atol=1e-5)
    assert torch.allclose(filters[0], torch.full((3, 8, 8), 1 / 192**0.5))  # the mean of all 192 values
    grey = torch.rand(1, 8, 8).expand(3, 8, 8)
    assert (filters[24:] * grey).sum((1, 2, 3)).abs().max() < 1e-5


def _nano():
    backbone = load_backbone("vit_nano_dinov3", seed=3)
    student = load_student(backbone, "random", "conv", conv=ConvSettings(width=WIDTH, full_frame=True))
    return backbone, student


def test_a_texture_stem_is_adopted_in_the_directions_that_matter():
    """80 orthonormal directions of the backbone's own tokens, those that hold most of what the filters give."""
    backbone, student = _nano()
    theirs, ours = backbone.vit.patch_embed.proj, student.refiner.adapter.stem.texture
    frame = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole, narrow = theirs(frame)[0].flatten(1).double(), ours(frame)[0].flatten(1).double()
        assert torch.equal(ours.texture(frame), theirs.texture(frame))
    weight, kept = theirs.mix.weight.detach().flatten(1).double(), ours.mix.weight.detach().flatten(1).double()
    directions = kept @ torch.linalg.pinv(weight)
    assert torch.allclose(directions @ directions.T, torch.eye(80, dtype=torch.float64), atol=1e-4)
    assert torch.allclose(narrow, directions @ whole, atol=1e-4 * whole.abs().max().item())
    assert kept.square().sum() == pytest.approx(torch.linalg.svdvals(weight)[:80].square().sum().item(), rel=1e-4)


def test_filters_of_an_adopted_texture_stem_are_not_trained():
    _, student = _nano()
    stem = student.refiner.adapter.stem.texture
    trained = {name for name, parameter in stem.named_parameters() if parameter.requires_grad}
    assert trained == {"patch.weight", "patch.bias", "mix.weight"}


def test_a_texture_stem_needs_the_full_frame_and_is_kept_by_the_file(tmp_path):
    backbone, student = _nano()
    assert student.refiner.settings.texture_stem
    assert not load_student(backbone, "random", "conv", conv=ConvSettings(width=WIDTH)).refiner.settings.texture_stem
    with pytest.raises(SpecError, match="texture_stem True"):
        ConvSettings(texture_stem=True)
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, student.refiner.state_dict(), adapter_metadata(student))
    loaded = load_student(backbone, path, "conv")
    assert loaded.refiner.settings == student.refiner.settings
    frame = torch.randn(1, 3, 64, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(loaded(frame), student(frame))
