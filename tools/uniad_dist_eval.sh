#!/usr/bin/env bash
# Documented name and arguments: CFG CKPT GPUS [options of tools/test.py]. GPUS=0 evaluates in one process on the CPU.
set -euo pipefail
if (( $# < 3 )); then
  echo "usage: $0 CFG CKPT GPUS [options of tools/test.py]" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
cfg=$1 ckpt=$2 gpus=$3
shift 3
if (( gpus <= 1 )); then
  exec "$python" "$here/test.py" "$cfg" "$ckpt" "$@"
fi
exec "$python" -m torch.distributed.run --nproc_per_node="$gpus" --master_port="${MASTER_PORT:-28596}" \
  "$here/test.py" "$cfg" "$ckpt" --launcher pytorch "$@"
