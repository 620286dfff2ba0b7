"""What leaves the training: weights as fp16, and the photographs as folders that brixel-train reads.

`python -m nano.release ADAPTER OUT` writes an adapter of brixel-train as fp16.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from brixel_edge.machine.files import replacing
from brixel_edge.network.weights import read_adapter, save_adapter
from nano.photographs import permitted_photographs

PHOTOGRAPH_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


def write_backbone(vit: nn.Module, path: Path) -> None:
    """The weights under timm's names, rounded to fp16."""
    with replacing(path) as temporary:
        save_file({key: value.half().contiguous() for key, value in vit.state_dict().items()}, temporary)


def write_adapter(source: Path, path: Path) -> None:
    """An adapter of brixel-train, rounded to fp16; BatchNorm's statistics, which are few and may be tiny, stay fp32."""
    weights, metadata = read_adapter(source)
    save_adapter(path, {key: _rounded(key, value) for key, value in weights.items()}, metadata)


def _rounded(key: str, value: Tensor) -> Tensor:
    return value if "running_" in key or value.dtype != torch.float32 else value.half()


def link_photographs(data: Path, work: Path) -> tuple[Path, Path]:
    """Folders `train` and `held` of links: what may train shipped weights, and the rest."""
    permitted = set(permitted_photographs(data))
    folders = work / "train", work / "held"
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((data / "photos").rglob("*")):
        link = folders[0 if path in permitted else 1] / path.name
        if path.suffix.lower() in PHOTOGRAPH_SUFFIXES and not link.is_symlink():
            link.symlink_to(path.resolve())
    return folders


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    write_adapter(options.adapter, options.out)
