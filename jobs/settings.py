"""All settings of a job: YAML files merged in order, overridden by --set, validated once, before Spark starts."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from features import settings as fs
from features.aggregates import aggregate_columns
from features.contract import Contract
from features.errors import SettingsError
from features.ingest import IngestSpec
from features.sequences import SequenceSpec
from features.totals import AggregateSpec
from training import settings as ts
from training.drift import PREDICTED_TIER, feature_names


class Fairness(ts.FairnessSettings):
    """Groups, and how the model's treatment of them is judged."""

    groups: fs.Groups | None = None


class Settings(BaseModel):
    """Everything that the YAML files may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: fs.Source
    events: fs.Events
    tiers: fs.Tiers
    horizon: fs.Horizon
    features: fs.Features
    sequence: fs.Sequence
    quality: fs.Quality
    known_by: Literal["event_time", "ingested_at"]
    storage: fs.Storage
    pseudonyms: fs.Pseudonyms
    spark: fs.SparkSession
    model: ts.ModelSettings
    training: ts.TrainingSettings
    pretraining: ts.PretrainingSettings
    calibration: ts.CalibrationSettings
    gate: ts.GateSettings
    evaluation: ts.EvaluationSettings
    fairness: Fairness
    scoring: ts.ScoringSettings
    explanation: ts.ExplanationSettings

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
        features = {*self.source.attributes, *fs.EVENT_COLUMNS, *self.contract.aggregates}
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
        return fs.contract_of(self.source, self.tiers, self.sequence, self.horizon, self.known_by, columns)

    @property
    def sequences(self) -> SequenceSpec:
        """What rows of `sequences` depend on."""
        return SequenceSpec(self.contract, self.aggregates)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of all settings."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]


def load(paths: Sequence[str], overrides: Sequence[str] = ()) -> Settings:
    """Read, merge and validate.

    Args:
        paths: YAML files; a later one wins, mappings are merged key by key.
        overrides: `key.path=value`, the value in YAML.

    Raises:
        SettingsError: every mistake with the key's path, the value and what is allowed.
    """
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _read(Path(path), ()))
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(list(_describe(error))) from None


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise SettingsError([f"{path} extends itself: {' -> '.join(p.name for p in (*seen, path))}"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"cannot read {path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(content, dict):
        raise SettingsError([f"{path} must hold a mapping of settings, not {type(content).__name__}"])
    parents = content.pop("extends", [])
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = _merge(merged, _read(path.parent / parent, (*seen, path.resolve())))
    return _merge(merged, content)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SettingsError([f"--set {text!r}: write it as key.path=value"])
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError([f"--set {text!r}: {value!r} is not YAML"]) from None
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return dict(tree)


def _describe(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"]) or "settings"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            yield f"{where}: unknown key; remove it or mend its spelling"
        elif mistake["type"] in ("missing", "value_error"):
            yield f"{where}: {message}"
        else:
            yield f"{where}: {message}, got {mistake['input']!r}"
