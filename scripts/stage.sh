#!/usr/bin/env bash
# Run a command as a stage of the gate. Usage: stage.sh NAME COMMAND...
# If GENMESH_STAGES names a folder, what the command printed is added to NAME.log there, and stages.tsv gets a line: name,
# seconds, exit status. Without it the command just runs.
set -uo pipefail
name=$1
shift
[ -n "${GENMESH_STAGES:-}" ] || exec "$@"
begun=$SECONDS
"$@" 2>&1 | tee -a "$GENMESH_STAGES/$name.log"
status=${PIPESTATUS[0]}
printf '%s\t%s\t%s\n' "$name" $((SECONDS - begun)) "$status" >>"$GENMESH_STAGES/stages.tsv"
exit "$status"
