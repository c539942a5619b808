#!/usr/bin/env bash
# engine_facts.sh ENGINE: what a container engine is, in words: docker or podman, and of rootless, selinux, cache-mounts what holds.
# A docker that is podman under another name is podman. An engine that does not answer is what its name says.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 1 "$@"
engine=$1
info=$(timeout 20 "$engine" info --format '{{json .}}' 2> /dev/null) || info=
info=${info//[[:space:]]/}
if [[ $info == *'"buildahVersion":"'* ]]; then
  words=podman
  [[ $info != *'"rootless":true'* ]] || words+=" rootless"
  [[ $info != *'"selinuxEnabled":true'* ]] || words+=" selinux"
  # RUN --mount=type=cache came with buildah 1.24
  [[ $info =~ \"buildahVersion\":\"([0-9]+)\.([0-9]+) ]] && (( BASH_REMATCH[1] > 1 || BASH_REMATCH[2] >= 24 )) && words+=" cache-mounts"
elif [[ -z $info ]]; then
  words=${engine##*/}
else
  words=docker
  [[ $info != *'"name=rootless"'* ]] || words+=" rootless"
  [[ $info != *'"name=selinux"'* ]] || words+=" selinux"
  # BuildKit is part of docker 19 and 20; from 23 on it is reached through a plugin, buildx.
  if [[ ${DOCKER_BUILDKIT:-1} == 1 ]]; then
    client=$("$engine" version --format '{{.Client.Version}}' 2> /dev/null) || client=
    if [[ $client =~ ^(19|20)\. ]] || "$engine" buildx version > /dev/null 2>&1; then words+=" cache-mounts"; fi
  fi
fi
echo "$words"
