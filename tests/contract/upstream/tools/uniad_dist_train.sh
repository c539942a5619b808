#!/usr/bin/env bash
# Stands for upstream's script at 02fa68c5: what it hands on, where it writes, and that its status is tee's.
cfg=$1 gpus=$2
each=$(( gpus < 8 ? gpus : 8 ))
work=${cfg%.*}
work=${work//configs/work_dirs}/
mkdir -p "${work}logs"
PYTHONPATH="$(dirname "$0")/..:$PYTHONPATH" python -m torch.distributed.launch \
  --nproc_per_node=$each --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-28596}" \
  --nnodes=$(( gpus / each )) --node_rank="${RANK:-0}" \
  "$(dirname "$0")/train.py" $cfg --launcher pytorch ${@:3} --deterministic --work-dir $work \
  2>&1 | tee "${work}logs/train.$(date +%m%d%H%M)"
