"""What most jobs ask of Spark, in small: `class_archive.sh` runs it once, for the classes that it makes a JVM load."""

from __future__ import annotations

import sys
from pathlib import Path

from pyspark.sql import DataFrame
from pyspark.sql import functions as f

from features.spark import workers
from features.spark.session import open_session
from features.storage import delta_tables


def main(folder: Path) -> None:
    """Read text files, write, replace and read Delta tables, join, sort, group, and go through Python workers."""
    spark = open_session(
        "tiercast setup", None, {"spark.sql.shuffle.partitions": 1, "spark.databricks.delta.snapshotPartitions": 1}
    )
    (folder / "rows.csv").write_text("id,time\n" + "".join(f"{n},2024-01-0{n % 2 + 1} 10:00:00\n" for n in range(99)))
    rows = spark.read.csv(str(folder / "rows.csv"), schema="id STRING, time TIMESTAMP", header=True)
    rows.createOrReplaceTempView("rows")
    named = spark.sql("SELECT trim(id) AS id, time, CAST(id AS DECIMAL(18, 2)) AS amount, date(time) AS day FROM rows")
    table = str(folder / "table")
    named.sort("day", "id").write.format("delta").partitionBy("day").save(table)
    first = named.where("day = '2024-01-01'")
    first.write.format("delta").mode("overwrite").option("replaceWhere", "day = '2024-01-01'").save(table)
    for frame in (
        _grouped(delta_tables.read(spark, table)),
        workers.mapped(delta_tables.read(spark, table), iter, named.schema),
    ):
        frame.toPandas()
    spark.sparkContext.parallelize(range(2), 2).map(str).collect()
    spark.stop()


def _grouped(rows: DataFrame) -> DataFrame:
    largest = rows.groupBy("id").agg(f.max("amount").alias("largest"), f.count("*").alias("times"))
    return rows.join(largest, "id").where(f.col("largest") > 1).orderBy(f.desc("amount"), "id").limit(9)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
