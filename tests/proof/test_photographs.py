"""Which pictures could show a fault."""

from __future__ import annotations

import numpy as np
import pytest

from brixel_edge.proof.photographs import PROOF, RANGING, bundled_photographs, faultless_looking, load_images


def grey(image):
    return np.repeat(image.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 96), (256, 256)])
def test_every_photograph_of_the_built_in_proof_could_show_a_fault(size):
    assert faultless_looking(load_images(bundled_photographs(PROOF), *size)) == {}


def test_grey_constant_and_nearly_equal_pictures_could_not(mini_images):
    constant = np.full((1, 64, 96, 3), 127, np.uint8)
    pictures = [mini_images[0], grey(mini_images[1]), constant, np.clip(mini_images[0], 1, 255), mini_images[1]]
    assert faultless_looking(pictures) == {1: "grey", 2: "nearly constant", 3: "nearly equal to another"}


def test_photographs_of_ranges_and_of_the_proof_are_others():
    assert not set(PROOF) & set(RANGING)
