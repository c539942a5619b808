#!/usr/bin/env python3
"""Says what this machine can and cannot do for UniAD, and what to do about it. Changes nothing.

Standard library only: it must work where nothing is installed. Exit status 1 when something that every use needs is
missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mk/lib"))
import machine  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
OK, WARN, FAIL = "ok", "note", "FAIL"

# GiB: what each use needs. Synthetic default world, nuScenes trainval, checkpoints of a full run.
DISK_SYNTHETIC, DISK_NUSCENES = 8, 350


@dataclass(frozen=True)
class Needs:
    """What training a variant needs, as its row in mk/variants.mk says: GiB of /dev/shm, and of each GPU where that is known."""

    shm_gib: float
    gpu_gib: float

    @classmethod
    def of(cls, text: str) -> Needs:
        """``32g,32``, ``512m,``"""
        shm, gpu = text.split(",")
        number, unit = shm.rstrip("bkmg") or "0", shm[-1:]
        return cls(float(number) / {"g": 1, "m": 2**10, "k": 2**20}.get(unit, 2**30), float(gpu or 0))


@dataclass(frozen=True)
class Finding:
    state: str
    what: str
    found: str
    do: str = ""


def python(host: str) -> Finding:
    found = machine.find_python(host)
    if found is None:
        return Finding(FAIL, "Python", "none of 3.10, 3.11, 3.12 on PATH", "install one; newer ones lack numpy < 2")
    return Finding(OK, "Python", f"{found[0]} is {found[1][0]}.{found[1][1]}")


def tools() -> Finding:
    missing = [name for name in ("git", "make", "bash") if shutil.which(name) is None]
    if missing:
        return Finding(FAIL, "Tools", f"{', '.join(missing)} not on PATH", "install them with the system's package manager")
    return Finding(OK, "Tools", "git, make, bash")


def environment(venv: Path) -> Finding:
    interpreter = venv / "bin" / "python"
    if not interpreter.exists():
        return Finding(WARN, "Environment", f"{venv} is not there yet", "make env (any target that needs it makes it)")
    pins = machine.pins((ROOT / "pyproject.toml").read_text(), *machine.INSTALLED)
    versions = machine.installed(str(interpreter), pins)
    if versions is None:
        return Finding(FAIL, "Environment", f"{interpreter} does not run", f"rm -r {venv}; make env")
    wrong = [
        f"{name} {versions[name].split('+')[0] or 'absent'} instead of {pin}"
        for name, pin in pins.items()
        if versions[name].split("+")[0] != pin.split("+")[0]
    ]
    if wrong:
        return Finding(FAIL, "Environment", "; ".join(wrong[:3]) + (f"; {len(wrong) - 3} more" if wrong[3:] else ""), "make env")
    return Finding(OK, "Environment", f"{venv}: {len(pins)} pinned packages, torch {versions['torch']}")


def shell(pythonpath: str) -> list[Finding]:
    """What the shell brings that is not ours."""
    if not pythonpath:
        return []
    return [Finding(OK, "PYTHONPATH", f"{pythonpath}: left out, its packages may be for another Python (a sourced ROS)")]


def torch_device(venv: Path, gpus: list[machine.Gpu]) -> Finding:
    interpreter = venv / "bin" / "python"
    if not interpreter.exists():
        return Finding(WARN, "torch", "not installed yet", "make env")
    code = (
        "import json, torch; c = torch.cuda; "
        "print(json.dumps([torch.version.cuda, c.is_available(), c.get_arch_list() if c.is_available() else []]))"
    )
    text = machine.run([str(interpreter), "-c", code], timeout=120)
    if text is None:
        return Finding(FAIL, "torch", "cannot be imported", f"rm -r {venv}; make env")
    cuda, available, archs = json.loads(text)
    if available:
        cap = "".join(map(str, gpus[0].capability)) if gpus else ""
        if cap and not any(a.endswith(f"_{cap}") or a.split("_")[1][:-1] == cap[:-1] for a in archs):
            found = f"has kernels for {', '.join(archs)}, not sm_{cap}"
            return Finding(FAIL, "torch", found, "another torch build: TORCH_INDEX_URL")
        return Finding(OK, "torch", f"CUDA {cuda} works")
    if gpus and cuda is None:
        do = "make env TORCH_INDEX_URL=https://download.pytorch.org/whl/cu128"
        return Finding(WARN, "torch", "CPU build on a machine with a GPU", do)
    if gpus:
        do = "a newer NVIDIA driver, or an older CUDA through TORCH_INDEX_URL"
        return Finding(WARN, "torch", f"CUDA {cuda} cannot use the GPU", do)
    return Finding(OK, "torch", "runs on the CPU")


def gpu(gpus: list[machine.Gpu], needs: dict[str, Needs]) -> Finding:
    if not gpus:
        return Finding(
            WARN, "GPU", f"no NVIDIA GPU; {machine.cores()} CPU cores",
            "make demo trains its small model here in minutes; train larger ones elsewhere, checkpoints carry over",
        )  # fmt: skip
    shown = "; ".join(map(str, gpus))
    old = [g for g in gpus if g.capability < machine.OLDEST_GPU]
    if old:
        return Finding(WARN, "GPU", shown, f"{old[0].name} is older than sm_70, which torch needs: it is left out")
    least = min((g.memory_gib for g in gpus if g.memory_gib), default=0.0)
    large = [f"{variant} needs about {need.gpu_gib:g} GiB a GPU" for variant, need in needs.items() if 0 < least < need.gpu_gib]
    newer = [g for g in gpus if g.capability > machine.NEWEST_UPSTREAM_GPU]
    notes = []
    if large:
        notes.append(f"upstream's {', '.join(large)}")
    if newer:
        notes.append("too new for upstream's torch 1.12 stack (up to sm_86); native runs")
    return Finding(OK, "GPU", shown, "; ".join(notes))


def engine() -> Finding:
    engines = machine.engines()
    working = [name for name, state in engines.items() if state == "answers"]
    if working:
        return Finding(OK, "Containers", f"{', '.join(working)} answers")
    if engines:
        shown = "; ".join(f"{name}: {state}" for name, state in engines.items())
        return Finding(WARN, "Containers", shown[:160], "not needed for RUNTIME=host; start the daemon, or join its group")
    return Finding(WARN, "Containers", "neither docker nor podman", "not needed for RUNTIME=host")


def dataset(data: Path, version: str, venv: Path) -> list[Finding]:
    findings = []
    root = data / "nuscenes"
    if not root.exists():
        findings.append(
            Finding(WARN, "nuScenes", f"no {root}", f"ln -s /where/nuscenes/is {root}, or use the synthetic world: make data")
        )
    else:
        code = (
            "import json, sys\nfrom uniad.data.check import dataset_problems\n"
            "print(json.dumps(dataset_problems(sys.argv[1], sys.argv[2])))"
        )
        text = machine.run([str(venv / "bin" / "python"), "-c", code, str(root), version], timeout=120)
        if text is None:
            versions = machine.nuscenes_versions(root)
            state = OK if version in versions else WARN
            shown = f"{root}: {', '.join(versions) or 'no tables'}"
            findings.append(Finding(state, "nuScenes", shown, "make env, to check it fully"))
        else:
            problems = json.loads(text)
            what = "; ".join(problems[:4]) + (f"; {len(problems) - 4} more" if problems[4:] else "")
            findings.append(Finding(WARN if problems else OK, "nuScenes", what or f"{root}: {version} is complete",
                                    "docs/data.md says where each part comes from" if problems else ""))  # fmt: skip
    if (data / "synthetic" / "infos").is_dir():
        findings.append(Finding(OK, "Synthetic", f"{data / 'synthetic'} is made"))
    return findings


def space(data: Path, needs: dict[str, Needs]) -> list[Finding]:
    free = machine.free_gib(data)
    findings = []
    if free < DISK_SYNTHETIC:
        findings.append(Finding(FAIL, "Disk", f"{free:.0f} GiB free", f"the synthetic world and a run need {DISK_SYNTHETIC} GiB"))
    elif free < DISK_NUSCENES and not (data / "nuscenes").exists():
        findings.append(Finding(OK, "Disk", f"{free:.0f} GiB free", f"nuScenes trainval would need about {DISK_NUSCENES} GiB"))
    else:
        findings.append(Finding(OK, "Disk", f"{free:.0f} GiB free"))
    memory = machine.memory_gib()
    if memory is not None:
        low = memory < 6
        do = "a variant for nuScenes needs about 6 GiB" if low else ""
        findings.append(Finding(WARN if low else OK, "Memory", f"{memory:.0f} GiB free", do))
    size = machine.shm_gib()
    if size is not None:
        fits = [variant for variant, need in needs.items() if size >= need.shm_gib]
        do = "larger variants: CFG_OPTIONS=data.workers_per_gpu=0, or a larger /dev/shm (docs/faq.md)"
        shown = f"{size:.1f} GiB" + (f": enough for {', '.join(fits) or 'none'}" if needs else "")
        findings.append(Finding(OK if fits or not needs else WARN, "/dev/shm", shown, "" if len(fits) == len(needs) else do))
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--nusc-version", default="v1.0-trainval")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--pythonpath", default=os.environ.get("PYTHONPATH", ""), help="what the shell put there")
    parser.add_argument("--needs", nargs="*", default=[], metavar="VARIANT=SHM,GIB", help="rows of mk/variants.mk, from make")
    args = parser.parse_args()
    needs = {variant: Needs.of(text) for variant, text in (row.split("=", 1) for row in args.needs)}
    found = machine.gpus()
    findings = [
        python(args.python),
        tools(),
        environment(args.venv),
        *shell(args.pythonpath),
        torch_device(args.venv, found),
        gpu(found, needs),
        engine(),
        *dataset(args.data, args.nusc_version, args.venv),
        *space(args.data, needs),
    ]
    for finding in findings:
        print(f"{finding.state:4s}  {finding.what:12s} {finding.found}")
        if finding.do:
            print(f"      {'':12s} -> {finding.do}")
    failed = [finding.what for finding in findings if finding.state == FAIL]
    print(f"\nto mend first: {', '.join(failed)}" if failed else "\nready: make demo")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
