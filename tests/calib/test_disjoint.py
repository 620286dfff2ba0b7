"""Photographs of the proof that calibrate are refused, by their bytes and by their pixels."""

import cv2
import numpy as np
import pytest

from brixel_edge.calib.disjoint import require_other_pictures
from brixel_edge.calib.sources import calibration_frames
from brixel_edge.errors import SpecError
from brixel_edge.model.spec import ImageSpec
from brixel_edge.proof.photographs import load_images

SPEC = ImageSpec(height=32, width=48, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="RGB")


@pytest.fixture
def folders(tmp_path):
    """20 pictures to calibrate on, and two others for the proof."""
    rng = np.random.default_rng(0)
    for name, count in (("calib", 20), ("proof", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{name}{number}.png"), rng.integers(0, 255, (64, 96, 3), np.uint8))
    return tmp_path


def check(folders, count=64):
    calib, photographs = str(folders / "calib"), sorted((folders / "proof").iterdir())
    frames = calibration_frames(calib, SPEC, count=count)
    names, pixels = [path.name for path in photographs], load_images(photographs, 32, 48, "RGB")
    require_other_pictures(frames, calib, names, pixels, photographs)


def test_other_pictures_pass(folders):
    check(folders)


def test_a_copy_under_another_name_is_refused_though_it_was_not_drawn(folders):
    """8 of 20 files are drawn; with another seed the copy would calibrate."""
    copy = folders / "proof" / "same.png"
    for number in range(20):
        copy.write_bytes((folders / "calib" / f"calib{number}.png").read_bytes())
        with pytest.raises(SpecError, match=r"1 photographs of the proof are in --calib .* \(same\.png\)"):
            check(folders, count=8)


def test_the_same_pixels_in_another_file_format_are_refused(folders):
    picture = cv2.imread(str(folders / "calib" / "calib3.png"))
    cv2.imwrite(str(folders / "proof" / "same.bmp"), picture)
    with pytest.raises(SpecError, match=r"what calibrates cannot prove: give others as --parity-images"):
        check(folders)
