#!/usr/bin/env bash
# Trains a config on one or several GPUs, on one or several machines (through torchrun).
#
#   tools/uniad_dist_train.sh CFG GPUS [options of tools/train.py ...]
#
# GPUS is the number over all machines, 0 one process on the CPU. For several machines run the same line on each, with
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first.machine MASTER_PORT=28596     (NODE_RANK=1 on the second; RANK is accepted too)
# Checkpoints and logs go to projects/work_dirs/<stage>/<name of CFG>/; the same line again continues an interrupted run.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"
if (( $# < 2 )) && [[ ${1-} != -h && ${1-} != --help ]]; then
    (usage 0 --help)
    echo "error: CFG and GPUS are needed" >&2
    exit 2
fi
usage 2 "$@"
cfg=$1 gpus=$2
shift 2

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tree_python
exec "$python" -m uniad.training.launch "$gpus" "$root/tools/train.py" "$cfg" --launcher pytorch "$@"
