#!/usr/bin/env bash
# set_aside.sh FOLDER WHAT: a run that was asked to be something else than WHAT moves to a dated name; the same one stays.
set -euo pipefail
folder=$1 what=$2
if [[ -d $folder && -f $folder/.asked && $(< "$folder/.asked") != "$what" ]]; then
  aside=$folder.$(date +%Y%m%d-%H%M%S)
  mv "$folder" "$aside"
  echo "an earlier run was asked for otherwise: it is now $aside"
fi
mkdir -p "$folder"
printf '%s\n' "$what" > "$folder/.asked"
