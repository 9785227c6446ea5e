"""Sequences of an as-of date and a pretrained encoder in; one vector per user out."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa

from features.spark import workers
from features.storage import commits, delta_tables, file_writer, schemas, table_log
from features.storage.file_writer import AddedFile
from jobs.running.command import main, parser
from jobs.running.job import Job, Run, reconcile
from jobs.steps.members import Members, inputs_of_members, members
from training.bundles.bundle_folder import read_manifest
from training.bundles.encoders import check_sequences
from training.bundles.manifest import PRETRAIN, Manifest
from training.inputs.column_names import AS_OF
from training.settings.scoring import ScoringSettings
from training.spark.embeddings import embedded

ARGUMENTS = parser(
    "embed_users",
    reads="the encoder named by `pretraining.version`; sequences of the as-of date, or events where there are none.",
    writes="embeddings, user_days where it is stale, runs.",
    example="--config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01",
    as_of="required",
)


def run(job: Job) -> None:
    """Embed the users of each as-of date that this encoder has not embedded already."""
    for date in job.as_of:
        with job.run("embed_users", date) as record:
            embed_users(job, record, date)


def embed_users(job: Job, record: Run, date: dt.date) -> None:
    """Write the embeddings of one as-of date in one commit."""
    settings, uri, table = job.settings, job.uri("embeddings"), schemas.EMBEDDINGS
    manifest = read_manifest(settings.storage.pretrained, settings.pretraining.version, PRETRAIN)
    check_sequences(manifest, settings.contract)
    record.model_version = manifest.version
    delta_tables.ensure(job.spark, uri, table)
    seen = delta_tables.version(job.spark, uri)
    now = inputs_of_members(job, date)
    if table_log.inputs_at(uri, seen, date) == {_inputs(now, manifest)}:
        record.status = "unchanged"
        return
    known, of_sequences = members(job, date, now, record)
    inputs = _inputs(of_sequences, manifest)
    files = _write(job, known, manifest, settings.scoring, uri, inputs)
    record.counts["rows"] = sum(f.rows for f in files)
    if known.count is not None:
        reconcile(f"embeddings as of {date}", known.count, record.counts["rows"])
    record.versions["embeddings"] = commits.commit_files(uri, table, record.id, seen, [date], files)


def _write(
    job: Job, known: Members, manifest: Manifest, settings: ScoringSettings, uri: str, inputs: str
) -> list[AddedFile]:
    """Files of `embeddings`, uncommitted, written by the tasks that read or build the sequences."""
    columns, pretrained_uri = schemas.EMBEDDINGS.columns, job.settings.storage.pretrained

    def work(portion: int) -> Iterator[AddedFile]:
        rows = known.rows_of(known.ranges[portion])
        if rows.num_rows:
            found = embedded(rows, known.as_of, pretrained_uri, manifest, settings)
            found = found.append_column("inputs_id", pa.repeat(inputs, rows.num_rows)).select(columns)
            yield file_writer.write_file(found, uri, AS_OF, known.as_of, file_writer.MEMBERS)

    return workers.found(job.spark, len(known.ranges), work)


def _inputs(of_sequences: str, manifest: Manifest) -> str:
    return f"{table_log.fingerprint(of_sequences)}.{table_log.fingerprint(manifest.version)}"


def entry(argv: Sequence[str] | None = None) -> int:
    """Exit code of the job."""
    return main(ARGUMENTS, run, argv)


if __name__ == "__main__":
    sys.exit(entry())
