#!/usr/bin/env bash
# What `make slurm` submits: one `make train` on each machine of the job. Arguments: make's settings.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 bash -c 'exec make train NNODES="$SLURM_NNODES" NODE_RANK="$SLURM_NODEID" MASTER_ADDR="$0" "$@"' "$first" "$@"
