"""Typed settings of model, training, evaluation and scoring, as they stand in the YAML files.

Each class rejects unknown keys; a contradiction raises ValueError with a message for the person who edits the YAML.
Numbers that matter have no defaults here: they stand in `conf/base.yaml`, where everybody sees them.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, field_validator, model_validator

from features.core.date_ranges import DateRange, expand
from features.core.strict import Positive, Strict
from training.settings.types import Seconds, Weights


class TrainingSettings(Strict):
    """How a model is trained.

    `batch` says what `batch_size` counts. With `global` it is the rows of one step over all ranks: any number of ranks
    takes the same steps and ends in the same weights, so the learning rate does not depend on the ranks. With
    `per_rank` the rows of a step grow with the ranks, and the learning rate is scaled linearly with them after a
    gradual warm-up (Goyal et al., arXiv 1706.02677).
    """

    as_of: list[dt.date] | DateRange = Field(description="training as-of dates: a list, or {from, to, every}")
    validation_as_of: dt.date = Field(description="as-of date of the validation loss, later than all of `as_of`")
    weights: Weights = Field(
        description="what an example counts: `equal`, or `by_user`, where the dates of a member add up to 1"
    )
    ranks: Positive = Field(le=4096, description="Horovod processes, each in one Spark task slot")
    shards: Positive = Field(le=65_536, description="files the examples are staged in, a multiple of ranks")
    batch: Literal["global", "per_rank"] = Field(description="what batch_size counts")
    batch_size: Positive = Field(le=1_048_576, description="rows of one step, see `batch`")
    epochs: Positive = Field(le=10_000)
    learning_rate: float = Field(gt=0, le=10, description="peak of the schedule for one rank")
    warmup_epochs: float = Field(ge=0, description="epochs of linear rise to the peak; a cosine to zero follows")
    weight_decay: float = Field(ge=0, le=1, description="decoupled weight decay of AdamW")
    average_decay: float = Field(
        ge=0,
        lt=1,
        description="of the moving average of the weights that is validated and kept; 0: the weights themselves",
    )
    ensemble: Positive = Field(le=100, description="networks of different seeds whose probabilities are averaged")
    patience: Positive = Field(description="epochs without a better validation loss after which training stops")
    auxiliary_weight: float = Field(
        ge=0,
        description="weight of each loss beside the tier's: Huber on log1p of the outcome value, and model.targets",
    )
    mixed_precision: bool = Field(description="bfloat16 arithmetic where a GPU is used; weights stay float32")
    vocabulary_size: Positive = Field(le=1_000_000, description="most codes of a categorical channel")
    shuffle_rows: Positive = Field(description="rows of each shard's shuffle buffer")
    kept_rows: int = Field(ge=0, description="encoded rows of each split that a rank keeps for the next epoch")
    by_length: bool = Field(description="put rows of similar length into a batch, which leaves less padding")
    row_group_rows: Positive = Field(description="rows of a staged parquet row group, the unit of reading")
    prefetch_batches: Positive = Field(le=64, description="batches prepared beside the running step")
    labelled_share: float = Field(
        gt=0, le=1, description="share of the users, by a hash, whose outcomes are trained on; validation has all"
    )
    pretrained: str | None = Field(
        None, min_length=1, description="`latest` or the version of a pretrained encoder to start from; unset: none"
    )
    encoder_rate: float = Field(
        ge=0, le=1, description="learning rate of a pretrained encoder as a share of the others'"
    )
    frozen_epochs: int = Field(ge=0, description="first epochs in which a pretrained encoder stays as it is")
    teacher_weight: float = Field(
        ge=0,
        le=1,
        description="share of the tier's loss that follows a teacher (LightGBM), not what came true; 0: no teacher",
    )
    teacher_parts: int = Field(ge=2, le=100, description="parts of the members, each taught by what the others taught")
    teacher_rows: Positive = Field(description="most rows of a split that the teacher is fitted to")
    refit: bool = Field(
        description="train anew with the validation date among the training dates once it has chosen the epoch and the "
        "model is judged; that network is published"
    )
    seed: int = Field(ge=0, lt=2**31, description="of weights, shards and shuffling")
    start_timeout_seconds: Seconds = Field(description="how long to wait for task slots of all ranks")
    network_interfaces: list[str] | None = Field(None, description="interfaces ranks talk over; unset: found out")

    @field_validator("as_of")
    @classmethod
    def _dates_increase(cls, value: list[dt.date] | DateRange) -> list[dt.date] | DateRange:
        if isinstance(value, list) and (not value or value != sorted(set(value))):
            raise ValueError("needs at least one date, ascending and without repetitions")
        return value

    @model_validator(mode="after")
    def _numbers_agree(self) -> TrainingSettings:
        problems = []
        if self.validation_as_of <= self.dates[-1]:
            problems.append(
                f"validation_as_of {self.validation_as_of} must be later than the last training date {self.dates[-1]}"
            )
        if self.shards % self.ranks:
            problems.append(f"shards {self.shards} must be a multiple of ranks {self.ranks}")
        if self.global_batch % self.shards:
            problems.append(f"the rows of a step, {self.global_batch}, must be a multiple of shards {self.shards}")
        if self.warmup_epochs > self.epochs:
            problems.append(f"warmup_epochs {self.warmup_epochs} must not exceed epochs {self.epochs}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """Training as-of dates, ascending."""
        return expand(self.as_of) if isinstance(self.as_of, DateRange) else tuple(self.as_of)

    @property
    def all_dates(self) -> tuple[dt.date, ...]:
        """Training as-of dates and the validation date."""
        return (*self.dates, self.validation_as_of)

    @property
    def learned_dates(self) -> tuple[dt.date, ...]:
        """As-of dates of the rows that are learned from."""
        return self.all_dates if self.refit else self.dates

    @property
    def global_batch(self) -> int:
        """Rows of one step over all ranks."""
        return self.batch_size * (self.ranks if self.batch == "per_rank" else 1)

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate at the end of the warm-up."""
        return self.learning_rate * (self.ranks if self.batch == "per_rank" else 1)


class PretrainingSettings(Strict):
    """How an encoder is pretrained on sequences alone; what is not said here is as under `training`."""

    contrastive_weight: float = Field(ge=0, description="weight of the loss that compares slices of members")
    next_event_weight: float = Field(ge=0, description="weight of the loss of the forecast of each next event")
    slices: int = Field(ge=2, le=64, description="slices drawn of each sequence in each step")
    least_events: int = Field(ge=2, description="least events of a slice; shorter sequences are left out")
    most_events: Positive = Field(description="most events of a slice")
    margin: float = Field(gt=0, le=2, description="distance that slices of different members should have, of at most 2")
    negatives: Positive = Field(description="nearest slices of other members that each slice is pushed away from")
    epochs: Positive = Field(le=10_000)
    batch_size: Positive = Field(le=1_048_576, description="sequences of one step, see training.batch")
    learning_rate: float = Field(gt=0, le=10, description="peak of the schedule for one rank")
    patience: Positive = Field(description="epochs without a better validation loss after which it stops")
    version: str = Field(
        min_length=1, description="`latest` or a version: the pretrained encoder whose embeddings embed_users writes"
    )

    @model_validator(mode="after")
    def _something_is_learned(self) -> PretrainingSettings:
        problems = []
        if not self.contrastive_weight and not self.next_event_weight:
            problems.append("contrastive_weight and next_event_weight are both 0, which learns nothing: raise one")
        if self.most_events < self.least_events:
            problems.append(f"most_events {self.most_events} must not be below least_events {self.least_events}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def of(self, training: TrainingSettings) -> TrainingSettings:
        """The settings of the pretraining's loop; raises ValidationError if its batches cannot be shared by shards."""
        changed = self.model_dump(include={"epochs", "batch_size", "learning_rate", "patience"})
        changed |= {"labelled_share": 1.0, "pretrained": None, "encoder_rate": 1.0, "frozen_epochs": 0, "ensemble": 1}
        changed |= {"teacher_weight": 0.0, "refit": False}
        changed["warmup_epochs"] = min(training.warmup_epochs, self.epochs)
        return TrainingSettings(**{**training.model_dump(by_alias=True), **changed})
