"""A small tree with the real Makefile and stubs for what it runs: the build graph is tested, not the products."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers import REPO

# Stands for the environment's Python: notes what it was asked to do and leaves the files that the real tool would.
STUB = r"""#!/usr/bin/env bash
set -euo pipefail
# several processes: what they run, as the launcher gets it (-m uniad.training.launch PROCESSES SCRIPT ...)
[[ $1 == -m && $2 == uniad.training.launch ]] && set -- "${4#"$PWD"/}" "${@:5}"
line=$1; for a in "${@:2}"; do line+=" [$a]"; done; printf '%s\n' "$line" >> calls.log
tool=$(basename "$1" .py); epochs=6; iters=; out=; infos=; work=
[[ $line == *stage2_e2e* ]] && epochs=20
[[ $line == *configs/bevformer* ]] && epochs=24
if [[ ${FAIL:-} == "$tool" ]]; then
  [[ -n ${LEAVE:-} ]] && { mkdir -p "$(dirname "$LEAVE")"; echo half > "$LEAVE"; }
  exit 1
fi
for (( i = 1; i <= $#; i++ )); do
  next=$((i + 1))
  case "${!i}" in
    --out|--out-dir) out=${!next} ;;
    --infos) infos=${!next} ;;
    --work-dir) work=${!next} ;;
    --max-iters) iters=${!next} ;;
    total_epochs=*) epochs=${!i#total_epochs=} ;;
  esac
done
case "$tool" in
  make_synthetic_nuscenes) mkdir -p "$out/v1.0-trainval"; echo "[]" > "$out/v1.0-trainval/sample.json" ;;
  make_synthetic_bench2drive) mkdir -p "$out" "$infos"
         echo "{}" > "$out/synthetic.json"; touch "$infos"/b2d_infos_{train,val}.pkl ;;
  create_data) out=${out:-data/infos}; mkdir -p "$out"; touch "$out"/nuscenes_infos_temporal_{train,val}.pkl ;;
  train) work=${work:-work_dirs}; mkdir -p "$work"; last=${iters:+iter_$iters}; last=$work/${last:-epoch_$epochs}.pth
         # no two trainings write the same bytes, and one that is complete writes nothing
         [[ -e $last ]] || { date +%s%N > "$last"; ln -sf "$(basename "$last")" "$work/latest.pth"; } ;;
  test|held_loss|export_onnx|convert_precision|quantize|verify|compare_sampling|compare_precision|build_engine|visualize|make_motion_anchors|make_random_weights|make_bag)
         [[ -z $out ]] || { mkdir -p "$(dirname "$out")"; echo made > "$out"; } ;;
esac
"""

# What `make configure` writes on a machine without GPU, engine and nuScenes: a tree that has it looks at no machine, like a
# person's second make.
CONFIGURED = """\
CONFIGURED_STACK := native
CONFIGURED_RUNTIME := host
CONFIGURED_DATASET := synthetic
CONFIGURED_NUSC_VERSION := v1.0-trainval
CONFIGURED_GPUS := 0
CONFIGURED_PYTHON := python3
"""

# Tools that need nothing but Python: the real ones
PLAIN = ("_refusal", "configure", "doctor", "uniad_tree", "fetch_weights", "preflight")


@dataclass
class Tree:
    root: Path

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        # what `make test` itself exports must not reach the make under test
        exported = {"VARIANT", "PYTHON", "NNODES", "NODE_RANK", "RANK", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"}
        env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD")) and k not in exported}
        return subprocess.run(
            ["make", *arguments], cwd=self.root, env={**env, **environment}, capture_output=True, text=True, timeout=60
        )

    def done(self, *arguments: str, **environment: str) -> str:
        result = self.make(*arguments, **environment)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def calls(self) -> list[str]:
        """What ran since the last call of this method, oldest first."""
        log = self.root / "calls.log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    def tools(self) -> list[str]:
        return [Path(line.split()[0]).stem for line in self.calls()]

    def files(self) -> set[str]:
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}


def bring_sources(tree: Tree) -> Tree:
    """The tools and the package, too, made long ago: from their imports make knows what a product follows from."""
    ignored = shutil.ignore_patterns("__pycache__", "*.sh", "setup_env.py")
    for name in ("tools", "projects/uniad"):
        shutil.copytree(REPO / name, tree.root / name, ignore=ignored, dirs_exist_ok=True)
        for path in (tree.root / name).rglob("*.py"):
            os.utime(path, (0, 0))
    return tree


@cache
def what_make_runs() -> tuple[Path, ...]:
    """Files of the package that mk/lib comes to: those that make runs before there is an environment."""
    found: set[Path] = set()
    left = sorted((REPO / "mk/lib").glob("*.py"))
    while left:
        path = left.pop()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("uniad"):
                parts = node.module.split(".")
                modules = [*("/".join(parts[:n]) + "/__init__" for n in range(1, len(parts) + 1)), "/".join(parts),
                           *("/".join([*parts, alias.name]) for alias in node.names)]  # fmt: skip
                files = {REPO / "projects" / f"{module}.py" for module in modules}
                fresh = {file for file in files if file.is_file()} - found
                found |= fresh
                left += fresh
    return tuple(sorted(found))


def lay_tree(tmp_path: Path, *, configured: bool = False) -> Tree:
    """The real Makefile and configs in a folder, and a stand-in for the environment's Python; ``configured``: as on a CPU."""
    shutil.copytree(REPO / "mk", tmp_path / "mk")
    # without recipes a training is the config's schedule, which is what most tests look at; test_make_recipe.py brings them
    ignored = shutil.ignore_patterns("recipes")
    shutil.copytree(REPO / "projects" / "configs", tmp_path / "projects" / "configs", ignore=ignored)
    for path in what_make_runs():
        target = tmp_path / path.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(REPO / name, tmp_path / name)
    (tmp_path / "tools").mkdir()
    for path in (REPO / "tools").iterdir():
        if path.suffix == ".sh" or path.stem in PLAIN:
            shutil.copy(path, tmp_path / "tools" / path.name)
    (tmp_path / "tools" / "setup_env.py").write_text("")
    stub = tmp_path / ".venv" / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB)
    stub.chmod(0o755)
    if configured:
        (tmp_path / "config.mk").write_text(CONFIGURED)
    return Tree(tmp_path)

