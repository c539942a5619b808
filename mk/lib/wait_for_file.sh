#!/usr/bin/env bash
# wait_for_file.sh FILE OLDER SECONDS: until another machine has put FILE, newer than OLDER, on the storage that both share.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 3 "$@"
end=$((SECONDS + $3))
until [[ -e $1 && ! $1 -ot $2 ]]; do
  if (( SECONDS >= end )); then
    echo "error: $1 did not come from the machine with NODE_RANK=0 within $3 s: is its folder on storage that all machines share?" >&2
    exit 2
  fi
  sleep 1
done
