#!/usr/bin/env bash
# Creates the virtual environment and everything in it. Run again, it does only what is missing.
set -euo pipefail
python=${1:?usage: environment.sh PYTHON VENV}
venv=${2:?usage: environment.sh PYTHON VENV}
here=$(cd "$(dirname "$0")" && pwd)
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
echo "installing pinned packages into $venv" >&2
"${pip[@]}" install --quiet -c constraints.txt setuptools wheel
# Quoted extras: what the demo reads and what the tests use.
"$venv/bin/python" "$here/requirements.py" pyproject.toml >"$venv/requirements.txt"
"${pip[@]}" install --quiet -c constraints.txt -r "$venv/requirements.txt"
"${pip[@]}" install --quiet --no-deps --force-reinstall "$("$here/horovod_wheel.sh" "$venv/bin/python")"
"$here/delta_jars.sh" "$venv/bin/python"
"$venv/bin/python" "$here/compiled_archives.py"
"$here/class_archive.sh" "$venv/bin"
