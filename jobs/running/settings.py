"""All settings of a job: YAML files merged in order, overridden by --set, validated once, before Spark starts."""

from __future__ import annotations

import fnmatch
import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from features.core.contract import Contract
from features.ingest.typed_rows import IngestSpec
from features.kernel.aggregate_spec import AggregateSpec
from features.kernel.aggregates import aggregate_columns
from features.kernel.sequences import SequenceSpec
from features.settings.members import Features, Horizon, SequenceSettings, Tiers, contract_of
from features.settings.source import EVENT_COLUMNS, Events, Groups, Pseudonyms, Quality, Source
from features.settings.storage import SparkSettings, Storage
from training.judging.drift import PREDICTED_TIER, feature_names
from training.models.settings import ModelSettings
from training.settings.fitting import PretrainingSettings, TrainingSettings
from training.settings.judging import CalibrationSettings, EvaluationSettings, FairnessSettings, GateSettings
from training.settings.scoring import ExplanationSettings, ScoringSettings


class Fairness(FairnessSettings):
    """Groups, and how the model's treatment of them is judged."""

    groups: Groups | None = None


class Settings(BaseModel):
    """Everything that the YAML files may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Source
    events: Events
    tiers: Tiers
    horizon: Horizon
    features: Features
    sequence: SequenceSettings
    quality: Quality
    known_by: Literal["event_time", "ingested_at"] = Field(
        description="which events a date knows: those that had happened, or of them those that had also arrived"
    )
    storage: Storage
    pseudonyms: Pseudonyms
    spark: SparkSettings
    model: ModelSettings
    training: TrainingSettings
    pretraining: PretrainingSettings
    calibration: CalibrationSettings
    gate: GateSettings
    evaluation: EvaluationSettings
    fairness: Fairness
    scoring: ScoringSettings
    explanation: ExplanationSettings

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        names = [*self.contract.aggregates, *self.contract.array_columns]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"event types, windows and attributes make two columns of one name: {twice}; rename one")
        return self

    @model_validator(mode="after")
    def _targets_are_known(self) -> Settings:
        unknown = [name for name in self.model.targets if name not in self.horizon.targets]
        if unknown:
            raise ValueError(
                f"model.targets {unknown} are not in horizon.targets {list(self.horizon.targets)}: outcomes would not "
                "say what became of them"
            )
        return self

    @model_validator(mode="after")
    def _pretraining_shares_its_batches(self) -> Settings:
        try:
            self.pretraining.of(self.training)
        except ValidationError as error:
            raise ValueError("pretraining: " + "; ".join(e["msg"] for e in error.errors())) from None
        return self

    @model_validator(mode="after")
    def _groups_are_no_features(self) -> Settings:
        groups = self.fairness.groups.attributes if self.fairness.groups else []
        features = {*self.source.attributes, *EVENT_COLUMNS, *self.contract.aggregates}
        both = [name for name in groups if name in features]
        if both:
            raise ValueError(
                f"fairness.groups.attributes {both} are features too: a group is for evaluation only; take it out of "
                "the source's query and source.attributes, or out of fairness.groups"
            )
        return self

    @model_validator(mode="after")
    def _expected_features_exist(self) -> Settings:
        names = (*feature_names(self.contract), PREDICTED_TIER)
        unknown = [p for p in self.gate.drift.expected if not fnmatch.filter(names, p)]
        if unknown:
            raise ValueError(f"gate.drift.expected: {unknown} match no feature; there are {', '.join(names)}")
        return self

    @property
    def ingest(self) -> IngestSpec:
        """What ingest depends on."""
        return IngestSpec(self.source, self.events)

    @property
    def aggregates(self) -> AggregateSpec:
        """What rollup and aggregates depend on."""
        return AggregateSpec(
            tuple(self.features.windows_days), tuple(self.events.types), self.events.purchase_type, self.tiers.rule()
        )

    @property
    def contract(self) -> Contract:
        """The contract of `sequences`."""
        columns = tuple(aggregate_columns(self.aggregates))
        return contract_of(self.source, self.tiers, self.sequence, self.horizon, self.known_by, columns)

    @property
    def sequences(self) -> SequenceSpec:
        """What rows of `sequences` depend on."""
        return SequenceSpec(self.contract, self.aggregates)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of all settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]
