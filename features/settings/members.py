"""Settings of tiers, sequences, window features and the horizon, and the contract that follows from them.

Cross-checks raise ValueError with a message for the person who edits the YAML; `jobs.running.settings` gathers all of
them before Spark starts.
"""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from features.core.contract import TARGET, Contract, tier_days
from features.core.strict import Days, Name, Positive, Strict
from features.kernel.tiers import MEASURES, TierRule, decimal_to_steps
from features.settings.source import Source


class TierLevel(Strict):
    """One tier; the first has no thresholds."""

    name: Name = Field(description="the tier's name, as it stands in the tables")
    from_: dict[Literal["spend", "purchases", "points"], Decimal] = Field(
        {},
        alias="from",
        description="least spend, purchases or points within the window; the same measures in each tier",
    )
    benefits: list[str] = Field(default_factory=list, description="what members of the tier get, in words")


class Tiers(Strict):
    """The tier rule and what each tier gives its members."""

    window_days: Days = Field(description="days up to the as-of date whose events decide the tier")
    combine: Literal["all_of", "any_of"] = Field(
        "all_of", description="whether a tier asks for all of its thresholds or for any one of them"
    )
    points: str | None = Field(None, description="SQL expression over an event that gives its points")
    levels: list[TierLevel] = Field(min_length=2, description="the tiers, lowest first")

    @model_validator(mode="after")
    def _levels_make_a_rule(self) -> Tiers:
        problems = [*self._name_problems(), *self._threshold_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_problems(self) -> list[str]:
        names = [level.name for level in self.levels]
        problems = [f"tier name {n!r} stands more than once" for n in sorted({n for n in names if names.count(n) > 1})]
        # p_upgrade and p_downgrade of `scores` are no tiers.
        return problems + [f"a tier cannot be named {n!r}" for n in names if n in ("upgrade", "downgrade")]

    def _threshold_problems(self) -> list[str]:
        first, *others = self.levels
        problems = [f"the first tier {first.name!r} takes every member: remove its `from`"] if first.from_ else []
        measures = set(others[0].from_)
        if not measures:
            return [*problems, f"tier {others[0].name!r} needs thresholds, such as `from: {{spend: 250}}`"]
        if "points" in measures and not self.points:
            problems.append("a threshold on points needs `points`, an SQL expression over the event")
        for level in others:
            if set(level.from_) != measures:
                problems.append(f"tier {level.name!r} has thresholds on {sorted(level.from_)}, not {sorted(measures)}")
        for measure in MEASURES:
            limits = [(level.name, level.from_[measure]) for level in others if measure in level.from_]
            problems += self._order_problems(measure, limits)
        return problems

    @staticmethod
    def _order_problems(measure: str, limits: list[tuple[str, Decimal]]) -> list[str]:
        problems = []
        for name, limit in limits:
            try:
                decimal_to_steps(measure, limit)
            except ValueError as error:
                problems.append(f"tier {name!r}: {error}")
        if limits and limits[0][1] <= 0:
            problems.append(f"tier {limits[0][0]!r}: {measure} from {limits[0][1]} must be above 0")
        for (below, low), (above, high) in itertools.pairwise(limits):
            if high <= low:
                problems.append(
                    f"thresholds must increase: {measure} from {high} of {above!r} is not above {low} of {below!r}"
                )
        return problems

    def rule(self) -> TierRule:
        """The rule that these settings describe."""
        others = self.levels[1:]
        measures = [m for m in MEASURES if m in others[0].from_]
        return TierRule(
            names=tuple(level.name for level in self.levels),
            window_days=self.window_days,
            combination=self.combine,
            thresholds={m: tuple(decimal_to_steps(m, level.from_[m]) for level in others) for m in measures},
            points=self.points if "points" in measures else None,
        )


class SequenceSettings(Strict):
    """How long sequences are, and how the work of building them is divided."""

    length: Positive = Field(le=4096, description="events kept of each member, the latest ones")
    rows_per_range: Positive = Field(
        description="events that one task holds at once, about; its memory grows with this"
    )
    dates_per_pass: Positive = Field(description="as-of dates that are built in one reading of the events")
    keep_days: Positive | None = Field(
        None,
        description="days before the date of compact from which on sequences are dropped, to be built again when "
        "needed; unset: all are kept",
    )


class Features(Strict):
    """The aggregates of each member."""

    windows_days: list[Days] = Field(
        min_length=1, description="windows before the as-of date over which events are summed, in days, ascending"
    )

    @model_validator(mode="after")
    def _increasing(self) -> Features:
        if self.windows_days != sorted(set(self.windows_days)):
            raise ValueError(f"windows_days must increase, without repetitions: {self.windows_days}")
        return self


class Horizon(Strict):
    """The outcome window: it starts at the as-of date, and the tier that its events reach is forecast."""

    days: Days = Field(description="days of the outcome window")
    targets: tuple[Annotated[str, Field(pattern=TARGET)], ...] = Field(
        (), description="further outcomes: `tier_30d` is the tier after 30 days, `inactive` whether no event follows"
    )

    @model_validator(mode="after")
    def _targets_within_the_horizon(self) -> Horizon:
        twice = sorted({name for name in self.targets if self.targets.count(name) > 1})
        late = [name for name in self.targets if (tier_days(name) or 0) >= self.days]
        if twice:
            raise ValueError(f"targets {twice} are named twice")
        if late:
            raise ValueError(
                f"targets {late} lie not before the horizon of {self.days} days: outcomes wait for it alone"
            )
        return self


def contract_of(
    source: Source,
    tiers: Tiers,
    sequence: SequenceSettings,
    horizon: Horizon,
    known_by: str,
    aggregates: tuple[str, ...],
) -> Contract:
    """The contract that these settings ask of the `sequences` table."""
    chosen = {name: a.type for name, a in source.attributes.items() if a.sequence}
    return Contract(
        length=sequence.length,
        numeric=("amount", *(n for n, t in chosen.items() if t == "numeric")),
        categorical=("event_type", *(n for n, t in chosen.items() if t == "categorical")),
        aggregates=aggregates,
        tiers=tuple(level.name for level in tiers.levels),
        tier_rule=tiers.rule().canonical(),
        horizon_days=horizon.days,
        known_by=known_by,
    )
