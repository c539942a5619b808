#!/bin/sh
# packages.sh REQUIREMENTS: installs exactly these versions below /opt/uniad, preferring the wheels in /opt/wheels.
# Nothing else comes with them, unless WITH_DEPENDENCIES is set.
set -eu
python=${PYTHON:-python3}
site=/opt/uniad/site
mkdir -p "$site"
how="--no-deps --no-build-isolation --ignore-installed"
[ -z "${WITH_DEPENDENCIES:-}" ] || how=
# Operators for GPUs are built where the base image can.
command -v nvcc > /dev/null || [ -x /usr/local/cuda/bin/nvcc ] || export FORCE_CUDA=0
# What is installed already is found by what is built on it (mmcv-full by torch).
PYTHONPATH=$site "$python" -m pip install $how --no-cache-dir --no-compile \
  --find-links /opt/wheels --prefix /tmp/prefix -r "$1"
for lib in /tmp/prefix/lib/python3*/site-packages /tmp/prefix/lib/python3*/dist-packages \
           /tmp/prefix/local/lib/python3*/dist-packages /tmp/prefix/lib64/python3*/site-packages; do
  [ -d "$lib" ] && cp -a "$lib/." "$site/"
done
for bin in /tmp/prefix/bin /tmp/prefix/local/bin; do
  [ -d "$bin" ] && mkdir -p /opt/uniad/bin && cp -a "$bin/." /opt/uniad/bin/
done
rm -rf /tmp/prefix
