#!/usr/bin/env bash
# Evaluates a checkpoint, with upstream's name and arguments:
#
#   tools/uniad_dist_eval.sh CFG CKPT GPUS [options of tools/test.py ...]
#
# GPUS=0: one process on the CPU. Several processes share out the scenes and give the results of one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"; usage 3 "$@"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree_python
cfg=$1 ckpt=$2 gpus=$3
shift 3
case $gpus in
  0) exec "$python" "$here/test.py" "$cfg" "$ckpt" --device cpu "$@" ;;
  1) exec "$python" "$here/test.py" "$cfg" "$ckpt" "$@" ;;
  *) exec "$python" -m uniad.training.launch "$gpus" "$here/test.py" "$cfg" "$ckpt" --launcher pytorch "$@" ;;
esac
