#!/usr/bin/env bash
# with_engine.sh COMMAND...: runs it with a container engine and a base image at hand (TEST_BASE), starts nothing that it does
# not stop. Exit status 77: no engine can be had here, and the line says why.
#
# An engine that answers is used. Else, as root, dockerd is started with a store of its own, which stays between runs. The
# base image is TEST_BASE where given, else a Debian by debootstrap, so that no registry is needed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 1 "$@"
cache=${UNIAD_ENGINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/uniad-engine}
none() { echo "note: $*"; exit 77; }

engine=
for one in docker podman; do
  if command -v "$one" > /dev/null && timeout 20 "$one" info > /dev/null 2>&1; then engine=$one; break; fi
done
if [[ -z $engine ]]; then
  [[ $(id -u) == 0 ]] || none "no container engine answers"
  command -v dockerd > /dev/null && command -v docker > /dev/null || none "no container engine is installed"
  mkdir -p "$cache"
  run=$(mktemp -d)
  chmod 711 "$run"  # tests call the engine as an ordinary user of its group, too
  export DOCKER_HOST=unix://$run/docker.sock
  # A group of its own: Ctrl-C here must not take it before the containers.
  setsid dockerd --data-root "$cache/docker" --exec-root "$run/exec" --pidfile "$run/pid" --host "$DOCKER_HOST" > "$run/log" 2>&1 < /dev/null &
  daemon=$!
  stop() {
    kill "$daemon" 2> /dev/null || true
    for _ in $(seq 100); do kill -0 "$daemon" 2> /dev/null || break; sleep 0.2; done
    rm -rf "$run"
  }
  trap stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
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
    rm -rf "$root" "$root.log"
  fi
fi
export TEST_BASE
"$@"
