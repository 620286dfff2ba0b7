"""Both views of one photograph: the same part of it, mirrored together, and cached under a name that says how."""

import io

import numpy as np
import pytest
from PIL import Image

from brixel_edge.image.resize import resize_image
from brixel_edge.training.samples import SampleMaker
from brixel_edge.training.teacher_cache import TeacherCache
from brixel_edge.training.views import ViewSettings

SIZE = (8, 12)


@pytest.fixture
def pixels():
    """A photograph of just the teacher's size, in which no two places look alike."""
    return np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)


@pytest.fixture
def encoded(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def samples_of(maker, encoded, count=16):
    return [maker.sample(encoded, "p", SIZE, (0, 0, place)) for place in range(count)]


def test_the_teacher_sees_the_photographs_own_pixels_and_the_student_the_same_view_made_smaller(pixels, encoded):
    (sample,) = samples_of(SampleMaker(views=ViewSettings(sizes=(SIZE,))), encoded, 1)
    assert np.array_equal(sample.teacher, pixels)
    means = pixels.reshape(8, 4, 12, 4, 3).mean((1, 3))
    assert sample.student.shape == (8, 12, 3) and np.corrcoef(sample.student.ravel(), means.ravel())[0, 1] > 0.8


def test_a_mirrored_photograph_is_mirrored_for_student_and_teacher(pixels, encoded):
    seen = samples_of(SampleMaker(views=ViewSettings(sizes=(SIZE,), flips=True)), encoded)
    mirrored = [sample for sample in seen if np.array_equal(sample.teacher, pixels[:, ::-1])]
    plain = [sample for sample in seen if np.array_equal(sample.teacher, pixels)]
    assert len(mirrored) + len(plain) == 16 and mirrored and plain
    assert all(np.array_equal(sample.student, resize_image(pixels[:, ::-1], *SIZE)) for sample in mirrored)
    assert all(np.array_equal(sample.student, resize_image(pixels, *SIZE)) for sample in plain)


def test_a_mirrored_view_and_a_plain_one_are_two_entries_of_the_cache(pixels, encoded, tmp_path):
    views = ViewSettings(sizes=(SIZE,), flips=True)
    seen = samples_of(SampleMaker(views=views, cache=TeacherCache(tmp_path, "teacher")), encoded)
    keys = {np.array_equal(sample.teacher, pixels): set() for sample in seen}
    for sample in seen:
        keys[np.array_equal(sample.teacher, pixels)].add(sample.cache_key)
    assert len(keys[True]) == len(keys[False]) == 1 and keys[True] != keys[False]
