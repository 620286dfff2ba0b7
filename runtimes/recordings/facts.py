"""Which model a recording is of."""

from __future__ import annotations

import json
from dataclasses import dataclass

from brixel_edge.errors import BundleError
from brixel_edge.model.feature_space import FeatureSpace
from brixel_edge.model.json_form import fields_from_json, fields_to_json
from brixel_edge.model.spec import ModelSpec

METADATA_NAME = "brixel-edge"


@dataclass(frozen=True, kw_only=True)
class RecordedModel:
    """The model whose features are recorded.

    Attributes:
        feature_space: of its features; what is of another may not be mixed with them.
        spec: what it is.
        engine: file that ran.
        precision: of that file.
        backend: that ran it.
    """

    feature_space: FeatureSpace
    spec: ModelSpec
    engine: str
    precision: str
    backend: str

    @property
    def name(self) -> str:
        """Of its directory or file."""
        return self.feature_space.model

    def to_metadata(self) -> dict[str, str]:
        """As the record `brixel-edge` of a recording."""
        return {
            "model": self.name,
            "feature_space": json.dumps(fields_to_json(self.feature_space)),
            "engine": self.engine,
            "precision": self.precision,
            "backend": self.backend,
            "spec": json.dumps(self.spec.to_json()),
            "spec_digest": self.spec.digest,
        }

    @classmethod
    def from_metadata(cls, record: dict[str, str]) -> RecordedModel:
        """Read what `to_metadata` wrote.

        Raises:
            BundleError: it is something else.
        """
        try:
            return cls(
                feature_space=fields_from_json(FeatureSpace, json.loads(record["feature_space"])),
                spec=ModelSpec.from_json(json.loads(record["spec"])),
                engine=record["engine"],
                precision=record["precision"],
                backend=record["backend"],
            )
        except (KeyError, ValueError) as error:
            raise BundleError(f"its record {METADATA_NAME!r} cannot be read ({error})") from error
