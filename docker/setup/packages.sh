#!/bin/sh
# packages.sh REQUIREMENTS: installs exactly these versions below /opt/uniad, from the wheels in /opt/wheels where they fit.
# Nothing else comes with them, unless WITH_DEPENDENCIES is set.
# INDEX_ALONE: an index that has what REQUIREMENTS names, and the only one that is asked for it. pip ranks its indexes alike: of
# two builds of one version it would take any. Their dependencies come from PIP_INDEX_URL as everything else does.
set -eu
python=${PYTHON:-python3}
root=${UNIAD_ROOT:-/opt/uniad}
wheels=${UNIAD_WHEELS:-/opt/wheels}
site=$root/site
mkdir -p "$site"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
builds=${FORCE_CUDA:-}
# What an earlier layer brought is there for a build: ninja, without which torch compiles on one core.
export PATH="$root/bin:$PATH"
# A base image's own pins (NVIDIA's has some) are not ours.
unset PIP_CONSTRAINT PIP_EXTRA_INDEX_URL
# Operators for GPUs are built where the base image can.
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2> /dev/null || true)
[ -n "$nvcc" ] || export FORCE_CUDA=0

# The builder's cache, where it gives one. pip does not know that a compiled wheel depends on more than its version, so each
# kind of build gets a cache of its own.
cache=--no-cache-dir
if [ -n "${PIP_CACHE_DIR:-}" ] && mountpoint -q "$PIP_CACHE_DIR"; then
  cache="--cache-dir $PIP_CACHE_DIR/plain"
  if [ -n "$builds" ]; then
    kind=$({ cat /etc/os-release; "$python" --version; [ -z "$nvcc" ] || "$nvcc" --version; ls "$site"; env | grep -E '^(FORCE_CUDA|MMCV_WITH_OPS|TORCH_CUDA_ARCH_LIST)='; } | sort | sha256sum | cut -c 1-16)
    cache="--cache-dir $PIP_CACHE_DIR/$kind"
  fi
fi
unset PIP_CACHE_DIR

# install WORD...: what is installed already is found by what is built on it (mmcv-full by torch).
install() {
  PYTHONPATH=$site "$python" -m pip install $cache --no-compile --prefix "$work/prefix" "$@" || return 1
  for lib in "$work"/prefix/lib/python3*/site-packages "$work"/prefix/lib/python3*/dist-packages \
             "$work"/prefix/local/lib/python3*/dist-packages "$work"/prefix/lib64/python3*/site-packages; do
    [ -d "$lib" ] && cp -a "$lib/." "$site/"
  done
  for bin in "$work"/prefix/bin "$work"/prefix/local/bin; do
    [ -d "$bin" ] && mkdir -p "$root/bin" && cp -a "$bin/." "$root/bin/"
  done
  rm -rf "$work/prefix"
}

# pip ranks a wheel at hand no higher than the same one in an index, so those that fit this Python are named to it.
mkdir -p "$work/at_hand"
: > "$work/rest.txt"
grep '==' "$1" | while IFS= read -r line; do
  name=$(echo "${line%%==*}" | tr -- '-.' '__')
  ls "$wheels" | grep -qi "^$name-" && "$python" -m pip download --quiet --no-index --no-deps --no-cache-dir --find-links "$wheels" \
    --dest "$work/at_hand" "$line" > /dev/null 2>&1 || echo "$line" >> "$work/rest.txt"
done
requirements=$1
set -- -r "$work/rest.txt"
for wheel in "$work"/at_hand/*.whl; do
  [ -e "$wheel" ] && set -- "$@" "$wheel"
done

exact="--no-deps --no-build-isolation --ignore-installed"
if [ -n "${INDEX_ALONE:-}" ]; then
  # Of a base image's pip.conf too: no further index
  PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' install $exact --index-url "$INDEX_ALONE" "$@" || {
    echo "error: $INDEX_ALONE has not all of $(grep '==' "$requirements" | tr '\n' ' ')for this Python: name another index (TORCH_INDEX_URL), or none for PIP_INDEX_URL's" >&2
    exit 1
  }
  set -- -r "$requirements"
fi
if [ -n "${WITH_DEPENDENCIES:-}" ]; then
  install --find-links "$wheels" "$@"
elif [ -z "${INDEX_ALONE:-}" ]; then
  install $exact --find-links "$wheels" "$@"
fi
