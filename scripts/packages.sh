#!/usr/bin/env bash
# See that the Debian packages are there; as root, install what is missing. Starts no service.
# Usage: packages.sh PYTHON [PROGRAM ...]: programs beyond those that `make up` needs, each of the package of its name
# or, as PROGRAM:PACKAGE, of another.
set -euo pipefail
python=${1:?the python to use}
missing=()
for program in "${@:2}"; do
  command -v "${program%:*}" >/dev/null || missing+=("${program#*:}")
done
command -v redis-server >/dev/null || missing+=(redis-server)
command -v prometheus >/dev/null || missing+=(prometheus)
command -v prometheus-redis-exporter >/dev/null || missing+=(prometheus-redis-exporter)
"$python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
# Triton's stub is linked against the shared library of Python 3.11.
"$python" - <<'EOF' || missing+=(libpython3.11)
import ctypes, os, sys, sysconfig
name = "libpython3.11.so.1.0"
try:
    ctypes.CDLL(name)
except OSError:
    sys.exit(not os.path.exists(os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)))
EOF
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "Debian packages are missing: ${missing[*]}. Install them as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "Installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
exec 9>/var/lock/genmesh-packages # apt does not wait for another run of itself
flock 9
apt-get update -qq
# RUNLEVEL=1 keeps the packages from starting their services.
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
