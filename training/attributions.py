"""Why a member's chance to move is what it is: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365).

A member is compared with an average one of the same tier: aggregates at their mean, and as many events, each at the
mean of the numeric channels and without a category. On the straight way from there to the member the slopes of the
probability add up to the difference of the two probabilities, each input's part of it being its attribution. Parts are
added up to reasons: an aggregate over all its windows, and the events of a type, recent or earlier.

Imported where a network is loaded.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from features.contract import AGE
from training.bundle import Manifest
from training.settings import ExplanationSettings
from training.tensors import FIRST_CODE, TIER_RANK, Array, Encoded, Tensors, column

UPGRADE, DOWNGRADE = "upgrade", "downgrade"
TARGETS = (UPGRADE, DOWNGRADE)
EVENT_TYPE = "event_type"
_DAY = 86_400
_WINDOW = re.compile(r"(_\d+d)+$")
_SMALLEST = 1e-12
_TOLERANCE, _LEAST_DIFFERENCE = 0.02, 0.005
"""Attributions may miss the difference by this share of it; differences below half a percentage point count as that."""


@dataclasses.dataclass(frozen=True)
class Attributions:
    """Attributions of n members.

    Attributes:
        names: G reasons.
        parts: by target [n, G], in probability.
        probability: by target [n], of the members.
        average: by target [n], of the average members they are compared with.
    """

    names: tuple[str, ...]
    parts: dict[str, Array]
    probability: dict[str, Array]
    average: dict[str, Array]

    def unexplained(self, target: str) -> Array:
        """[n] what the parts miss of the difference; see Sundararajan et al., proposition 1."""
        return np.asarray(self.probability[target] - self.average[target] - self.parts[target].sum(axis=1))

    def incomplete(self) -> Array:
        """[n] whether the parts of a target miss more than 2 % of the difference."""
        missed = np.zeros(len(self.probability[UPGRADE]), bool)
        for target in TARGETS:
            allowed = _TOLERANCE * np.maximum(
                np.abs(self.probability[target] - self.average[target]), _LEAST_DIFFERENCE
            )
            missed |= np.abs(self.unexplained(target)) > allowed
        return missed


class Explainer:
    """A loaded network whose slopes can be taken at its embedded events and aggregates."""

    def __init__(self, model: Any, manifest: Manifest, settings: ExplanationSettings, rows: int) -> None:
        """Cut the network behind its embedding.

        Args:
            model: of the bundle.
            manifest: of the bundle.
            settings: points, and what counts as recent.
            rows: members of one call; further ones are calls of their own.
        """
        import tensorflow as tf

        from training.loop import tensor_width
        from training.models.ensemble import members_of

        self._manifest, self._settings, self._rows = manifest, settings, rows
        self._width = tensor_width(manifest.model, manifest.contract)
        self._parts = [_cut(member) for member in members_of(model)]
        calibration = manifest.calibration
        self._scales = tf.constant(calibration.scales, tf.float32)
        self._shifts = tf.constant(calibration.shifts, tf.float32)
        self._slopes = tf.function(self._slopes_at, autograph=False, reduce_retracing=True)
        self.names = (*_aggregate_reasons(manifest), *_event_reasons(manifest))

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> Attributions:
        """Attributions of n rows of `sequences`; more points are taken for the rows whose parts do not add up."""
        found = self._attributed(rows, self._settings.points)
        points = self._settings.points
        while (missed := np.flatnonzero(found.incomplete())).size and points < self._settings.most_points:
            points = min(points * 4, self._settings.most_points)
            again = self._attributed(
                pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows, points, missed
            )
            for target in TARGETS:
                found.parts[target][missed] = again.parts[target]
        return found

    def _attributed(self, rows: pa.Table | pa.RecordBatch, points: int, chosen: Array | None = None) -> Attributions:
        rows = rows if chosen is None else rows.take(pa.array(chosen))
        encoded = Encoded.of(rows, self._manifest.contract, self._manifest.encoding)
        recent = _recent(rows, encoded, self._settings.recent_days)
        parts = [
            self._of_members(encoded, recent, np.arange(start, min(start + self._rows, rows.num_rows)), points)
            for start in range(0, rows.num_rows, self._rows)
        ]
        joined = [{target: np.concatenate([part[k][target] for part in parts]) for target in TARGETS} for k in range(3)]
        return Attributions(self.names, *joined)

    def _of_members(self, encoded: Encoded, recent: Array, members: Array, points: int) -> tuple[dict[str, Array], ...]:
        tensors = encoded.padded(members, self._width)
        events = [
            embedding(tensors["channels"], codes=tensors["codes"], present=tensors["mask"])
            for embedding, _ in self._parts
        ]
        places, weights = np.polynomial.legendre.leggauss(points)
        shares = [0.0, 1.0, *((places + 1) / 2)]
        slopes = [
            self._slopes(events, tensors["mask"], tensors["aggregates"], tensors["tier"], s)
            for s in map(np.float32, shares)
        ]
        average, own = (
            {t: p.numpy().astype(np.float64) for t, p in zip(TARGETS, slopes[k][0], strict=True)} for k in (0, 1)
        )
        groups = self._event_groups(encoded, recent, members, tensors)
        parts = {}
        for k, target in enumerate(TARGETS):
            by_aggregate, by_event = (
                sum(
                    w / 2 * slope[side][k].numpy().astype(np.float64)
                    for w, slope in zip(weights, slopes[2:], strict=True)
                )
                for side in (1, 2)
            )
            parts[target] = self._grouped(by_aggregate, by_event, groups)
        return parts, own, average

    def _slopes_at(self, events: Any, mask: Any, aggregates: Any, tier: Any, share: Any) -> Any:
        """Both probabilities [n] at a share of the way, and of each the attribution rates by aggregate and by event."""
        import tensorflow as tf

        at_events, at_aggregates = [embedded * share for embedded in events], aggregates * share
        ranks = tf.range(tier.shape[1], dtype=tf.float32)[None, :]
        now = tf.reduce_sum(tier * ranks, axis=1, keepdims=True)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([at_events, at_aggregates])
            answers = [
                rest([embedded, mask, at_aggregates, tier], training=False)
                for (_, rest), embedded in zip(self._parts, at_events, strict=True)
            ]
            p = tf.add_n(answers) / len(answers)
            logs = tf.math.log(tf.maximum(p, _SMALLEST))
            mended = tf.nn.softmax(logs * tf.linalg.matvec(tier, self._scales)[:, None] + tf.matmul(tier, self._shifts))
            chances = [tf.reduce_sum(tf.where(side, mended, 0.0), axis=1) for side in (ranks > now, ranks < now)]
        rates = [
            tape.gradient(chance, [at_events, at_aggregates], unconnected_gradients=tf.UnconnectedGradients.ZERO)
            for chance in chances
        ]
        by_aggregate = [rate[1] * aggregates for rate in rates]
        by_event = [
            tf.add_n([tf.reduce_sum(r * e, axis=-1) for r, e in zip(rate[0], events, strict=True)]) for rate in rates
        ]
        return chances, by_aggregate, by_event

    def _event_groups(self, encoded: Encoded, recent: Array, members: Array, tensors: Tensors) -> Array:
        """[n, W] reason of each event, counted from the first of the events."""
        place = list(self._manifest.encoding.vocabulary).index(EVENT_TYPE)
        kinds = len(self._manifest.encoding.vocabulary[EVENT_TYPE])
        kind = np.clip(tensors["codes"][:, :, place] - FIRST_CODE, -1, kinds - 1)
        kind = np.where(kind < 0, kinds, kind)  # types that training did not know share the last reason
        flags = dataclasses.replace(encoded, codes=recent[:, None]).padded(members, self._width)["codes"][:, :, 0]
        return np.asarray(2 * kind + (flags == 0))

    def _grouped(self, by_aggregate: Array, by_event: Array, groups: Array) -> Array:
        """[n, G] parts by reason from those by input [n, A] and event [n, W]."""
        reasons = _aggregate_reasons(self._manifest)
        of_input = np.eye(len(reasons))[[reasons.index(_reason(name)) for name in _inputs(self._manifest)]]
        n, of_events = len(by_event), len(self.names) - len(reasons)
        place = (np.arange(n)[:, None] * of_events + groups).ravel()
        summed = np.bincount(place, weights=by_event.ravel(), minlength=n * of_events)
        return np.concatenate([by_aggregate @ of_input, summed.reshape(n, of_events)], axis=1)


def _cut(network: Any) -> tuple[Any, Any]:
    """A network's embedding of events, and the rest of it: from these, mask, aggregates and tier to probabilities."""
    import keras

    from training.models.layers import EventEmbedding

    (embedding,) = [layer for layer in network.layers if isinstance(layer, EventEmbedding)]
    taken = [embedding.output, *(network.input[n] for n in ("mask", "aggregates", "tier"))]
    return embedding, keras.Model(taken, network.output["tier"])


def _inputs(manifest: Manifest) -> list[str]:
    """The aggregates' names, and again of those whose nulls are indicated."""
    return [*manifest.contract.aggregates, *manifest.encoding.indicated]


def _reason(aggregate: str) -> str:
    return _WINDOW.sub("", aggregate)


def _aggregate_reasons(manifest: Manifest) -> list[str]:
    return list(dict.fromkeys(map(_reason, _inputs(manifest))))


def _event_reasons(manifest: Manifest) -> list[str]:
    kinds = [*manifest.encoding.vocabulary[EVENT_TYPE], "other_event"]
    return [f"{when}_{kind}" for kind in kinds for when in ("recent", "earlier")]


def _recent(rows: pa.Table | pa.RecordBatch, encoded: Encoded, days: int) -> Array:
    """[events + 1] int32 1 for an event of the last days; the last is the padding's."""
    ages = column(rows, AGE).flatten().to_numpy(zero_copy_only=False)
    assert len(ages) + 1 == len(encoded.codes)
    return np.append(ages <= days * _DAY, False).astype(np.int32)


def explain_rows(rows: pa.Table, found: Attributions, tiers: int, most: int, wording: Callable[[str], str]) -> pa.Table:
    """The reasons of each member and target, weightiest first: columns of `score_reasons` but for the dates and ids.

    Args:
        rows: n rows, with `user_id` and the current tier's rank.
        found: their attributions.
        tiers: K; nobody moves up from the last, or down from the first.
        most: reasons of a member and target.
        wording: reason to words.
    """
    users, rank = rows["user_id"], column(rows, TIER_RANK).to_numpy(zero_copy_only=False)
    words, parts = pa.array([wording(name) for name in found.names]), []
    for target, able in ((UPGRADE, rank < tiers - 1), (DOWNGRADE, rank > 0)):
        members = np.flatnonzero(able)
        weightiest = np.argsort(-np.abs(found.parts[target][members]), axis=1, kind="stable")[:, :most]
        member, reason = np.repeat(members, weightiest.shape[1]), weightiest.ravel()
        parts.append(
            pa.table(
                {
                    "user_id": users.take(pa.array(member)),
                    "target": pa.repeat(target, len(reason)),
                    "rank": pa.array(np.tile(np.arange(1, weightiest.shape[1] + 1), len(members)), pa.int32()),
                    "reason": pa.array(found.names).take(pa.array(reason)),
                    "wording": words.take(pa.array(reason)),
                    "contribution": pa.array(found.parts[target][member, reason]),
                    "probability": pa.array(found.probability[target][member]),
                    "average_probability": pa.array(found.average[target][member]),
                    "unexplained": pa.array(found.unexplained(target)[member]),
                }
            )
        )
    return pa.concat_tables(parts)
