"""Typed settings of model, training, evaluation and scoring, as they stand in the YAML files.

Each class rejects unknown keys; a contradiction raises ValueError with a message for the person who edits the YAML.
Numbers that matter have no defaults here: they stand in `conf/base.yaml`, where everybody sees them.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from features.contract import TARGET, VALUE
from training.models import REGISTRY, parameters_class
from training.weights import Weights

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[int, Field(ge=1, le=86_400)]
Measure = Literal["selection_rate", "upgrade_recall", "accuracy", "calibration_gap"]
_STEP = re.compile(r"^([1-9][0-9]*)(mo|w|d)$")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Strict):
    """Which network, and its sizes."""

    name: str = Field(description="a name of training.models.REGISTRY")
    parameters: dict[str, int | float | str | bool] = Field(
        {}, description="the model's own parameters, if not default"
    )
    targets: tuple[Annotated[str, Field(pattern=TARGET)], ...] = Field(
        (), description="of `horizon.targets`, those that the network learns to forecast beside the tier"
    )

    @model_validator(mode="after")
    def _parameters_fit_the_model(self) -> ModelSettings:
        if self.name not in REGISTRY:
            raise ValueError(f"there is no model {self.name!r}; there are {sorted(REGISTRY)}")
        try:
            parameters_class(self.name)(**self.parameters)
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, e['loc'])) or self.name}: {e['msg']}" for e in error.errors())
            raise ValueError(f"parameters of model {self.name!r}: {found}") from None
        return self

    def resolved(self) -> dict[str, Any]:
        """All parameters of the model, defaults included."""
        return parameters_class(self.name)(**self.parameters).model_dump()


class DateRange(_Strict):
    """Dates from `from` to `to`, both included, one `every` step."""

    from_: dt.date = Field(alias="from", description="first as-of date")
    to: dt.date = Field(description="no as-of date after this one")
    every: str = Field(pattern=_STEP.pattern, description="step: 1mo, 2w, 7d")

    @model_validator(mode="after")
    def _not_empty(self) -> DateRange:
        if self.to < self.from_:
            raise ValueError(f"`to` {self.to} lies before `from` {self.from_}")
        return self


def expand(dates: DateRange) -> tuple[dt.date, ...]:
    """Every date of a range, ascending. Month steps keep the day of `from`, or take a shorter month's last day."""
    every, step = [], 0
    while (date := stepped(dates.from_, dates.every, step)) <= dates.to:
        every.append(date)
        step += 1
    return tuple(every)


def stepped(date: dt.date, every: str, times: int) -> dt.date:
    """The date so many steps (`1mo`, `2w`, `7d`) later, or earlier for less than 0 of them."""
    found = _STEP.match(every)
    assert found is not None  # the settings checked it
    count, unit = int(found[1]) * times, found[2]
    if unit != "mo":
        return date + dt.timedelta(days=count * (7 if unit == "w" else 1))
    years, month = divmod(date.month - 1 + count, 12)
    year = date.year + years
    return dt.date(year, month + 1, min(date.day, calendar.monthrange(year, month + 1)[1]))


class TrainingSettings(_Strict):
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


class PretrainingSettings(_Strict):
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


class CalibrationSettings(_Strict):
    """How probabilities are mended after training, on the validation date."""

    method: Literal["none", "temperature", "vector"] = Field(
        description="vector: a temperature and a shift per outcome tier; temperature: the one alone"
    )
    least_rows: Positive = Field(description="a current tier with fewer validation rows is mended like all together")


class DriftBounds(_Strict):
    """What a feature may shift; beyond either figure it is too far."""

    psi: float = Field(ge=0, description="population stability index")
    distance: float = Field(ge=0, description="Wasserstein distance in standard deviations of the training rows")


class DriftSettings(_Strict):
    """How members of a date are compared with the training rows."""

    bins: int = Field(ge=2, le=1000, description="bins of equally many training rows")
    sample_rows: Positive = Field(le=1_000_000, description="most rows that each side is counted on")
    warning: DriftBounds = Field(description="beyond them a note, when a model is judged and when it scores")
    refusal: DriftBounds = Field(description="beyond them a model is refused; scoring warns")
    expected: list[str] = Field([], description="features that shift by nature, `*` for any text: they refuse nothing")

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DriftSettings:
        for name in ("psi", "distance"):
            low, high = getattr(self.warning, name), getattr(self.refusal, name)
            if high < low:
                raise ValueError(f"refusal.{name} {high:g} lies below warning.{name} {low:g}")
        return self


class GateSettings(_Strict):
    """When a trained model is published, that is, named by `latest`."""

    better_than_markov: float = Field(
        description="by how much its logloss must be below that of the tiers' Markov chain"
    )
    worse_than_published: float = Field(
        description="by how much its logloss may be above that of the published model on the same rows"
    )
    calibration_error: float = Field(ge=0, le=1, description="largest calibration error of the members of a tier")
    least_members: Positive = Field(description="members that a tier needs before it can refuse a model")
    drift: DriftSettings = Field(description="between the training rows and the date it is judged on")


class FoldSettings(_Strict):
    """How often, and by how much, `cross_validate` moves all dates back."""

    count: Positive = Field(description="folds, the first of which has the dates of the settings")
    every: str = Field(pattern=_STEP.pattern, description="how far apart: 1mo, 2w, 7d")


class EvaluationSettings(_Strict):
    """On which date and how a model is judged."""

    as_of: dt.date = Field(description="as-of date whose outcomes no training window overlaps")
    max_users: Positive = Field(description="most users whose forecasts are brought to the driver")
    calibration_bins: int = Field(ge=2, le=1000, description="equal-mass bins of the calibration error")
    challengers: list[Literal["logistic", "forest", "lightgbm", "bg_nbd"]] = Field(
        description="models fitted to the aggregates, to be beaten on the same members"
    )
    lightgbm_trials: Positive = Field(le=10_000, description="shapes of trees that LightGBM tries; each takes two fits")
    challenger_rows: Positive = Field(description="most training rows, and validation rows, that they are fitted on")
    bootstrap_draws: int = Field(ge=0, le=100_000, description="samples behind each interval; 0: no intervals")
    folds: FoldSettings = Field(description="rolling-origin cross-validation")


class DisparityBounds(_Strict):
    """How far the groups of an attribute may be apart in one figure."""

    warning: float = Field(ge=0, description="beyond it a warning")
    refusal: float | None = Field(ge=0, description="beyond it the evaluation refuses the model; null: never")

    @model_validator(mode="after")
    def _refusal_is_further(self) -> DisparityBounds:
        if self.refusal is not None and self.refusal < self.warning:
            raise ValueError(f"refusal {self.refusal:g} lies below warning {self.warning:g}")
        return self


class FairnessSettings(_Strict):
    """How a model's treatment of groups is judged, where groups are known."""

    contacted: float = Field(gt=0, lt=1, description="share of the members below the top tier who are contacted first")
    smallest_group: Positive = Field(description="groups of fewer members are not shown, nor judged")
    least_members: int = Field(ge=2, description="members that a figure of a group must rest on")
    draws: Positive = Field(le=100_000, description="samples behind each interval, and behind what chance explains")
    bounds: dict[Measure, DisparityBounds] = Field(
        description="by figure; one that is left out is shown and not judged"
    )


class ExplanationSettings(_Strict):
    """How the reasons of a forecast are found and said."""

    pieces: Positive = Field(le=256, description="pieces that the way from the average member is cut into at first")
    points: Positive = Field(le=64, description="points of each piece at which slopes are taken")
    most_cuts: int = Field(
        ge=0, le=20, description="times that pieces may be halved where reasons miss over 2 % of what they explain"
    )
    reasons: Positive = Field(description="reasons kept of each member and direction")
    sample_members: Positive = Field(
        le=100_000, description="members from whom averages and the overall explanation are taken"
    )
    least_members: Positive = Field(description="a tier with fewer in the sample is compared with all members' average")
    repeats: Positive = Field(le=100, description="times that each reason's inputs are exchanged to see what is lost")
    shown_members: int = Field(ge=0, le=9, description="members whose timeline the report shows, without any id")
    recent_days: Positive = Field(description="events up to this old are recent ones")
    wording: dict[str, str] = Field({}, description="reason code to the words that people read")

    def words(self, reason: str) -> str:
        """The reason as people read it."""
        return self.wording.get(reason, reason.replace("_", " "))


class ScoringSettings(_Strict):
    """Which bundle scores, and in what portions."""

    model_version: str = Field(min_length=1, description="`latest`, or the version of a bundle")
    rows_per_range: Positive = Field(
        le=1_000_000, description="members that one task holds at once; the more, the fewer empty rows in calls"
    )
    model_rows: Positive = Field(le=65_536, description="rows of one call of the network")
    padding: float = Field(ge=0, le=0.9, description="largest share of padding in a row that the network sees")
    xla: bool = Field(description="compile the network for each padded width: pays from about a million users on")
    outputs: tuple[Annotated[str, Field(pattern=f"^{VALUE}$|{TARGET}")], ...] = Field(
        (), description="what else of the network enters `scores`: `value`, or names of model.targets"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="what the network computes in; the weights and the probabilities stay float32"
    )
