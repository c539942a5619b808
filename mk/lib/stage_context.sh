#!/usr/bin/env bash
# Lays out what `docker build` is to see of an image: stage_context.sh [--no-cache-mounts] IMAGE_DIR OUT [CA_FILE [WHEEL_DIR...]]
# --no-cache-mounts: for a builder that knows no `RUN --mount` (docker's own before BuildKit); what is built is the same.
# The requirements file is cut at its "# layer: NAME" lines, so that a changed pin rebuilds its own layer and those after it.
# Wheels at hand are taken where their name and version are pinned there.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../../tools/usage.sh"; usage 2 "$@"
mounts=1
if [[ ${1-} == --no-cache-mounts ]]; then mounts=; shift; fi
source=$1 out=$2 ca=${3:-}
shift $(( $# < 3 ? $# : 3 ))
[[ -f $source/Dockerfile ]] || { echo "error: $source holds no Dockerfile" >&2; exit 2; }
if [[ -n $ca && ! -f $ca ]]; then
  echo "error: CA_CERTS=$ca is not there: give a file of certificates in PEM form" >&2; exit 2
fi
# Docker's cache goes by content, not by time: the folder can be laid out anew each time.
rm -rf "$out.partial"
mkdir -p "$out.partial"/{extra/wheels,layers}
cp "$source/Dockerfile" "$source/requirements.txt" "$out.partial/"
[[ $mounts ]] || sed -i -E 's/--mount=type=cache,[^ ]+ //g' "$out.partial/Dockerfile"
cp -r "$(dirname "$source")/setup" "$out.partial/setup"
if [[ -n $ca ]]; then cp "$ca" "$out.partial/extra/ca.crt"; else : > "$out.partial/extra/ca.crt"; fi
: > "$out.partial/extra/wheels/.keep"
awk -v out="$out.partial/layers" '/^# layer: /{ name = $3; next } name != "" { print > (out "/" name ".txt") }' "$source/requirements.txt"
shopt -s nullglob nocasematch
while IFS= read -r line; do
  [[ $line =~ ^([A-Za-z0-9_.-]+)==([^[:space:]]+) ]] || continue
  name=${BASH_REMATCH[1]//[-.]/_} version=${BASH_REMATCH[2]}
  for dir in "$@"; do
    for wheel in "$dir"/*.whl; do
      file=${wheel##*/}
      if [[ ${file//[-.]/_} == "${name}_${version//[-.]/_}"_* || ${file//[-.]/_} == "${name}_${version//[-.]/_}+"* ]]; then
        ln "$wheel" "$out.partial/extra/wheels/$file" 2> /dev/null || cp "$wheel" "$out.partial/extra/wheels/$file"
      fi
    done
  done
done < "$source/requirements.txt"
rm -rf "$out"
mv "$out.partial" "$out"
