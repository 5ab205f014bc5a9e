#!/usr/bin/env bash
# Make one virtual environment from its lock file, unless it is there and current.
#   environment.sh PYTHON STATE NAME LOCK [EXTRA PATH...]
set -euo pipefail
python=$1 state=$2 name=$3 lock=$4
shift 4
stamp=$state/venv/$name/.lock-sha256
sum=$(sha256sum "$lock" | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && exit 0
uv=$state/venv/tools/bin/uv
if [ ! -x "$uv" ]; then
  "$python" -m venv "$state/venv/tools"
  "$state/venv/tools/bin/pip" install -q uv==0.13.9
fi
echo "Environment $name: installing $(grep -c == "$lock") packages"
"$uv" venv -q --allow-existing --python "$python" "$state/venv/$name"
"$uv" pip sync --require-hashes --python "$state/venv/$name/bin/python" "$lock" 2>&1 |
  { grep -E "^(Prepared|Installed|error|  [×╰])" || true; }
for path in "$@"; do
  "$uv" pip install -q --no-deps --no-build-isolation --python "$state/venv/$name/bin/python" -e "$path"
done
echo "$sum" >"$stamp"
