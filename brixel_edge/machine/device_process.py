"""The GPU of this machine, asked in a process of its own, since a CUDA context takes some hundred MB of a board.

Started as `python -m brixel_edge.machine.device_process`.
"""

from __future__ import annotations

import dataclasses
import sys

from brixel_edge.machine.cuda import CudaDevice, current_device, import_cudart
from brixel_edge.machine.process import answering, ask


def device_of_process() -> CudaDevice:
    """What the current device is.

    Raises:
        BackendMissing: there is no usable NVIDIA device, or no cuda-python.
    """
    return CudaDevice(**ask("brixel_edge.machine.device_process", {}, "asking for the GPU"))


if __name__ == "__main__":
    sys.exit(answering(lambda request: dataclasses.asdict(current_device(import_cudart()))))
