"""Attributions: what each input adds to a member's chance to move, by integrated gradients.

Sundararajan et al. 2017, arXiv 1703.01365. A member is compared with an average member of the same tier: average
aggregates, and as many events as the member has, the newest like the average newest event of the tier, the one before
like the average one before, and so on. Along the straight line (*way*) from the average member to the member, the
gradients of the probability add up to the difference of the two probabilities. The part of each input is its
attribution. Attributions are summed by reason, see `training.reasons.reason_codes`.

TensorFlow is imported when a network is used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from features.core.arrays import Array
from training.bundles.manifest import Manifest
from training.inputs.encoding import FIRST_CODE
from training.inputs.tensors import Encoded, Tensors, trimmed
from training.reasons.reason_codes import (
    TARGETS,
    UPGRADE,
    Attributions,
    able,
    aggregate_reasons,
    allowed,
    current_ranks,
    events_by_reason,
    inputs_of,
    reason_of,
    reasons_of,
)
from training.settings.scoring import ExplanationSettings

_SMALLEST = 1e-12
_TRIM = 16
"""Members of a call are padded to a multiple of this many events."""


@dataclasses.dataclass(frozen=True)
class Averages:
    """Average inputs of a network by current tier; K tiers, W places of events.

    Places are counted from the newest event, which has place 0.

    Attributes:
        aggregates: [K, A].
        channels: [K, W, C] numeric channels of an event at each place.
        codes: for each categorical channel [K, W, V + 2] the share of events with each code.
    """

    aggregates: Array
    channels: Array
    codes: tuple[Array, ...]

    @property
    def id(self) -> str:
        """Hexadecimal hash of the averages."""
        return hashlib.sha256(b"".join(x.tobytes() for x in (self.aggregates, self.channels, *self.codes))).hexdigest()

    @classmethod
    def of(cls, rows: pa.Table, manifest: Manifest, settings: ExplanationSettings) -> Averages:
        """Averages of some members; a tier with too few members gets the averages of all tiers together.

        Args:
            rows: of `sequences`.
            manifest: of the bundle.
            settings: how many members a tier needs for averages of its own.
        """
        encoded, width = Encoded.of(rows, manifest.contract, manifest.encoding), _width(manifest)
        tensors = encoded.padded(np.arange(rows.num_rows), width)
        mask = tensors["mask"]
        member = encoded.tier.T.astype(np.float64)
        member[member.sum(axis=1) < settings.least_members] = 1
        kept = mask.sum(axis=1)
        event, place = np.repeat(member, kept, axis=1), (kept[:, None] - 1 - np.arange(width))[mask]
        channels, codes = tensors["channels"][mask], tensors["codes"][mask]
        vocabularies = enumerate(manifest.encoding.vocabulary.values())
        return cls(
            np.asarray(member @ encoded.aggregates / np.maximum(member.sum(axis=1, keepdims=True), 1), np.float32),
            _by_place(event, place, width, [(0, 1, values) for values in channels.T]),
            tuple(
                _by_place(event, place, width, [(codes[:, q], FIRST_CODE + len(words), 1.0)])
                for q, words in vocabularies
            ),
        )


def _by_place(weights: Array, place: Array, width: int, parts: Sequence[tuple[Any, int, Any]]) -> Array:
    """[K, W, X] weighted means by place; a place without events gets the means of all places.

    Args:
        weights: [K, n] of events.
        place: [n] of each event.
        width: W.
        parts: number of columns X, and for each event the column that it counts in and its value there.
    """

    def sums(of: Array) -> Array:
        columns = [
            np.bincount(place * size + at, of * values, width * size).reshape(width, size) for at, size, values in parts
        ]
        return np.concatenate(columns, axis=1)

    totals = np.stack([sums(of) for of in weights])
    counts = np.stack([np.bincount(place, of, width) for of in weights])[:, :, None]
    of_all = totals.sum(axis=1, keepdims=True) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.where(counts > 0, totals / np.maximum(counts, 1), of_all), np.float32)


def _width(manifest: Manifest) -> int:
    from training.models.create import tensor_width

    return tensor_width(manifest.model, manifest.contract)


@dataclasses.dataclass(frozen=True)
class _Pieces:
    """P pieces of the ways from average members to members, each integrated separately.

    Attributes:
        member: [P] member whose way it is, by number.
        start: [P] where the piece begins, as a share of the way.
        end: [P] where it ends.
        before: [P] the probability at its beginning.
        after: [P] the probability at its end.
        by_aggregate: [P, A] what each aggregate adds between the two.
        by_event: [P, W] what each event adds.
    """

    member: Array
    start: Array
    end: Array
    before: Array
    after: Array
    by_aggregate: Array
    by_event: Array

    def __getitem__(self, chosen: Array) -> _Pieces:
        return _Pieces(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[_Pieces]) -> _Pieces:
        """The pieces of all parts."""
        return cls(*(np.concatenate([getattr(p, field.name) for p in parts]) for field in dataclasses.fields(cls)))

    def wrong(self, members: int) -> Array:
        """[P] which pieces to cut in two: those with the largest gaps, of members whose parts do not add up."""

        def of_members(values: Array | None) -> Array:
            return np.bincount(self.member, values, members)

        missed = self.after - self.before - self.by_aggregate.sum(axis=1) - self.by_event.sum(axis=1)
        bearable = allowed(of_members(self.after - self.before))
        incomplete = np.abs(of_members(missed)) > bearable
        return incomplete[self.member] & (np.abs(missed) > (bearable / np.maximum(of_members(None), 1))[self.member])


@dataclasses.dataclass(frozen=True)
class _Way:
    """The ways of some `members` for moving up, or else down, at a padded width."""

    encoded: Encoded
    members: Array
    width: int
    up: bool

    def tensors(self, who: Array) -> Tensors:
        """The ways of some of the members, by their places among them."""
        return self.encoded.padded(self.members[who], self.width)


class Explainer:
    """A loaded network whose gradients are taken at its aggregates and at all its embeddings of events."""

    def __init__(
        self, model: Any, manifest: Manifest, averages: Averages, settings: ExplanationSettings, rows: int
    ) -> None:
        """Find the places where the network embeds events.

        Args:
            model: of the bundle.
            manifest: of the bundle.
            averages: what members are compared with.
            settings: points, and what counts as recent.
            rows: rows of one call of the network.
        """
        import tensorflow as tf

        self._model, self._manifest, self._settings, self._rows = model, manifest, settings, rows
        self._averages = Averages(*(tf.nest.map_structure(tf.constant, x) for x in dataclasses.astuple(averages)))
        self._scales = tf.constant(manifest.calibration.scales, tf.float32)
        self._shifts = tf.constant(manifest.calibration.shifts, tf.float32)
        self._width, self._embeddings = _width(manifest), list(_embeddings(model))
        tensors = {n: tf.TensorSpec([None, *model.input[n].shape[1:]], model.input[n].dtype) for n in model.input}
        signature = [tensors, tf.TensorSpec([], tf.bool), tf.TensorSpec([None], tf.float32)]
        self._chance = tf.function(self._chance_at, input_signature=signature, autograph=False)
        self._slope = tf.function(self._slope_at, input_signature=signature, autograph=False)
        self.names = reasons_of(manifest)

    def __call__(self, rows: pa.Table | pa.RecordBatch) -> Attributions:
        """Attributions of n rows of `sequences`."""
        encoded = Encoded.of(rows, self._manifest.contract, self._manifest.encoding)
        reasons = events_by_reason(rows, encoded, self._manifest, self._settings.recent_days)
        labelled = dataclasses.replace(encoded, codes=np.append(reasons, 0)[:, None])
        found, rank = self._nothing(rows.num_rows), current_ranks(rows)
        for target in TARGETS:
            members = np.flatnonzero(able(rank, len(self._manifest.contract.tiers), target))
            members = members[np.argsort(encoded.lengths[members], kind="stable")]  # similar lengths, little padding
            for first in range(0, len(members), self._rows):
                some = members[first : first + self._rows]
                width = trimmed(self._width, encoded.lengths[some], _TRIM)
                pieces = self._integrated(encoded, some, width, target == UPGRADE)
                groups = labelled.padded(some[pieces.member], width)["codes"][:, :, 0]
                self._add(pieces, some, groups, target, found)
        return found

    def _nothing(self, n: int) -> Attributions:
        """Attributions of n members who cannot move."""
        shapes = (len(self.names),), (self._width,), (), ()
        return Attributions(self.names, *({target: np.zeros((n, *shape)) for target in TARGETS} for shape in shapes))

    def _add(self, pieces: _Pieces, members: Array, groups: Array, target: str, found: Attributions) -> None:
        """Add up the pieces of some members' ways."""
        of = members[pieces.member]
        np.add.at(found.parts[target], of, self._grouped(pieces.by_aggregate, pieces.by_event, groups))
        np.add.at(found.events[target][:, : pieces.by_event.shape[1]], of, pieces.by_event)
        first, last = pieces.start == 0, pieces.end == 1
        found.average[target][of[first]], found.probability[target][of[last]] = pieces.before[first], pieces.after[last]

    def _integrated(self, encoded: Encoded, members: Array, width: int, up: bool) -> _Pieces:
        """The pieces of the ways of some members; a way is cut while its parts do not add up to the difference."""
        ends, n = np.linspace(0, 1, self._settings.pieces + 1), len(members)
        way = _Way(encoded, members, width, up)
        of_ends = self._chances(way, np.arange(n).repeat(len(ends)), np.tile(ends, n)).reshape(n, len(ends))
        who = np.arange(n).repeat(self._settings.pieces)
        begin, end = of_ends[:, :-1].ravel(), of_ends[:, 1:].ravel()
        pieces = self._pieces(way, who, np.tile(ends[:-1], n), np.tile(ends[1:], n), begin, end)
        for _ in range(self._settings.most_cuts):
            wrong = pieces.wrong(n)
            if not wrong.any():
                break
            cut = pieces[wrong]
            middle = (cut.start + cut.end) / 2
            there = self._chances(way, cut.member, middle)
            halves = [
                self._pieces(way, cut.member, cut.start, middle, cut.before, there),
                self._pieces(way, cut.member, middle, cut.end, there, cut.after),
            ]
            pieces = _Pieces.joined([pieces[~wrong], *halves])
        return pieces

    def _chances(self, way: _Way, who: Array, share: Array) -> Array:
        """[P] probabilities at a share [P] of the ways of `who` [P]."""
        calls = range(0, len(who), self._rows)
        found = [
            self._chance(way.tensors(who[k : k + self._rows]), way.up, share[k : k + self._rows].astype(np.float32))
            for k in calls
        ]
        return np.concatenate([p.numpy() for p in found]).astype(np.float64)

    def _pieces(self, way: _Way, who: Array, start: Array, end: Array, before: Array, after: Array) -> _Pieces:
        """Pieces of the ways of `who`, each integrated by Gauss-Legendre quadrature."""
        places, weights = np.polynomial.legendre.leggauss(self._settings.points)
        by_aggregate, by_event = [], []
        for first in range(0, len(who), self._rows):
            of, a, b = (values[first : first + self._rows] for values in (who, start, end))
            tensors, sums = way.tensors(of), list[Any]()
            for place, weight in zip(places, weights, strict=True):
                share = (a + (b - a) * (place + 1) / 2).astype(np.float32)
                rates = [x.numpy() * (weight * (b - a) / 2)[:, None] for x in self._slope(tensors, way.up, share)]
                sums = [x + y for x, y in zip(sums, rates, strict=True)] if sums else rates
            by_aggregate.append(sums[0])
            by_event.append(sums[1])
        return _Pieces(who, start, end, before, after, np.concatenate(by_aggregate), np.concatenate(by_event))

    def _chance_at(self, tensors: dict[str, Any], up: Any, share: Any) -> Any:
        """The probability [n] of moving up, or else down, at this share [n] of each row's way."""
        return self._on_the_way(tensors, up, share)[0]

    def _slope_at(self, tensors: dict[str, Any], up: Any, share: Any) -> Any:
        """What each aggregate [n, A] and event [n, W] adds to the probability there, per unit of the share."""
        import tensorflow as tf

        with tf.GradientTape() as tape:
            chance, points, ways = self._on_the_way(tensors, up, share, tape)
        rates = tape.gradient(chance, points, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        by_aggregate, *by_event = [rate * way for rate, way in zip(rates, ways, strict=True)]
        return by_aggregate, tf.add_n([tf.reduce_sum(of, axis=-1) for of in by_event])

    def _on_the_way(
        self, tensors: dict[str, Any], up: Any, share: Any, tape: Any = None
    ) -> tuple[Any, list[Any], list[Any]]:
        """The probability at a share of each row's way; the inputs there, aggregates first; and the ways to them."""
        import tensorflow as tf

        tier, mask = tensors["tier"], tensors["mask"]
        places = tf.cumsum(tf.cast(mask, tf.int32), axis=1, reverse=True, exclusive=True)
        of_event = tf.stack([tf.broadcast_to(tf.argmax(tier, 1, tf.int32)[:, None], tf.shape(places)), places], axis=-1)
        points, ways = list[Any](), list[Any]()

        def between(average: Any, own: Any) -> Any:
            ways.append(own - average)
            points.append(average + tf.reshape(share, [-1] + [1] * (len(own.shape) - 1)) * ways[-1])
            if tape is not None:
                tape.watch(points[-1])
            return points[-1]

        def of_layer(layer: Any) -> Callable[[Any], Any]:
            average = layer.average(self._averages.channels, self._averages.codes)
            return lambda own: between(tf.where(mask[:, :, None], tf.gather_nd(average, of_event), 0.0), own)

        aggregates = between(tf.matmul(tier, self._averages.aggregates), tensors["aggregates"])
        with _between(self._embeddings, of_layer):
            p = self._model({**tensors, "aggregates": aggregates}, training=False)["tier"]
        return self._moving(p, tier, up), points, ways

    def _moving(self, p: Any, tier: Any, up: Any) -> Any:
        """The calibrated probability [n] of moving up, or else down, of the network's p [n, K]."""
        import tensorflow as tf

        logs = tf.math.log(tf.maximum(p, _SMALLEST))
        p = tf.nn.softmax(logs * tf.linalg.matvec(tier, self._scales)[:, None] + tf.matmul(tier, self._shifts))
        ranks = tf.range(tier.shape[1], dtype=tf.float32)[None, :]
        now = tf.reduce_sum(tier * ranks, axis=1, keepdims=True)
        return tf.reduce_sum(tf.where(tf.where(up, ranks > now, ranks < now), p, 0.0), axis=1)

    def _grouped(self, by_aggregate: Array, by_event: Array, groups: Array) -> Array:
        """[n, G] parts by reason from those by input [n, A] and event [n, W]."""
        reasons = aggregate_reasons(self._manifest)
        of_input = np.eye(len(reasons))[[reasons.index(reason_of(name)) for name in inputs_of(self._manifest)]]
        n, of_events = len(by_event), len(self.names) - len(reasons)
        place = (np.arange(n)[:, None] * of_events + groups).ravel()
        summed = np.bincount(place, weights=by_event.ravel(), minlength=n * of_events)
        return np.concatenate([by_aggregate @ of_input, summed.reshape(n, of_events)], axis=1)


def _embeddings(model: Any) -> Iterator[Any]:
    """All layers that embed events, in a network and in the networks inside it."""
    from training.models.layers import EventEmbedding

    for layer in model.layers:
        if isinstance(layer, EventEmbedding):
            yield layer
        elif hasattr(layer, "layers"):
            yield from _embeddings(layer)


@contextlib.contextmanager
def _between(layers: Sequence[Any], of_layer: Callable[[Any], Callable[[Any], Any]]) -> Iterator[None]:
    """A context in which a function is applied to the output of each of these layers."""
    for layer in layers:
        layer.between = of_layer(layer)
    try:
        yield
    finally:
        for layer in layers:
            layer.between = None
