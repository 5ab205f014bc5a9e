#!/usr/bin/env bash
# Make one virtual environment from its lock file, unless it is there and current.
#   environment.sh PYTHON STATE NAME LOCK [EXTRA PATH...]
# Packages come out of uv's cache in GENMESH_CACHE, outside of the checkout; one whose files are not those that its maker
# listed (cut short, changed) is fetched anew.
set -euo pipefail
python=$1 state=$2 name=$3 lock=$4
shift 4
venv=$state/venv/$name
stamp=$venv/.lock-sha256
sum=$(sha256sum "$lock" | cut -d' ' -f1)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && exit 0
UV_CACHE_DIR=$(realpath -m "${GENMESH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/genmesh}")/uv
export UV_CACHE_DIR
uv=$state/venv/tools/bin/uv
if [ ! -x "$uv" ]; then
  "$python" -m venv "$state/venv/tools"
  "$state/venv/tools/bin/pip" install -q uv==0.13.9
fi

sync() { # MORE OPTIONS...
  "$uv" pip sync --require-hashes --python "$venv/bin/python" "$@" "$lock" 2>&1 |
    { grep -E "^(Prepared|Installed|error|  [×╰])" || true; }
}

echo "Environment $name: installing $(grep -c == "$lock") packages"
"$uv" venv -q --allow-existing --python "$python" "$venv"
sync
if damaged=$("$venv/bin/python" scripts/damaged.py "$venv"); [ -n "$damaged" ]; then
  echo "Environment $name: fetching anew what is damaged in the cache: ${damaged//$'\n'/ }"
  # shellcheck disable=SC2086 # one word a package
  "$uv" cache clean -q $damaged
  sync --reinstall --refresh
  damaged=$("$venv/bin/python" scripts/damaged.py "$venv")
  [ -z "$damaged" ] || { echo "Environment $name: still damaged: $damaged" >&2; exit 1; }
fi
for path in "$@"; do
  "$uv" pip install -q --no-deps --no-build-isolation --python "$venv/bin/python" -e "$path"
done
echo "$sum" >"$stamp"
