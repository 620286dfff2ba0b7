"""What a head's answer means, and which features it reads.

Its numbers are in `head`; here is no numpy, so that --help needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from brixel_edge.errors import SpecError

HeadKind = Literal["segmentation", "depth", "pca", "prototypes"]
Colour = tuple[int, int, int]  # R, G, B
WITH_CLASSES: tuple[HeadKind, ...] = ("segmentation", "prototypes")


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a graph's answer is.

    Attributes:
        kind: `segmentation`: logits of classes; `depth`: the logarithm of metres; `pca`: components; `prototypes`:
            cosines to one feature a class.
        outputs: K, the channels of the answer.
        classes: their names, where there are classes.
        colours: of the classes, (R, G, B).
        keeps_features: the graph gives the features beside the answer.
    """

    kind: HeadKind
    outputs: int
    classes: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    keeps_features: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise SpecError(f"head {self.kind!r} is not one of {', '.join(get_args(HeadKind))}")
        wanted = self.outputs if self.has_classes else 0
        if self.outputs < 1 or (self.kind == "depth" and self.outputs != 1):
            raise SpecError(f"a head of {self.kind} cannot have {self.outputs} outputs")
        if len(self.classes) != wanted or len(self.colours) != wanted:
            raise SpecError(
                f"a head of {self.kind} with {self.outputs} outputs needs {wanted} class names and colours, not "
                f"{len(self.classes)} and {len(self.colours)}"
            )
        if any(len(colour) != 3 or not 0 <= min(colour) <= max(colour) <= 255 for colour in self.colours):
            raise SpecError(f"class colours must be three numbers of 0 to 255 each; these are {self.colours[:3]} ...")

    @property
    def has_classes(self) -> bool:
        """Whether the largest channel of a cell names its class."""
        return self.kind in WITH_CLASSES

    @property
    def is_linear(self) -> bool:
        """Whether it can be folded into a linear layer before it."""
        return self.kind != "prototypes"

    @property
    def label(self) -> str:
        """For people: `11 classes`, `depth`, `8 components`, `5 prototypes`."""
        names = {"segmentation": "classes", "pca": "components", "prototypes": "prototypes"}
        return "depth" if self.kind == "depth" else f"{self.outputs} {names[self.kind]}"


@dataclass(frozen=True, kw_only=True)
class FeatureOrigin:
    """Which features a head was made for: those of these weights, at whatever image size.

    Attributes:
        digest: of everything that decides a feature: weights, tapped layers, mean and std.
        backbone: its name, for people, as are the next ones.
        adapter: kind.
        dim: D.
        tap_layers: that are read.
    """

    digest: str
    backbone: str
    adapter: str
    dim: int
    tap_layers: tuple[int, ...]

    def __str__(self) -> str:
        layers = ",".join(map(str, self.tap_layers))
        adapter = "no adapter" if self.adapter == "none" else f"adapter {self.adapter}"
        return f"{self.backbone}, {adapter}, layers {layers}, {self.dim} channels, weights {self.digest[:8]}"
