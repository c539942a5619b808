#!/usr/bin/env bash
# Writes the ONNX of a checkpoint, with upstream's name and arguments:
#
#   tools/uniad_export_onnx.sh CFG CKPT GPUS [options of tools/export_onnx.py ...]
#
# Export needs no GPU; GPUS is accepted and ignored.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/usage.sh"; usage 3 "$@"
tree_python
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cfg=$1 ckpt=$2
shift 3
out=()
if [[ " $* " != *" --out "* ]]; then
  out=(--out "$here/onnx/$(cd "$here" && "$python" -m uniad.export.names "$cfg")")
fi
exec "$python" "$here/tools/export_onnx.py" "$cfg" "$ckpt" "${out[@]}" "$@"
