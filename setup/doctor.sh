#!/usr/bin/env bash
# Names each missing prerequisite with what to install; silent when nothing is missing.
set -u
python=${1:-python3}
missing=0
lacks() { echo "missing: $1" >&2; echo "   mend: $2" >&2; missing=1; }
have() { command -v "$1" >/dev/null 2>&1; }

[ "$(uname -s)" = Linux ] || lacks "Linux" "Horovod and the scripts here are tried on Linux only"
if ! have "$python"; then
    lacks "Python 3.11 or later ($python)" "install python3, or name one: make PYTHON=/path/to/python3"
elif ! "$python" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info < (3, 14))'; then
    lacks "a Python that TensorFlow supports (3.11 to 3.13; found $("$python" -V 2>&1))" "make PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    lacks "Python's venv" "Debian, Ubuntu: apt-get install python3-venv"
elif ! "$python" -c 'import pathlib, sysconfig; raise SystemExit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())'; then
    lacks "Python's headers" "Debian, Ubuntu: apt-get install python3-dev"
fi
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
if ! have "$java"; then
    lacks "a JDK, 17 or later" "Debian, Ubuntu: apt-get install openjdk-17-jdk-headless"
else
    major=$("$java" -version 2>&1 | sed -nE 's/.* version "([0-9]+).*/\1/p')
    [ "${major:-0}" -ge 17 ] || lacks "a JDK of version 17 or later (found ${major:-unknown})" "apt-get install openjdk-17-jdk-headless, or set JAVA_HOME"
fi
have g++ || lacks "g++" "Debian, Ubuntu: apt-get install g++"
have cmake || lacks "cmake" "Debian, Ubuntu: apt-get install cmake"
have make || lacks "make" "Debian, Ubuntu: apt-get install make"
exit $missing
