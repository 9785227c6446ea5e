#!/usr/bin/env bash
# Leaves Spark's classes as a JVM wants them in memory where `features.spark.session` looks for them: a small job then takes a
# quarter less time. It is what a small Spark program loads, kept by the JVM's own class data sharing, and made anew when
# pyspark's jars are newer. A JVM of another version takes no notice of it.
set -euo pipefail
bin=$(cd "${1:?usage: class_archive.sh BIN}" && pwd)
cd "$(dirname "$0")/.."
archive=$("$bin/python" -c 'from features.spark.session import CLASS_ARCHIVE; print(CLASS_ARCHIVE)')
jars=$("$bin/python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("pyspark").origin).parent / "jars")')
[ ! "$archive" -nt "$jars" ] || exit 0
echo "loading Spark's classes once, into $archive" >&2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$PWD SPARK_LOCAL_IP=127.0.0.1 PYSPARK_PYTHON=$bin/python PYSPARK_DRIVER_PYTHON=$bin/python
"$bin/spark-submit" --master 'local[2]' --conf spark.ui.enabled=false --conf spark.driver.bindAddress=127.0.0.1 \
    --driver-java-options "-XX:TieredStopAtLevel=1 -XX:ArchiveClassesAtExit=$work/classes.jsa" \
    setup/typical_program.py "$work" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
[ -s "$work/classes.jsa" ] || { echo "this JVM left none: sessions start without it" >&2; exit 0; }
cp "$work/classes.jsa" "$archive.part" && mv "$archive.part" "$archive"
