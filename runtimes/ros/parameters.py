"""What a node can be told, before it is configured and while it runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from brixel_edge.errors import SpecError
from brixel_edge.image.fit import Fit
from brixel_edge.runtimes.ros.wire.transport import Reliability

DTYPES = ("float16", "float32")


@dataclass(frozen=True, kw_only=True)
class NodeParameters:
    """Parameters of a node; those that are not in `FIXED` may change while it runs.

    Attributes:
        model: model directory or graph; empty is the built-in one.
        backend: as in `open_model`.
        fit: as in `open_model`.
        image_topic: what is subscribed to.
        camera_info_topic: its calibration.
        depth: images that wait; 1 keeps the newest.
        image_reliability: of the subscription; best effort hears every publisher.
        output_reliability: of what is published; reliable is heard by every subscriber.
        max_age_ms: images that are older when their turn comes are dropped [ms]; 0 for no bound.
        preview: publish colours.
        similarity: publish the cosine to what is asked for.
        segments: publish where it is.
        matches: publish names, scores, points and boxes as text (JSON).
        camera_info: publish the calibration of the grid, where the camera publishes its own.
        features: publish the features themselves, which are large.
        feature_dtype: of those.
        prototypes: a `.prototypes` file to ask for.
        query: `x,y`, a pixel of the next image to ask for; empty asks for nothing.
        threshold: cosine from which on a cell belongs to the query; 0 takes what its own map suggests.
        only_subscribed: make only what somebody subscribes to.
    """

    model: str = ""
    backend: str = "auto"
    fit: Fit = "stretch"
    image_topic: str = "/image"
    camera_info_topic: str = "/camera_info"
    depth: int = 1
    image_reliability: Reliability = "best_effort"
    output_reliability: Reliability = "reliable"
    max_age_ms: float = 500.0
    preview: bool = True
    similarity: bool = True
    segments: bool = True
    matches: bool = True
    camera_info: bool = True
    features: bool = False
    feature_dtype: str = "float16"
    prototypes: str = ""
    query: str = ""
    threshold: float = 0.0
    only_subscribed: bool = True

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise SpecError(f"depth {self.depth} is not at least 1; 1 keeps the newest image alone")
        for name, kind in (("fit", Fit), ("image_reliability", Reliability), ("output_reliability", Reliability)):
            if getattr(self, name) not in get_args(kind):
                raise SpecError(f"{name} {getattr(self, name)!r} is not one of {', '.join(get_args(kind))}")
        if not 0 <= self.max_age_ms < math.inf:
            raise SpecError(f"max_age_ms {self.max_age_ms:g} is no age; give milliseconds, or 0 for no bound")
        if not -1 <= self.threshold <= 1:
            raise SpecError(f"threshold {self.threshold:g} is no cosine; give one from -1 to 1")
        if self.feature_dtype not in DTYPES:
            raise SpecError(f"feature_dtype {self.feature_dtype!r} is not one of {', '.join(DTYPES)}")
        self.point  # noqa: B018 - refused now and not at the next image

    @property
    def point(self) -> tuple[float, float] | None:
        """(x, y) of the query [px]; None without one.

        Raises:
            SpecError: it cannot be read.
        """
        if not self.query:
            return None
        try:
            x, y = (float(part) for part in self.query.split(","))
        except ValueError:
            raise SpecError(f"query {self.query!r} is not x,y in pixels; for instance 320,240") from None
        return x, y

    def changed(self, changes: Mapping[str, Any]) -> NodeParameters:
        """With other values; text is read as what the parameter is.

        Raises:
            SpecError: no such parameter, or no such value.
        """
        defaults = {entry.name: entry.default for entry in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - set(defaults)):
            raise SpecError(f"no parameter {unknown[0]!r}; there are {', '.join(defaults)}")
        values = {name: _value(name, value, defaults[name]) for name, value in changes.items()}
        return dataclasses.replace(self, **values)


FIXED = frozenset(
    {
        "model", "backend", "fit", "image_topic", "camera_info_topic", "depth", "image_reliability",
        "output_reliability",
    }
)  # fmt: skip


def _value(name: str, value: Any, default: Any) -> Any:
    """Of the type of the parameter's default.

    Raises:
        SpecError: it is not.
    """
    kind = type(default)
    if kind is bool and isinstance(value, str):
        if value.lower() not in ("true", "false"):
            raise SpecError(f"{name} is true or false, not {value!r}")
        return value.lower() == "true"
    if kind is bool and not isinstance(value, bool):
        raise SpecError(f"{name} is true or false, not {value!r}")
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise SpecError(f"{name} is a {kind.__name__}, not {value!r}") from None


def assignment(text: str) -> tuple[str, str]:
    """`threshold=0.7` as name and value.

    Raises:
        SpecError: it is none.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SpecError(f"{text!r} sets nothing; for instance threshold=0.7")
    return name.strip(), value.strip()
