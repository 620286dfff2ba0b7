"""A head: a small map from a feature to an answer (classes, depth, components).

A head is linear in the features, so that an export can fold it into the last layer; prototypes alone are not, because
a cosine divides by the feature's length. Knows numpy, nothing of files or frameworks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from brixel_edge.errors import SpecError
from brixel_edge.model.head_spec import Colour, FeatureOrigin, HeadSpec

# Log depth beyond which exp is of no use: 0.1 mm to 3 km.
LOG_DEPTH_LIMITS = (-9.0, 8.0)
# A feature shorter than this has no direction.
LEAST_LENGTH = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """A head with its numbers.

    Attributes:
        spec: what it answers.
        weight: (K, D) float32; unit rows for prototypes.
        bias: (K,) float32; zero for prototypes.
        origin: the features that it reads.
    """

    spec: HeadSpec
    weight: NDArray[np.float32] = field(repr=False)
    bias: NDArray[np.float32] = field(repr=False)
    origin: FeatureOrigin

    def __post_init__(self) -> None:
        shapes = (self.spec.outputs, self.origin.dim), (self.spec.outputs,)
        if (self.weight.shape, self.bias.shape) != shapes:
            raise SpecError(
                f"a head of {self.spec.label} on {self.origin.dim} channels has a weight {shapes[0]} and a bias "
                f"{shapes[1]}; these are {self.weight.shape} and {self.bias.shape}"
            )
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise SpecError("the head has weights that are not finite; train it again")

    def __call__(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """The answer (n, K, h, w) of maps (n, D, h, w); in double precision, since it is the reference of others."""
        count, _, height, width = features.shape
        cells = features.astype(np.float64).reshape(count, self.origin.dim, -1)
        answer = self.weight.astype(np.float64) @ cells
        if self.spec.kind == "prototypes":
            answer /= np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), LEAST_LENGTH)
        answer += self.bias.astype(np.float64)[:, None]
        return answer.astype(np.float32).reshape(count, self.spec.outputs, height, width)

    def require_origin(self, origin: FeatureOrigin, name: str) -> None:
        """Refuse features of other weights.

        Args:
            origin: that the head shall read.
            name: of the head's file.

        Raises:
            SpecError: they are of another feature origin.
        """
        if self.origin.digest != origin.digest:
            raise SpecError(
                f"{name} reads other features ({self.origin}) than the model gives ({origin}); train it on these: "
                "brixel-eval ... --save-head"
            )


def classes_of(answer: NDArray[np.floating]) -> NDArray[np.int64]:
    """(h, w) numbers of the classes of an answer (h, w, K)."""
    return answer.argmax(axis=-1)


def depth_m_of(answer: NDArray[np.floating]) -> NDArray[np.float32]:
    """(h, w) metres of an answer (h, w, 1)."""
    return np.exp(np.clip(answer[..., 0].astype(np.float32), *LOG_DEPTH_LIMITS))


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Colours for classes that have none of their own: those of Pascal VOC, whose bits are those of the number.

    The first, black, is left out: it is for a background.
    """
    return tuple(voc_colour(number + 1) for number in range(count))


def voc_colour(number: int) -> Colour:
    """Pascal VOC's colour of a class: every third bit of the number goes to one channel, the lowest to the highest."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    return channels[0], channels[1], channels[2]


def pca_head(mean: NDArray[np.floating], covariance: NDArray[np.floating], outputs: int, origin: FeatureOrigin) -> Head:
    """The leading components of features, centred.

    Args:
        mean: (D,).
        covariance: (D, D).
        outputs: how many components.
        origin: of the features.

    Raises:
        SpecError: more components than channels.
    """
    if not 1 <= outputs <= origin.dim:
        raise SpecError(f"{outputs} components of {origin.dim} channels cannot be; give 1 to {origin.dim}")
    vectors = np.linalg.eigh(covariance.astype(np.float64))[1][:, ::-1][:, :outputs].T
    # Signs of eigenvectors are arbitrary; make them a rule, so that two runs give the same head.
    vectors = vectors * np.where(vectors.sum(axis=1, keepdims=True) < 0, -1, 1)
    return Head(
        spec=HeadSpec(kind="pca", outputs=outputs),
        weight=vectors.astype(np.float32),
        bias=(-vectors @ mean).astype(np.float32),
        origin=origin,
    )


def prototype_head(
    features: NDArray[np.floating], classes: tuple[str, ...], colours: tuple[Colour, ...], origin: FeatureOrigin
) -> Head:
    """One feature a class; the class of a cell is that of the feature that it is most like.

    Args:
        features: (K, D), of any length.
        classes: their K names.
        colours: of the classes.
        origin: of the features.

    Raises:
        SpecError: a feature without length, for instance of a class that occurs nowhere.
    """
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    if lengths.min() <= 0:
        lacking = ", ".join(name for name, length in zip(classes, lengths[:, 0], strict=True) if length <= 0)
        raise SpecError(f"no prototype of {lacking}: no cell of the training pictures is of it; leave the class out")
    return Head(
        spec=HeadSpec(kind="prototypes", outputs=len(classes), classes=classes, colours=colours),
        weight=(features / lengths).astype(np.float32),
        bias=np.zeros(len(classes), np.float32),
        origin=origin,
    )
