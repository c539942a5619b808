#!/usr/bin/env bash
# Documented name and arguments: CFG CKPT GPUS [options of tools/test.py]. GPUS=0: one process on the CPU.
# Several processes share out the scenes and give the results of one.
set -euo pipefail
if (( $# < 3 )); then
  echo "usage: $0 CFG CKPT GPUS [options of tools/test.py]" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-}
if [[ -z $python ]]; then
  python=python3
  [[ -x $here/../.venv/bin/python ]] && python=$here/../.venv/bin/python
fi
cfg=$1 ckpt=$2 gpus=$3
shift 3
export PYTHONPATH="$here/../projects${PYTHONPATH:+:$PYTHONPATH}"
case $gpus in
  0) exec "$python" "$here/test.py" "$cfg" "$ckpt" --device cpu "$@" ;;
  1) exec "$python" "$here/test.py" "$cfg" "$ckpt" "$@" ;;
  *) exec "$python" -m uniad.training.launch "$gpus" "$here/test.py" "$cfg" "$ckpt" --launcher pytorch "$@" ;;
esac
