"""A camera that is lost, without its patience."""

from __future__ import annotations

import time

import numpy as np


class VanishingCamera:
    """Three frames, then it is gone."""

    is_live, fps, skipped, description = True, 30.0, 0, "camera 0"

    def __init__(self):
        self.reads = 0

    def read(self):
        from brixel_edge.errors import SourceError
        from brixel_edge.runtimes.sources.frames import Frame

        self.reads += 1
        time.sleep(0.1)
        if self.reads > 3:
            raise SourceError("camera 0 was lost and did not come back within 30 s")
        now = time.monotonic()
        image = np.full((32, 48, 3), 50 * self.reads, np.uint8)
        return Frame(image=image, index=self.reads - 1, t_capture_s=now, t_media_s=self.reads / 10, capture_s=0.0)

    def interrupt(self):
        pass

    def close(self):
        pass
