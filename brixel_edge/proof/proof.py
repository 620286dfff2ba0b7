"""The proof that travels with a model: a few images, and what the PyTorch model made of them.

A device has no PyTorch, so the model directory carries `proof.npz`, and the parity gate runs again on the spot. Large
maps are kept on a lattice of cells: the gate is a statistic over cells, and the lattice's odd step meets all places
that a cell can have inside its token. Features are kept in fp16, which costs 2e-4 of relative error where fp32's gate
allows 1e-3.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.proof.parity import ParityReport, compare

PROOF_NAME = "proof.npz"
PROOF_VERSION = 1
MAX_CELLS = 4096  # of an image, of up to six; of more images fewer each
_ALL_CELLS = 6 * MAX_CELLS
_FP16_LIMIT = 6e4


@dataclass(frozen=True, kw_only=True)
class Proof:
    """References that a device can compare with.

    Attributes:
        names: of the photographs.
        images: (n, H, W, 3) uint8, in the channel order of the spec.
        features: (n, D, rows, columns), the cells at every `step`-th place of the grid, from the first.
        step: in cells; 1 keeps all.
        ranging: (m, H, W, 3) uint8, other photographs, on which a device may measure activation ranges; None in proofs
            of earlier releases.
    """

    names: tuple[str, ...]
    images: NDArray[np.uint8] = field(repr=False)
    features: NDArray[np.floating] = field(repr=False)
    step: int
    ranging: NDArray[np.uint8] | None = field(default=None, repr=False)

    def on_lattice(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """The kept cells of a whole (1, D, h, w) map."""
        return features[:, :, :: self.step, :: self.step]

    def first(self, count: int) -> Proof:
        """The same with its first photographs only."""
        return replace(self, names=self.names[:count], images=self.images[:count], features=self.features[:count])

    def compare(self, candidates: Sequence[NDArray[np.floating]]) -> ParityReport:
        """How far whole maps (1, D, h, w) of the proof's images are from PyTorch's.

        Raises:
            ParityError: maps of another shape.
        """
        return compare(list(self.features[:, None]), [self.on_lattice(candidate) for candidate in candidates])


def lattice_step(grid: tuple[int, int], images: int = 1) -> int:
    """The smallest odd step that keeps at most `MAX_CELLS` cells of a grid, and of many images no more in all."""
    step, limit = 1, min(MAX_CELLS, _ALL_CELLS // images)
    while -(-grid[0] // step) * -(-grid[1] // step) > limit:
        step += 2
    return step


def proof_from_references(
    names: Sequence[str],
    images: Sequence[NDArray[np.uint8]],
    references: Sequence[NDArray[np.floating]],
    *,
    ranging: Sequence[NDArray[np.uint8]] = (),
) -> Proof:
    """Keep what a device needs: the gate's photographs, all of them, so that it judges there as it does here.

    Args:
        names: of the photographs that the export was judged on.
        images: (1, H, W, 3) uint8 each.
        references: (1, D, h, w) each.
        ranging: other photographs of the same form.
    """
    step = lattice_step(references[0].shape[2:], len(references))
    kept = np.concatenate([reference[:, :, ::step, ::step] for reference in references])
    is_small = np.abs(kept).max() < _FP16_LIMIT
    return Proof(
        names=tuple(names),
        images=np.concatenate(images),
        features=kept.astype(np.float16 if is_small else np.float32),
        step=step,
        ranging=np.concatenate(ranging) if ranging else None,
    )


def save_proof(proof: Proof, path: Path) -> None:
    """Write `proof.npz`; the same proof gives the same bytes."""
    np.savez(
        path,
        version=np.int64(PROOF_VERSION),
        names=np.array(proof.names),
        images=proof.images,
        features=proof.features,
        step=np.int64(proof.step),
        ranging=proof.images[:0] if proof.ranging is None else proof.ranging,
    )


def load_proof(path: Path) -> Proof:
    """Read what `save_proof` wrote.

    Raises:
        BundleError: no such file, or not one that this release reads.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            version = int(stored["version"])
            if version != PROOF_VERSION:
                raise BundleError(f"{path} has version {version}, this release reads {PROOF_VERSION}; export again")
            return Proof(
                names=tuple(str(name) for name in stored["names"]),
                images=stored["images"],
                features=stored["features"],
                step=int(stored["step"]),
                ranging=_ranging(stored),
            )
    except BundleError:
        raise
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} is not a readable proof ({error}); export the model again") from error


def _ranging(stored: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | None:
    """None in proofs of earlier releases, and where there are none."""
    return stored["ranging"] if "ranging" in stored and len(stored["ranging"]) else None
