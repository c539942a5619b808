#!/usr/bin/env bash
# What a job runs on each of its machines: `make GOAL` as that machine. Arguments: the goal and make's settings.
# Which machine it is stands in the environment: of Kubeflow Trainer (PET_*), of torchrun (GROUP_*), or of SkyPilot (SKYPILOT_*).
set -euo pipefail
if (( $# == 0 )) || [[ $1 == -* ]]; then
  . "$(dirname "${BASH_SOURCE[0]}")/usage.sh"; usage 0 "$@"
  echo "error: ${0##*/} runs inside a job: \`make train ON=k8s\` or ON=sky submits one" >&2
  exit 2
fi
goal=$1; shift
if [[ -n ${GROUP_WORLD_SIZE:-} ]]; then
  # Under torchrun: one make a machine, whatever number of processes it starts.
  (( ${LOCAL_RANK:-0} == 0 )) || exit 0
  machines=$GROUP_WORLD_SIZE rank=$GROUP_RANK first=$MASTER_ADDR
elif [[ -n ${PET_NNODES:-} ]]; then
  machines=$PET_NNODES rank=${PET_NODE_RANK:-0} first=${PET_MASTER_ADDR:-}
elif [[ -n ${SKYPILOT_NUM_NODES:-} ]]; then
  machines=$SKYPILOT_NUM_NODES rank=$SKYPILOT_NODE_RANK first=${SKYPILOT_NODE_IPS%%$'\n'*}
else
  machines=1 rank=0 first=
fi
# Folders that all machines share, where the tree itself is each machine's own
for folder in ${UNIAD_STORAGE:+${UNIAD_SHARED:-}}; do
  if [[ ! -L $folder ]]; then
    mkdir -p "$UNIAD_STORAGE/$folder" "$(dirname "$folder")"
    rmdir "$folder" 2> /dev/null || true
    if [[ -e $folder ]]; then
      echo "error: $folder is in the tree and in $UNIAD_STORAGE: which one? Take it out of the tree (.skyignore)" >&2
      exit 2
    fi
    ln -s "$UNIAD_STORAGE/$folder" "$folder"
  fi
done
# These are the launcher's; training's own processes get theirs from the one that make starts.
for name in RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_WORLD_SIZE MASTER_PORT \
  ${!PET_@} ${!TORCHELASTIC_@}; do unset "$name"; done
if (( machines == 1 )); then
  exec make "$goal" "$@"
fi
exec make "$goal" NNODES="$machines" NODE_RANK="$rank" MASTER_ADDR="$first" "$@"
