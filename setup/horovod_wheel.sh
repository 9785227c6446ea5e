#!/usr/bin/env bash
# Builds the Horovod wheel once per (Python, TensorFlow, Horovod, `changes`) into the user's cache and prints its path.
# Horovod 0.28.1 predates TensorFlow 2.21: its XLA operations include headers that have moved since, and nothing
# here uses them, so their guard is switched off before the build.
# The thread of its Gloo that listens to other ranks asks again at once while another thread holds the connection. On a
# rank's one core the holder cannot go on meanwhile, and a tenth of the core goes into asking: it gets 50 microseconds.
set -euo pipefail
python=${1:?usage: horovod_wheel.sh PYTHON}
version=$("$python" -c 'import re; print(re.search(r"^horovod==(.+)$", open("constraints.txt").read(), re.M)[1])')
key=$("$python" - <<'PY'
import importlib.metadata as m, platform, sys
names = {d.metadata["Name"].lower().replace("_", "-") for d in m.distributions()}
tf = next(n for n in ("tensorflow", "tensorflow-cpu") if n in names)
print(f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}-{tf}-{m.version(tf)}")
PY
)
changes=2 # raised with each change to the sources below
cache=${XDG_CACHE_HOME:-$HOME/.cache}/tiercast/horovod-$version-$key-$changes
if ! ls "$cache"/horovod-*.whl >/dev/null 2>&1; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    echo "building Horovod $version for $key (about 6 minutes on 2 cores, once; log: $cache.log)" >&2
    mkdir -p "$(dirname "$cache")"
    {
        "$python" -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation -d "$work" "horovod==$version"
        tar -xzf "$work/horovod-$version.tar.gz" -C "$work"
        sed -i '23s/^#if .*/#if 0/' "$work/horovod-$version/horovod/tensorflow/xla_mpi_ops.cc"
        sed -i '/if (!lock) {/a\    usleep(50);' "$work/horovod-$version/third_party/gloo/gloo/transport/tcp/pair.cc"
        HOROVOD_WITH_TENSORFLOW=1 HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_MXNET=1 HOROVOD_WITHOUT_MPI=1 \
            HOROVOD_WITH_GLOO=1 MAKEFLAGS="${MAKEFLAGS_HOROVOD:--j$(nproc)}" \
            "$python" -m pip wheel --no-deps --no-build-isolation -w "$work/out" "$work/horovod-$version"
    } >"$cache.log" 2>&1 || { tail -n 40 "$cache.log" >&2; echo "the Horovod build failed; whole log: $cache.log" >&2; exit 1; }
    mkdir -p "$cache"
    mv "$work"/out/horovod-*.whl "$cache/"
fi
ls "$cache"/horovod-*.whl
