"""Settings of training and pretraining, as they stand in the YAML files.

Each class rejects unknown keys. Settings that contradict each other raise ValueError with a message for the person who
edits the YAML. Numbers that matter have no defaults here: they stand in `conf/base.yaml`.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, field_validator, model_validator

from features.core.date_ranges import DateRange, expand
from features.core.strict import Positive, Strict
from training.settings.types import Seconds, Weights


class DateSettings(Strict):
    """Which dates are learned from, and what each row of them counts."""

    as_of: list[dt.date] | DateRange = Field(description="training as-of dates: a list, or {from, to, every}")
    validation_as_of: dt.date = Field(description="as-of date of the validation loss, later than all of `as_of`")
    weights: Weights = Field(
        description="weight of an example: `equal`, or `by_user`: the examples of one member add up to 1"
    )

    @field_validator("as_of")
    @classmethod
    def _dates_increase(cls, value: list[dt.date] | DateRange) -> list[dt.date] | DateRange:
        if isinstance(value, list) and (not value or value != sorted(set(value))):
            raise ValueError("needs at least one date, ascending and without repetitions")
        return value

    @property
    def dates(self) -> tuple[dt.date, ...]:
        """Training as-of dates, ascending."""
        return expand(self.as_of) if isinstance(self.as_of, DateRange) else tuple(self.as_of)

    @property
    def all_dates(self) -> tuple[dt.date, ...]:
        """Training as-of dates and the validation date."""
        return (*self.dates, self.validation_as_of)


class StepSettings(Strict):
    """How the rows of one training step are shared by the ranks.

    `batch` says what `batch_size` counts. With `global` it is the rows of one step over all ranks: any number of ranks
    takes the same steps and ends in the same weights, so the learning rate does not depend on the ranks. With
    `per_rank` the rows of a step grow with the ranks, and the learning rate is scaled linearly with them after a
    gradual warm-up (Goyal et al., arXiv 1706.02677).
    """

    ranks: Positive = Field(le=4096, description="number of Horovod processes, each in one Spark task slot")
    shards: Positive = Field(
        le=65_536, description="number of files that the examples are staged in, a multiple of `ranks`"
    )
    batch: Literal["global", "per_rank"] = Field(
        description="whether `batch_size` counts the rows of all ranks (`global`) or of each rank (`per_rank`)"
    )
    batch_size: Positive = Field(le=1_048_576, description="rows of one training step, see `batch`")

    @property
    def global_batch(self) -> int:
        """Rows of one step over all ranks."""
        return self.batch_size * (self.ranks if self.batch == "per_rank" else 1)


class OptimiserSettings(Strict):
    """How long the network learns, how fast, and from which losses."""

    epochs: Positive = Field(le=10_000, description="most passes over the training rows")
    learning_rate: float = Field(gt=0, le=10, description="peak of the learning rate, for one rank")
    warmup_epochs: float = Field(
        ge=0, description="epochs in which the learning rate rises to its peak; then it falls to zero as a cosine"
    )
    weight_decay: float = Field(ge=0, le=1, description="decoupled weight decay of AdamW")
    average_decay: float = Field(
        ge=0,
        lt=1,
        description="decay per step of the moving average of the weights, which is validated and kept; 0: no average",
    )
    ensemble: Positive = Field(
        le=100, description="number of networks of different seeds whose probabilities are averaged"
    )
    patience: Positive = Field(description="epochs without a better validation loss after which training stops")
    auxiliary_weight: float = Field(
        ge=0, description="weight of each further loss (outcome value, `model.targets`) beside the tier's, which has 1"
    )
    mixed_precision: bool = Field(description="whether a GPU computes in bfloat16; weights stay float32")


class ReadingSettings(Strict):
    """How the examples are staged, and read again in each epoch."""

    vocabulary_size: Positive = Field(le=1_000_000, description="most values of a categorical channel that get a code")
    shuffle_rows: Positive = Field(description="rows of each shard's shuffle buffer")
    kept_rows: int = Field(
        ge=0, description="encoded rows of each split that a rank keeps in memory for the next epoch"
    )
    by_length: bool = Field(description="whether rows of similar length share a batch, which leaves less padding")
    row_group_rows: Positive = Field(description="rows of a row group in the staged parquet files, the unit of reading")
    prefetch_batches: Positive = Field(
        le=64, description="number of batches that are prepared while a training step runs"
    )
    labelled_share: float = Field(
        gt=0,
        le=1,
        description="share of the members, by a hash, whose outcomes are trained on; validation has all of them",
    )


class EncoderSettings(Strict):
    """Whether training starts from a pretrained encoder, and how that learns."""

    pretrained: str | None = Field(
        None, min_length=1, description="pretrained encoder to start from: `latest` or a version; unset: none"
    )
    encoder_rate: float = Field(
        ge=0, le=1, description="learning rate of a pretrained encoder as a share of `learning_rate`"
    )
    frozen_epochs: int = Field(ge=0, description="number of first epochs in which a pretrained encoder does not change")


class TeacherSettings(Strict):
    """How much, and by whom, the network is taught beside the outcomes."""

    teacher_weight: float = Field(
        ge=0,
        le=1,
        description="share of the tier's loss that compares with a teacher (LightGBM), not the outcome; 0: no teacher",
    )
    teacher_parts: int = Field(
        ge=2, le=100, description="number of parts of the members; each is taught by trees fitted to the other parts"
    )
    teacher_rows: Positive = Field(description="most rows of a split that the teacher is fitted to")


class TrainingSettings(
    TeacherSettings, EncoderSettings, ReadingSettings, OptimiserSettings, StepSettings, DateSettings
):
    """How a model is trained.

    Fields are ordered from the last base class to the first, then those below; `Settings.hash` depends on the order.
    """

    refit: bool = Field(
        description="whether the network is trained anew with the validation date among the training dates, once it is "
        "judged; the new network is published"
    )
    seed: int = Field(ge=0, lt=2**31, description="seed of weights, shards and shuffling")
    start_timeout_seconds: Seconds = Field(description="seconds to wait for the task slots of all ranks")
    network_interfaces: list[str] | None = Field(
        None, description="network interfaces that ranks use; unset: Horovod finds them"
    )

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
    def learned_dates(self) -> tuple[dt.date, ...]:
        """As-of dates of the rows that are learned from."""
        return self.all_dates if self.refit else self.dates

    @property
    def peak_learning_rate(self) -> float:
        """Learning rate at the end of the warm-up."""
        return self.learning_rate * (self.ranks if self.batch == "per_rank" else 1)


class PretrainingSettings(Strict):
    """How an encoder is pretrained on sequences alone. What is not set here is taken from `training`."""

    contrastive_weight: float = Field(ge=0, description="weight of the loss that compares slices of members")
    next_event_weight: float = Field(ge=0, description="weight of the loss of forecasting each next event")
    slices: int = Field(ge=2, le=64, description="number of slices drawn from each sequence in each step")
    least_events: int = Field(ge=2, description="least events of a slice; shorter sequences are left out")
    most_events: Positive = Field(description="most events of a slice")
    margin: float = Field(
        gt=0, le=2, description="least distance wanted between slices of different members (vectors of length 1)"
    )
    negatives: Positive = Field(
        description="number of nearest slices of other members that each slice is pushed away from"
    )
    epochs: Positive = Field(le=10_000, description="most passes over the sequences")
    batch_size: Positive = Field(le=1_048_576, description="sequences of one step, see `training.batch`")
    learning_rate: float = Field(gt=0, le=10, description="peak of the learning rate, for one rank")
    patience: Positive = Field(description="epochs without a better validation loss after which pretraining stops")
    version: str = Field(
        min_length=1,
        description="pretrained encoder whose embeddings `embed_users` writes: `latest` or a version",
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
        """Settings of the pretraining's loop; raises ValidationError if its batches cannot be shared by the shards."""
        changed = self.model_dump(include={"epochs", "batch_size", "learning_rate", "patience"})
        changed |= {"labelled_share": 1.0, "pretrained": None, "encoder_rate": 1.0, "frozen_epochs": 0, "ensemble": 1}
        changed |= {"teacher_weight": 0.0, "refit": False}
        changed["warmup_epochs"] = min(training.warmup_epochs, self.epochs)
        return TrainingSettings(**{**training.model_dump(by_alias=True), **changed})
