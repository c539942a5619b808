#!/bin/sh
# packages.sh REQUIREMENTS: installs exactly these versions below /opt/uniad, from the wheels in /opt/wheels where they fit.
# Nothing else comes with them, unless WITH_DEPENDENCIES is set.
set -eu
python=${PYTHON:-python3}
site=/opt/uniad/site
mkdir -p "$site"
how="--no-deps --no-build-isolation --ignore-installed"
[ -z "${WITH_DEPENDENCIES:-}" ] || how=
# Operators for GPUs are built where the base image can.
command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ] || export FORCE_CUDA=0
# pip ranks a wheel at hand no higher than the same one in an index, so those that fit this Python are named to it.
rest=/tmp/rest.txt
mkdir -p /tmp/at_hand
: > "$rest"
grep '==' "$1" | while IFS= read -r line; do
  name=$(echo "${line%%==*}" | tr -- '-.' '__')
  ls /opt/wheels | grep -qi "^$name-" && "$python" -m pip download --quiet --no-index --no-deps --no-cache-dir --find-links /opt/wheels \
    --dest /tmp/at_hand "$line" > /dev/null 2>&1 || echo "$line" >> "$rest"
done
set -- -r "$rest"
for wheel in /tmp/at_hand/*.whl; do
  [ -e "$wheel" ] && set -- "$@" "$wheel"
done
# What is installed already is found by what is built on it (mmcv-full by torch).
PYTHONPATH=$site "$python" -m pip install $how --no-cache-dir --no-compile \
  --find-links /opt/wheels --prefix /tmp/prefix "$@"
for lib in /tmp/prefix/lib/python3*/site-packages /tmp/prefix/lib/python3*/dist-packages \
           /tmp/prefix/local/lib/python3*/dist-packages /tmp/prefix/lib64/python3*/site-packages; do
  [ -d "$lib" ] && cp -a "$lib/." "$site/"
done
for bin in /tmp/prefix/bin /tmp/prefix/local/bin; do
  [ -d "$bin" ] && mkdir -p /opt/uniad/bin && cp -a "$bin/." /opt/uniad/bin/
done
rm -rf /tmp/prefix /tmp/at_hand "$rest"
