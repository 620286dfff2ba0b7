"""Our adapter under the authors' key names, for their code.

Their loader takes whatever fits and is silent about the rest, except where a shape differs. So the file holds every key
of theirs, with their shapes: ours where it has an effect, and neutral values for the parts that have none.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from brixel_edge.machine.files import write_atomically
from brixel_edge.network.weights import State

LEVELS = 3
GUIDE_WIDTH = 48
# Convolutions that the authors build and never use, (outputs, inputs a group, side, has a bias); D is the width.
_PRIOR_WIDTH = 256


def _dead_convolutions(dim: int) -> dict[str, tuple[int, int, int, bool]]:
    return {
        "spm.conv3.0": (_PRIOR_WIDTH, _PRIOR_WIDTH // 2, 3, False),
        "spm.conv4.0": (_PRIOR_WIDTH, _PRIOR_WIDTH, 3, False),
        "spm.fc3": (dim, _PRIOR_WIDTH, 1, True),
        "spm.fc4": (dim, _PRIOR_WIDTH, 1, True),
        "up.expand": (4 * dim, dim, 1, True),
        "up.post.0": (dim, 1, 3, True),
        "up.post.1": (dim, dim, 1, True),
        "guide_proj.0": (GUIDE_WIDTH, dim, 1, True),
    }


def _dead_norms(dim: int) -> dict[str, int]:
    return {"spm.conv3.1": _PRIOR_WIDTH, "spm.conv4.1": _PRIOR_WIDTH, "norm2": dim, "norm3": dim, "norm4": dim}


def official_state(state: State) -> State:
    """A refiner's state dict with the authors' further keys.

    Args:
        state: of the paper's refiner: `adapter.*` and `head.*`.

    Returns:
        the same tensors, level embeddings for all three of their levels, zeros for dead convolutions, the identity for
        dead norms.
    """
    official = {key: value.detach().cpu().float().contiguous() if value.is_floating_point() else value.detach().cpu()
                for key, value in state.items()}  # fmt: skip
    levels = official["adapter.level_embed"]
    dim = levels.shape[1]
    official["adapter.level_embed"] = torch.cat((levels, torch.zeros(LEVELS - len(levels), dim)))
    for name, (outputs, inputs, side, has_bias) in _dead_convolutions(dim).items():
        official[f"adapter.{name}.weight"] = torch.zeros(outputs, inputs, side, side)
        if has_bias:
            official[f"adapter.{name}.bias"] = torch.zeros(outputs)
    for name, width in _dead_norms(dim).items():
        official[f"adapter.{name}.weight"] = torch.ones(width)
        official[f"adapter.{name}.bias"] = torch.zeros(width)
        if name.startswith("spm."):
            official[f"adapter.{name}.running_mean"] = torch.zeros(width)
            official[f"adapter.{name}.running_var"] = torch.ones(width)
            official[f"adapter.{name}.num_batches_tracked"] = torch.tensor(0)
    return official


def write_official(path: Path, state: State) -> None:
    """Write a .pth that the authors' loader and ours read.

    Raises:
        OSError: it could not be written.
    """
    stream = io.BytesIO()
    torch.save(official_state(state), stream)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, stream.getvalue())
