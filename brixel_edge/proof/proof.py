"""The proof that travels with a model: a few images, and what the PyTorch model and its head made of them.

A device has no PyTorch, so the model directory carries `proof.npz`, and the parity gate runs again on the spot. Large
maps are kept on a lattice of cells: the gate is a statistic over cells, and the lattice's odd step meets all places
that a cell can have inside its token. Features are kept in fp16, which costs 2e-4 of relative error where fp32's gate
allows 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import BundleError
from brixel_edge.machine.arrays import DAMAGED
from brixel_edge.model.head_spec import HeadKind
from brixel_edge.proof.parity import ParityReport
from brixel_edge.proof.references import Maps, Outputs, References

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
        features: (n, D, rows, columns), the cells at every `step`-th place of the grid, from the first; None for a
            model that gives a head's answer alone.
        step: in cells; 1 keeps all.
        ranging: (m, H, W, 3) uint8, other photographs, on which a device may measure activation ranges; None in proofs
            of earlier releases.
        answers: (n, K, rows, columns) of the head, on the same cells; None without one.
        kind: of the head.
    """

    names: tuple[str, ...]
    images: NDArray[np.uint8] = field(repr=False)
    features: NDArray[np.floating] | None = field(repr=False)
    step: int
    ranging: NDArray[np.uint8] | None = field(default=None, repr=False)
    answers: NDArray[np.floating] | None = field(default=None, repr=False)
    kind: HeadKind | None = None

    @property
    def references(self) -> References:
        """What outputs on the lattice are compared with."""
        return References(
            features=None if self.features is None else list(self.features[:, None]),
            answers=None if self.answers is None else list(self.answers[:, None]),
            kind=self.kind,
        )

    def on_lattice(self, outputs: Outputs) -> Outputs:
        """The kept cells of whole (1, channels, h, w) maps."""
        return {name: values[:, :, :: self.step, :: self.step] for name, values in outputs.items()}

    def first(self, count: int) -> Proof:
        """The same with its first photographs only."""
        return replace(
            self,
            names=self.names[:count],
            images=self.images[:count],
            features=None if self.features is None else self.features[:count],
            answers=None if self.answers is None else self.answers[:count],
        )

    def compare(self, outputs: Sequence[Outputs]) -> ParityReport:
        """How far whole maps of the proof's images are from PyTorch's.

        Args:
            outputs: (1, channels, h, w) by name, of each image.

        Raises:
            ParityError: maps of another shape.
        """
        return self.references.compare([self.on_lattice(output) for output in outputs])


def lattice_step(grid: tuple[int, int], images: int = 1) -> int:
    """The smallest odd step that keeps at most `MAX_CELLS` cells of a grid, and of many images no more in all."""
    step, limit = 1, min(MAX_CELLS, _ALL_CELLS // images)
    while -(-grid[0] // step) * -(-grid[1] // step) > limit:
        step += 2
    return step


def proof_from_references(
    names: Sequence[str],
    images: Sequence[NDArray[np.uint8]],
    features: Maps | None,
    *,
    ranging: Sequence[NDArray[np.uint8]] = (),
    answers: Maps | None = None,
    kind: HeadKind | None = None,
) -> Proof:
    """Keep what a device needs: the gate's photographs, all of them, so that it judges there as it does here.

    Args:
        names: of the photographs that the export was judged on.
        images: (1, H, W, 3) uint8 each.
        features: (1, D, h, w) each; None for a model that gives a head's answer alone.
        ranging: other photographs of the same form.
        answers: (1, K, h, w) each, of the head; None without one.
        kind: of the head.
    """
    there = features if features is not None else answers
    assert there is not None
    step = lattice_step(there[0].shape[2:], len(there))
    return Proof(
        names=tuple(names),
        images=np.concatenate(images),
        features=_kept_features(features, step),
        step=step,
        ranging=np.concatenate(ranging) if ranging else None,
        answers=None if answers is None else _on_lattice(answers, step),
        kind=kind,
    )


def _on_lattice(maps: Maps, step: int) -> NDArray[np.floating]:
    return np.concatenate([values[:, :, ::step, ::step] for values in maps])


def _kept_features(maps: Maps | None, step: int) -> NDArray[np.floating] | None:
    """In fp16 where it holds them; answers are few, and stay in fp32, so that no class is told apart by rounding."""
    if maps is None:
        return None
    kept = _on_lattice(maps, step)
    return kept.astype(np.float16 if np.abs(kept).max() < _FP16_LIMIT else np.float32)


def save_proof(proof: Proof, path: Path) -> None:
    """Write `proof.npz`; the same proof gives the same bytes."""
    parts: dict[str, NDArray[Any] | None] = {
        "version": np.array(PROOF_VERSION),
        "names": np.array(proof.names),
        "images": proof.images,
        "features": proof.features,
        "step": np.array(proof.step),
        "ranging": proof.images[:0] if proof.ranging is None else proof.ranging,
        "answers": proof.answers,
        "kind": None if proof.kind is None else np.array(proof.kind),
    }
    np.savez(path, **{name: value for name, value in parts.items() if value is not None})  # type: ignore[arg-type]  # its allow_pickle


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
                features=stored["features"] if "answers" not in stored else stored.get("features"),
                step=int(stored["step"]),
                ranging=_ranging(stored),
                answers=stored.get("answers"),
                kind=_kind(stored),
            )
    except BundleError:
        raise
    except DAMAGED as error:
        raise BundleError(f"{path} is not a readable proof ({error}); export the model again") from error


def _kind(stored: Mapping[str, NDArray[Any]]) -> HeadKind | None:
    """Of the head; None without one.

    Raises:
        ValueError: no kind that this release knows.
    """
    if "kind" not in stored:
        return None
    kind = str(stored["kind"])
    if kind not in get_args(HeadKind):
        raise ValueError(f"head {kind!r} is not known")
    return cast(HeadKind, kind)


def _ranging(stored: Mapping[str, NDArray[Any]]) -> NDArray[np.uint8] | None:
    """None in proofs of earlier releases, and where there are none."""
    return stored["ranging"] if "ranging" in stored and len(stored["ranging"]) else None
