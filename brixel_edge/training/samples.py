"""A photograph as training sees it: the student's view and the teacher's, or the teacher's map from the cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brixel_edge.image.resize import resize_image
from brixel_edge.training.photographs import photograph_view
from brixel_edge.training.teacher_cache import TeacherCache
from brixel_edge.training.views import Size, ViewSettings, crop_box, teacher_size


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One photograph, ready.

    Attributes:
        name: for messages.
        student: (H, W, 3) uint8 RGB, or (4H, 4W, 3) for a student that takes the full frame.
        teacher: (4H, 4W, 3) uint8 RGB; None where the cache had its map.
        target: (D, h, w) fp16 from the cache, or None.
        cache_key: where the map is to be kept, or None.
    """

    name: str
    student: NDArray[np.uint8]
    teacher: NDArray[np.uint8] | None
    target: NDArray[np.float16] | None = None
    cache_key: str | None = None


@dataclass(frozen=True, kw_only=True)
class SampleMaker:
    """Makes both views of an encoded photograph.

    Attributes:
        views: of the run.
        cache: of the teacher's maps, or None.
        student_scale: 4 for a student that takes the full frame and makes the backbone's view itself.
    """

    views: ViewSettings
    cache: TeacherCache | None = None
    student_scale: int = 1

    def sample(self, data: bytes, name: str, size: Size, key: Sequence[int]) -> Sample:
        """Decode a photograph.

        Args:
            data: encoded.
            name: for messages.
            size: the student's (height, width) [px].
            key: seeds what is random about the view.

        Raises:
            UnusablePhotograph: it cannot be shown.
        """
        random = np.random.default_rng(tuple(key)) if self.views.is_random else None
        is_mirrored = random is not None and self.views.flips and random.random() < 0.5
        cache_key = None
        if self.cache is not None:
            view = f"{size[0]}x{size[1]} centre mirrored={is_mirrored} student x{self.student_scale}"
            cache_key = self.cache.key(data, view)
            if (hit := self.cache.get(cache_key)) is not None:
                return Sample(name=name, student=hit.student, teacher=None, target=hit.target, cache_key=cache_key)
        height, width = teacher_size(size)
        view = photograph_view(data, height, width, lambda h, w: crop_box(h, w, size, self.views, random))
        view = view[:, ::-1] if is_mirrored else view
        student = resize_image(view, self.student_scale * size[0], self.student_scale * size[1])
        return Sample(name=name, student=student, teacher=view, cache_key=cache_key)
