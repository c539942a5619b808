#!/usr/bin/env bash
# Trains a config on one or several GPUs, on one or several machines (through torchrun).
#
#   tools/uniad_dist_train.sh CFG GPUS [options of tools/train.py ...]
#
# GPUS is the number over all machines, 0 one process on the CPU. For several machines run the same line on each, with
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=first.machine MASTER_PORT=28596     (NODE_RANK=1 on the second; RANK is accepted too)
# Checkpoints and logs go to projects/work_dirs/<stage>/<name of CFG>/; the same line again continues an interrupted run.
set -euo pipefail

if [[ $# -lt 2 || $1 == -h || $1 == --help ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    [[ ${1-} == -h || ${1-} == --help ]] && exit 0
    echo "error: CFG and GPUS are needed" >&2
    exit 2
fi
cfg=$1 gpus=$2
shift 2

root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=python3
    [[ -x $root/.venv/bin/python ]] && python=$root/.venv/bin/python
fi
export PYTHONPATH="$root/projects${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m uniad.training.launch "$gpus" "$root/tools/train.py" "$cfg" --launcher pytorch "$@"
