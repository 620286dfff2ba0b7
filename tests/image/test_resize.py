"""The resize kernel against torch's, and against what can be said by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brixel_edge.errors import SpecError
from brixel_edge.image.resize import resize_image


def torch_resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None].double()
    resized = torch.nn.functional.interpolate(planes, size=(height, width), mode="bicubic", antialias=True)
    return resized.round().clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy()


@pytest.mark.parametrize("size_in", [(300, 451), (97, 33), (64, 64), (7, 5)], ids=str)
@pytest.mark.parametrize("size_out", [(256, 448), (64, 64), (31, 200), (3, 2)], ids=str)
def test_equals_torch_within_one_level(photographs, size_in, size_out):
    photograph = photographs[1][: size_in[0], : size_in[1]]
    noise = np.random.default_rng(0).integers(0, 2, (*size_in, 3), dtype=np.uint8) * 255  # overshoots most
    for pixels in (photograph, noise):
        difference = resize_image(pixels, *size_out).astype(int) - torch_resize(pixels, *size_out)
        assert np.abs(difference).max() <= 1
        assert (difference != 0).mean() < 0.01  # roundings of exact halves, not a shift


def test_a_frame_of_a_camera_equals_torch():
    frame = np.random.default_rng(1).integers(0, 256, (720, 1280, 3), dtype=np.uint8)
    assert np.abs(resize_image(frame, 256, 256).astype(int) - torch_resize(frame, 256, 256)).max() <= 1


def test_same_size_is_a_copy():
    pixels = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    resized = resize_image(pixels, 5, 5)
    assert (resized == pixels).all()
    assert not np.shares_memory(resized, pixels)


def test_flat_stays_flat_to_the_edge():
    assert (resize_image(np.full((37, 53, 3), 200, np.uint8), 16, 80) == 200).all()


def test_other_strides_and_channel_counts_are_taken():
    pixels = np.random.default_rng(2).integers(0, 256, (60, 80, 4), dtype=np.uint8)
    whole = resize_image(pixels, 20, 20)
    assert whole.shape == (20, 20, 4)
    flipped = resize_image(pixels[:, :, ::-1], 20, 20)
    assert (flipped == whole[:, :, ::-1]).all()
    assert (resize_image(pixels[..., :1], 20, 20) == whole[..., :1]).all()


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(pixels):
    with pytest.raises(SpecError, match=r"must be uint8 \(H, W, C\)"):
        resize_image(pixels, 8, 8)


def test_no_size_is_refused():
    with pytest.raises(SpecError, match="cannot resize to 0x8"):
        resize_image(np.zeros((4, 4, 3), np.uint8), 0, 8)


def test_blas_stays_on_one_thread():
    """Every product is under OpenBLAS's threshold; its threads would fight with the engine's."""
    from brixel_edge.image import resize

    largest = 0
    matmul = np.matmul

    def watched(a, b, out):
        nonlocal largest
        largest = max(largest, a.shape[0] * a.shape[1] * b.shape[1])
        return matmul(a, b, out=out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resize.np, "matmul", watched)
        resize_image(np.zeros((1080, 1920, 3), np.uint8), 256, 448)
    assert 0 < largest <= 65536 * 4
