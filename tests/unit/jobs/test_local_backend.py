"""Kubeflow's own local backend runs a machine of a job, loses it, and runs it again to the end from the last whole checkpoint."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from helpers import REPO

# Behaves as training does there: goes on from the newest checkpoint, writes each whole or not at all, and says what it did. The
# first time it is lost in its third step, as a machine is: killed, with a file half written.
MAKE = """#!/usr/bin/env bash
set -euo pipefail
echo "make $*"
mkdir -p work; shopt -s nullglob
last=0; for f in work/iter_*.pth; do n=${f##*_}; n=${n%.pth}; (( n > last )) && last=$n; done
echo "goes on from iter $last"
while (( last < 5 )); do
  echo "weights of $((last + 1))" > work/.partial
  if (( last == 2 )) && [[ ! -e lost ]]; then touch lost; kill -9 $$; fi
  last=$((last + 1)); mv work/.partial "work/iter_$last.pth"
done
echo "done at iter $last"
"""

DRIVER = """
import sys, os
from kubeflow.trainer import CustomTrainer, LocalProcessBackendConfig, TrainerClient
from kubeflow.trainer.options import Name

def machine(given):
    import os
    os.chdir(given["folder"])
    os.execvp(given["command"][0], given["command"])

root, wheel, name = sys.argv[1:4]
client = TrainerClient(backend_config=LocalProcessBackendConfig())
trainer = CustomTrainer(
    func=machine, func_args={"folder": root, "command": sys.argv[4:]}, env={**os.environ},
    packages_to_install=["torch @ file://" + wheel],
)
job = client.train(runtime="torch-distributed", trainer=trainer, options=[Name(name=name)])
try:
    client.wait_for_job_status(job, status={"Complete", "Failed"}, timeout=200, polling_interval=1)
except RuntimeError as error:
    print(error)
print(client.get_job(job).status)
print("\\n".join(client.get_job_logs(job)))
"""


def launcher_wheel(folder: Path) -> Path:
    """Stands for torch in the backend's environment, which it makes anew for each job: its torchrun is this environment's."""
    wheel = folder / "torch-0-py3-none-any.whl"
    files = {
        "torch_stand_in.py": f"import os, sys\ndef main(): os.execv({sys.executable!r}, [{sys.executable!r}, '-m', "
        "'torch.distributed.run', *[a for a in sys.argv[1:] if a]])\n",
        "torch-0.dist-info/METADATA": "Metadata-Version: 2.1\nName: torch\nVersion: 0\n",
        "torch-0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "torch-0.dist-info/entry_points.txt": "[console_scripts]\ntorchrun = torch_stand_in:main\n",
    }
    record = ""
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record += f"{name},sha256={digest},{len(text)}\n"
        archive.writestr("torch-0.dist-info/RECORD", record + "torch-0.dist-info/RECORD,,\n")
    return wheel


@pytest.mark.slow
def test_a_lost_machine_goes_on_where_its_last_whole_checkpoint_is(tmp_path: Path):
    pytest.importorskip("kubeflow.trainer", reason="kubeflow is not installed: pip install kubeflow")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text(MAKE)
    (tmp_path / "bin/make").chmod(0o755)
    (tmp_path / "tools").mkdir()
    for name in ("job_machine.sh", "usage.sh"):
        (tmp_path / "tools" / name).write_text((REPO / "tools" / name).read_text())
    (tmp_path / "driver.py").write_text(DRIVER)
    wheel = launcher_wheel(tmp_path)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYTHONPATH"))}
    env["PATH"] = f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    def attempt(name: str) -> str:
        command = ["bash", "tools/job_machine.sh", "train", "VARIANT=nano", "CFG_OPTIONS=a=1 b=2"]
        done = subprocess.run([sys.executable, tmp_path / "driver.py", tmp_path, wheel, name, *command], env=env, cwd=tmp_path,
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    first = attempt("first")
    assert "Failed" in first and "make train VARIANT=nano CFG_OPTIONS=a=1 b=2" in first, first
    assert sorted(p.name for p in (tmp_path / "work").glob("*.pth")) == ["iter_1.pth", "iter_2.pth"]
    second = attempt("second")
    assert "Complete" in second and "goes on from iter 2" in second and "done at iter 5" in second, second
