#!/usr/bin/env bash
# Stands for upstream's script at 02fa68c5. It knows one machine, and always port 28596 unless told otherwise.
cfg=$1 ckpt=$2 gpus=$3
work=${cfg%.*}
work=${work//configs/work_dirs}/
mkdir -p "${work}logs"
PYTHONPATH="$(dirname "$0")/..:$PYTHONPATH" python -m torch.distributed.launch \
  --nproc_per_node=$(( gpus < 8 ? gpus : 8 )) --master_port="${MASTER_PORT:-28596}" \
  "$(dirname "$0")/test.py" $cfg $ckpt --launcher pytorch ${@:4} --eval bbox --show-dir "$work" \
  2>&1 | tee "${work}logs/eval.$(date +%m%d%H%M)"
