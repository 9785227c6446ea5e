#!/usr/bin/env bash
# Puts the Delta jars into the folder of jars that pip's pyspark loads by itself, so that every session, executor,
# spark-submit and Thrift server of this environment knows Delta without a further setting.
# Maven where there is one, because it honours the mirrors of ~/.m2/settings.xml; else Spark's own package mechanism.
set -euo pipefail
python=${1:?usage: delta_jars.sh PYTHON}
here=$(cd "$(dirname "$0")" && pwd)
jars=$("$python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("pyspark").origin).parent / "jars")')
wanted=("delta-spark_4.2_2.13-4.4.0.jar" "delta-storage-4.4.0.jar")
missing=0
for jar in "${wanted[@]}"; do [ -s "$jars/$jar" ] || missing=1; done
[ "$missing" = 1 ] || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if command -v mvn >/dev/null; then
    mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$work"
else
    packages=io.delta:delta-spark_4.2_2.13:4.4.0,io.delta:delta-storage:4.4.0
    echo 'pass' >"$work/nothing.py"
    "$(dirname "$python")/spark-submit" --master 'local[1]' --packages "$packages" --conf "spark.jars.ivy=$work/ivy" \
        "$work/nothing.py" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
    for jar in "${wanted[@]}"; do find "$work/ivy" -name "*${jar}" -exec cp {} "$work/$jar" \; ; done
fi
for jar in "${wanted[@]}"; do
    [ -s "$work/$jar" ] || { echo "could not fetch $jar" >&2; exit 1; }
    cp "$work/$jar" "$jars/$jar.part" && mv "$jars/$jar.part" "$jars/$jar"
done
