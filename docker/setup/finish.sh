#!/bin/sh
# finish.sh: makes the packages in /opt/uniad/site everybody's, and a home that any user may write to.
set -eu
python=${PYTHON:-python3}
# A .pth file, not PYTHONPATH: upstream's commands set PYTHONPATH themselves. Python reads it in its first folder of packages;
# the pins go in front of that folder, or a base image's own numpy or torch would win over them. A user's packages stay before both.
first=$("$python" -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$first"
echo "import sys; sys.path.insert(sys.path.index('$first'), '/opt/uniad/site')" > "$first/uniad.pth"
for program in /opt/uniad/bin/*; do
  [ -f "$program" ] && ln -sf "$program" /usr/local/bin/
done
# Upstream's scripts call python and pip.
for name in python python3; do
  command -v "$name" > /dev/null || ln -s "$(command -v "$python")" "/usr/local/bin/$name"
done
mkdir -p /home/uniad /workspace
chmod 1777 /home/uniad /workspace
"$python" -m compileall -q /opt/uniad/site > /dev/null 2>&1 || true
