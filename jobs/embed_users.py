"""Sequences of an as-of date and a pretrained encoder in; one vector per user out."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Iterator, Sequence

import pyarrow as pa

from features.spark import workers
from features.storage import file_writer, schemas, table_log
from features.storage.file_writer import AddedFile
from jobs.running.command import main, parser
from jobs.running.job import Job, Run
from jobs.steps import dated_output
from jobs.steps.bundles import pretrained_encoder
from jobs.steps.dated_output import Built, DatedOutput
from jobs.steps.members import Members, members, sequences_of
from training.bundles.encoders import check_sequences
from training.bundles.manifest import Manifest
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
    uri, sequences, manifest = job.uri("embeddings"), sequences_of(job, date), pretrained_encoder(job)
    check_sequences(manifest, job.settings.contract)
    record.model_version = manifest.version

    def build() -> Built:
        known, of_sequences = members(job, sequences, record)
        files = _write(job, known, manifest, job.settings.scoring, uri, _inputs(of_sequences, manifest))
        return Built(files, known.count)

    output = DatedOutput(schemas.EMBEDDINGS, uri, date, _inputs(sequences.inputs, manifest))
    dated_output.write(job, record, output, build)


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
