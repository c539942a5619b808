#!/usr/bin/env bash
# Documented name and arguments: CFG CKPT GPUS [options of tools/export_onnx.py]. Export needs no GPU; GPUS is accepted and ignored.
set -euo pipefail
if (( $# < 3 )); then
  echo "usage: $0 CFG CKPT GPUS [options of tools/export_onnx.py]" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cfg=$1 ckpt=$2
shift 3
out=()
if [[ " $* " != *" --out "* ]]; then
  out=(--out "$here/onnx/$(cd "$here" && "${PYTHON:-python3}" -m uniad.export.names "$cfg")")
fi
exec "${PYTHON:-python3}" "$here/tools/export_onnx.py" "$cfg" "$ckpt" "${out[@]}" "$@"
