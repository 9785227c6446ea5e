#!/usr/bin/env bash
# Runs every job by spark-submit on a standalone cluster of two workers on the loopback address: the scripts of pip's
# pyspark, the zip in --py-files, two Horovod ranks on the executors. Leaves no process behind.
#
# usage: cluster_demo.sh BIN ROOT [CONFIG] [AS_OF] [job ...]
set -euo pipefail
bin=$(cd "${1:?usage: cluster_demo.sh BIN ROOT [CONFIG] [AS_OF] [job ...]}" && pwd)
mkdir -p "$2" && root=$(cd "$2" && pwd)
config=${3:-conf/complete_journey.yaml}
as_of=${4:-2018-01-01}
shift $(($# < 4 ? $# : 4))
jobs=("$@")
[ ${#jobs[@]} -gt 0 ] || jobs=(run_pipeline)
here=$(cd "$(dirname "$0")/.." && pwd)
cd "$here"

export SPARK_HOME PYSPARK_PYTHON=$bin/python PYSPARK_DRIVER_PYTHON=$bin/python SPARK_LOCAL_IP=127.0.0.1
SPARK_HOME=$("$bin/python" -c 'import importlib.util as u, pathlib; print(pathlib.Path(u.find_spec("pyspark").origin).parent)')
export SPARK_CONF_DIR=$root/spark-conf SPARK_MASTER_OPTS=-Dspark.master.rest.enabled=false
# Six JVMs share this machine, and none lives long enough for code that is compiled twice to pay.
export SPARK_DAEMON_JAVA_OPTS="-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m"
mkdir -p "$SPARK_CONF_DIR" && cp features/spark/log4j2.properties "$SPARK_CONF_DIR/log4j2.properties"

free_port() { "$bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
master_port=$(free_port)
ui_port=$(free_port)
master=spark://127.0.0.1:$master_port
started=()
stop() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
}
trap stop EXIT
start() { # NAME CLASS ARGUMENT...
    local name=$1
    shift
    "$SPARK_HOME/bin/spark-class" "$@" >"$root/$name.log" 2>&1 &
    started+=($!)
}
start master org.apache.spark.deploy.master.Master --host 127.0.0.1 --port "$master_port" --webui-port "$ui_port"
for n in 1 2; do
    start "worker$n" org.apache.spark.deploy.worker.Worker --host 127.0.0.1 --port 0 --webui-port 0 -c 1 -m 3g \
        -d "$root/worker$n" "$master"
done
"$bin/python" - "http://127.0.0.1:$ui_port/json/" <<'PY'
import json, sys, time, urllib.error, urllib.request
for _ in range(60):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:
            if sum(w["state"] == "ALIVE" for w in json.load(answer)["workers"]) == 2:
                raise SystemExit(0)
    except (OSError, ValueError):
        pass
    time.sleep(1)
raise SystemExit("the two workers did not come up within a minute")
PY
for job in "${jobs[@]}"; do
    options=()
    case $job in train_model | evaluate_model) ;; *) options=(--as-of "$as_of") ;; esac
    "$bin/spark-submit" --master "$master" --executor-cores 1 --executor-memory 2g --driver-memory 2g \
        --conf "spark.driver.extraJavaOptions=$SPARK_DAEMON_JAVA_OPTS" \
        --conf "spark.executor.extraJavaOptions=$SPARK_DAEMON_JAVA_OPTS" \
        --conf spark.driver.host=127.0.0.1 --conf spark.driver.bindAddress=127.0.0.1 --conf spark.ui.enabled=false \
        --conf spark.sql.shuffle.partitions=4 --conf spark.databricks.delta.snapshotPartitions=2 \
        --py-files dist/tiercast.zip "jobs/$job.py" \
        --config "$config" --config conf/cluster.yaml --set "storage.root=$root" --set "training.network_interfaces=[lo]" "${options[@]}"
done
