#!/usr/bin/env bash
# with_engine.sh COMMAND...: runs it with a container engine and a base image at hand (TEST_BASE), starts nothing that it does
# not stop. Exit status 77: no engine can be had here, and the line says why.
#
# An engine that answers is used. Else, as root, dockerd is started with a store of its own (1.4 GB at the end), which goes with it;
# UNIAD_ENGINE_CACHE=DIR keeps it there for the next run. The base image is TEST_BASE where given, else a Debian by debootstrap, so
# that no registry is needed; it is removed at the end.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 1 "$@"
none() { echo "note: $*"; exit 77; }

daemon= run= root= made=
clean() {
  if [[ -n $made && -z $daemon ]]; then "$engine" image rm --force "$made" > /dev/null 2>&1 || true; fi
  if [[ -n $daemon ]]; then
    kill "$daemon" 2> /dev/null || true
    for _ in $(seq 100); do kill -0 "$daemon" 2> /dev/null || break; sleep 0.2; done
  fi
  # Never through a mount that is left: behind it are the host's own files.
  for place in "$run" "$root"; do
    if [[ -n $place ]] && ! grep -qF " $place/" /proc/self/mounts; then rm -rf "$place" "$place.log"; fi
  done
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

engine=
for one in docker podman; do
  if command -v "$one" > /dev/null && timeout 20 "$one" info > /dev/null 2>&1; then engine=$one; break; fi
done
if [[ -z $engine ]]; then
  [[ $(id -u) == 0 ]] || none "no container engine answers"
  command -v dockerd > /dev/null && command -v docker > /dev/null || none "no container engine is installed"
  run=$(mktemp -d)
  store=${UNIAD_ENGINE_CACHE:-$run}/docker
  mkdir -p "$store"
  chmod 711 "$run"  # tests call the engine as an ordinary user of its group, too
  export DOCKER_HOST=unix://$run/docker.sock
  # A group of its own: Ctrl-C here must not take it before the containers.
  setsid dockerd --data-root "$store" --exec-root "$run/exec" --pidfile "$run/pid" --host "$DOCKER_HOST" > "$run/log" 2>&1 < /dev/null &
  daemon=$!
  for _ in $(seq 150); do
    docker info > /dev/null 2>&1 && break
    kill -0 "$daemon" 2> /dev/null || break
    sleep 0.2
  done
  docker info > /dev/null 2>&1 || none "dockerd does not start here: $(grep -v level=info "$run/log" | tail -n 1)"
  engine=docker
fi
export TEST_ENGINE=$engine

if [[ -z ${TEST_BASE:-} ]]; then
  TEST_BASE=uniad-test-base:bullseye
  if ! "$engine" image inspect "$TEST_BASE" > /dev/null 2>&1; then
    command -v debootstrap > /dev/null && [[ $(id -u) == 0 ]] || none "no base image: give one that this engine has, TEST_BASE=debian:bullseye"
    root=$(mktemp -d)
    echo "making a base image by debootstrap"
    debootstrap --variant=minbase --include=ca-certificates bullseye "$root" "${APT_MIRROR:-http://deb.debian.org/debian}" > "$root.log" 2>&1 \
      || none "debootstrap failed: $(tail -n 1 "$root.log")"
    tar -C "$root" -c . | "$engine" import - "$TEST_BASE" > /dev/null
    made=$TEST_BASE
    rm -rf "$root" "$root.log"
    root=
  fi
fi
export TEST_BASE
"$@"
