#!/bin/sh
# What every command in the image starts with: says in one line what would otherwise fail much later.
set -eu
if [ -n "${NEED_SHM_GIB:-}" ]; then
  have=$(df -k /dev/shm | awk 'NR == 2 { print $2 }')
  if [ "$have" -lt $((NEED_SHM_GIB * 1048576)) ]; then
    echo "error: /dev/shm has $((have / 1024)) MiB, data loading of this variant needs $NEED_SHM_GIB GiB: --shm-size=${NEED_SHM_GIB}g (SHM_SIZE=${NEED_SHM_GIB}g)" >&2
    exit 2
  fi
fi
if [ ! -w "$HOME" ]; then
  echo "error: HOME=$HOME cannot be written to by user $(id -u)" >&2
  exit 2
fi
exec "$@"
