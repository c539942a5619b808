#!/bin/sh
# finish.sh: makes the packages in /opt/uniad/site everybody's, and a home that any user may write to.
set -eu
python=${PYTHON:-python3}
# A .pth file, not PYTHONPATH: the documented commands set PYTHONPATH themselves.
first=$("$python" -c 'import site; print(site.getsitepackages()[0])')
mkdir -p "$first"
echo /opt/uniad/site > "$first/uniad.pth"
for program in /opt/uniad/bin/*; do
  [ -f "$program" ] && ln -sf "$program" /usr/local/bin/
done
# The documented scripts call python and pip.
for name in python python3; do
  command -v "$name" > /dev/null || ln -s "$(command -v "$python")" "/usr/local/bin/$name"
done
mkdir -p /home/uniad /workspace
chmod 1777 /home/uniad /workspace
"$python" -m compileall -q /opt/uniad/site > /dev/null 2>&1 || true
