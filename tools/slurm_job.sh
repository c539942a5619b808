#!/usr/bin/env bash
# What `make train ON=slurm` submits: one make on each machine of the job. Arguments: the goal and make's settings.
set -euo pipefail
# Slurm runs a copy of this file alone, from its spool folder.
if [[ -z ${SLURM_JOB_NODELIST:-} ]]; then
  . "$(dirname "${BASH_SOURCE[0]}")/usage.sh"; usage 0 "$@"
  echo "error: ${0##*/} runs inside a Slurm job: \`make train ON=slurm\` submits one" >&2
  exit 2
fi
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
exec srun --kill-on-bad-exit=1 bash -c 'goal=$1; shift; exec make "$goal" NNODES="$SLURM_NNODES" NODE_RANK="$SLURM_NODEID" MASTER_ADDR="$0" "$@"' "$first" "$@"
