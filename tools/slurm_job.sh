#!/usr/bin/env bash
# What `make slurm` submits: one `make train` on each machine of the job. Arguments: make's settings.
set -euo pipefail
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
exec srun --kill-on-bad-exit=1 bash -c 'exec make train NNODES="$SLURM_NNODES" NODE_RANK="$SLURM_NODEID" MASTER_ADDR="$0" "$@"' "$first" "$@"
