#!/usr/bin/env bash
# Runs one container and leaves none behind: in_container.sh IMAGE ENGINE run FLAG... IMAGE COMMAND...
# Names what is missing (engine, image, GPU support) in one line; Ctrl-C, a closed terminal or a kill ends the container.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 3 "$@"
image=$1 engine=$2
shift 3
fail() { echo "error: $*" >&2; exit 2; }

command -v "$engine" > /dev/null || fail "no container engine: $engine is not installed; install it, or use STACK=native RUNTIME=host"
if ! answer=$("$engine" version 2>&1); then
  fail "$engine does not answer (${answer##*$'\n'}): start it or join its group, or use STACK=native RUNTIME=host"
fi
"$engine" image inspect "$image" > /dev/null 2>&1 || fail "image $image is missing: make image"

# Machines that share a folder build in it one after the other.
if [[ -n ${UNIAD_LOCK:-} ]] && command -v flock > /dev/null; then exec 9> "$UNIAD_LOCK"; flock 9; fi

name=uniad-$$-$RANDOM
# The command's own end first (training writes a checkpoint), then by force; another Ctrl-C asks for force at once.
stop() {
  local status=$1 stopper began=$SECONDS
  trap '' INT TERM HUP  # what is started now ignores them as well, from its first moment: a second Ctrl-C may come at once
  "$engine" stop --time "${STOP_SECONDS:-120}" "$name" > /dev/null 2>&1 < /dev/null &
  stopper=$!
  trap '(( SECONDS - began < 2 )) || force "$status"' INT
  while kill -0 "$stopper" 2> /dev/null; do wait "$stopper" || true; done
  force "$status"
}
force() {
  trap '' INT TERM HUP
  "$engine" rm --force "$name" > /dev/null 2>&1 || true
  exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP

# A bind-mounted path that is absent would be made by the container engine's daemon, as root.
previous=
for word in "$@"; do
  if [[ $previous == --volume || $previous == -v ]]; then
    [[ -e ${word%%:*} ]] || fail "${word%%:*} is not there, and a container was to see it as ${word#*:}"
  fi
  [[ $word == "$image" ]] && break
  previous=$word
done

# The engine's own words on what it lacks are long and name no remedy. It may be given by its path, whose slashes sed would read.
plainly() {
  local engine=${engine##*/}
  sed -u -e "s/^Error: container-init binary not found.*/error: $engine lacks an init for containers: install catatonit/" \
    -e "/could not select device driver/{s/.*/error: $engine cannot give GPUs to containers: install the NVIDIA Container Toolkit, or GPUS=0 for the CPU/;n;/^$/d}" \
    -e "/^\(See\|Run\) '$engine run --help'/d" -e '/^Emulate Docker CLI using podman/d'
}
# In the background, so that a signal is acted upon at once; input stays the terminal's.
exec 3<&0
"$engine" run --name "$name" --pull never "$@" <&3 2> >(plainly >&2) &
status=0
wait $! || status=$?
exit "$status"
