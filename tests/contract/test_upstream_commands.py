"""Each upstream command, as the targets would run it: flags, mounts, config, checkpoint names, order."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from helpers import REPO
from helpers.upstream_tree import SHM, STACK, STEMS, Upstream, shown

INSIDE = "/workspace/UniAD_train/UniAD"


def in_order(text: str, *parts: str) -> None:
    at = 0
    for part in parts:
        found = text.find(part, at)
        assert found >= 0, f"{part!r} is not in what follows:\n{text[at:]}"
        at = found + len(part)


@pytest.mark.parametrize("variant", ["tiny", "full"])
def test_the_whole_workflow_is_the_upstream_one_in_its_order(upstream: Upstream, variant: str):
    stem = STEMS[variant]
    text = shown(upstream, "train", "eval", f"VARIANT={variant}", "GPUS=8")
    run = f"run --rm --init --gpus all --shm-size={SHM[variant]} "
    tree = f"{upstream.root}/UniAD_train/UniAD:{INSIDE}"
    patch = "patch/uniad-tiny-training-support.patch"
    in_order(text, "uniad_tree.py clone --tree UniAD_train/UniAD", "uniad_tree.py patch", patch)
    in_order(
        text, "uniad_tree.py overlay --tree UniAD_train/UniAD third_party/uniad_mmdet3d projects/configs",
        "docker build --tag uniad_torch1.12", run, f"--volume {tree} ",
        f"--workdir {INSIDE}/third_party/uniad_mmdet3d ", " uniad_torch1.12 python3 setup.py build develop --user",
    )  # fmt: skip
    in_order(
        text, "python3 setup.py build develop --user", run, f"--volume {tree} ", f"--workdir {INSIDE} ",
        f"uniad_torch1.12 ./tools/uniad_dist_train.sh ./projects/configs/stage1_track_map/{stem}_track_map.py 8",
        f"cp UniAD_train/UniAD/projects/work_dirs/stage1_track_map/{stem}_track_map/epoch_6.pth UniAD_train/UniAD/ckpts/",
        f"mv UniAD_train/UniAD/ckpts/epoch_6.pth UniAD_train/UniAD/ckpts/{stem}_track_map.pth",
        run, f"uniad_torch1.12 ./tools/uniad_dist_train.sh ./projects/configs/stage2_e2e/{stem}_e2e.py 8",
        f"cp UniAD_train/UniAD/projects/work_dirs/stage2_e2e/{stem}_e2e/epoch_20.pth UniAD_train/UniAD/ckpts/",
        f"mv UniAD_train/UniAD/ckpts/epoch_20.pth UniAD_train/UniAD/ckpts/{stem}_e2e.pth",
        "--env CUDA_VISIBLE_DEVICES=0",
        f"uniad_torch1.12 ./tools/uniad_dist_eval.sh ./projects/configs/stage2_e2e/{stem}_e2e.py ./ckpts/{stem}_e2e.pth 1",
    )  # fmt: skip
    # nothing is added to upstream's commands
    assert all(re.search(end, text, re.M) for end in (r"track_map\.py 8$", r"_e2e\.py 8$", r"\.pth 1$"))
    assert f"checkpoint_record.py copy ckpts/{stem}_e2e.pth ckpts/{stem}_e2e_ep20.pth" in text


def test_published_weights_are_those_that_the_variant_starts_from(upstream: Upstream):
    tiny = shown(upstream, "train-stage1", "VARIANT=tiny", "GPUS=1")
    in_order(
        tiny, "fetch_weights.py --out ckpts/bevformer_tiny_epoch_24.pth --url https://", "/bevformer_tiny_epoch_24.pth",
        "cp ckpts/bevformer_tiny_epoch_24.pth UniAD_train/UniAD/ckpts/", f"--workdir {INSIDE} ",
        "uniad_torch1.12 python3 ./tools/postprocess_bevformer_tiny_epoch_24_pth.py\n", "uniad_dist_train.sh",
    )  # fmt: skip
    full = shown(upstream, "train-stage1", "VARIANT=full", "GPUS=1")
    in_order(full, "--out ckpts/bevformer_r101_dcn_24ep.pth", "UniAD_train/UniAD/ckpts/bevformer_r101_dcn_24ep.pth", "dist_train")
    assert "python3 ./tools/postprocess" not in full


def test_the_pinned_commit_is_upstreams():
    text = (REPO / "mk/upstream.mk").read_text()
    assert re.search(r"^UNIAD_COMMIT [:?]= 02fa68c5[0-9a-f]{32}$", text, re.M)


@pytest.mark.parametrize("variant", ["tiny", "full"])
def test_a_shell_is_the_upstream_container(upstream: Upstream, variant: str):
    line = shown(upstream, "shell", f"VARIANT={variant}", "GPUS=8").splitlines()[-1]
    assert f"--gpus all --shm-size={SHM[variant]} " in line
    assert f"--volume {upstream.root}/UniAD_train/UniAD:{INSIDE} " in line
    assert f"--volume {upstream.root}:/workspace/UniAD " in line, "the deployment tree"
    assert f"--user {os.getuid()}:{os.getgid()} " in line
    assert line.endswith("uniad_torch1.12 /bin/bash")


def test_the_dataset_appears_at_the_upstream_paths_wherever_it_lies(upstream: Upstream, tmp_path: Path):
    outside = tmp_path / "elsewhere"
    (upstream.root / "data/nuscenes").rename(outside)
    (upstream.root / "data/nuscenes").symlink_to(outside)
    line = shown(upstream, "shell").splitlines()[-1]
    assert f"--volume {outside}:{INSIDE}/data/nuscenes " in line
    assert f"--volume {upstream.root}/data/infos:{INSIDE}/data/infos " in line
    assert f"--volume {upstream.root}/data/others:{INSIDE}/data/others " in line


def test_a_dataset_below_a_folder_with_a_blank_is_mounted(upstream: Upstream, tmp_path: Path):
    outside = tmp_path / "my  big disk"
    (upstream.root / "data/nuscenes").rename(outside)
    (upstream.root / "data/nuscenes").symlink_to(outside)
    mount = f"'{outside}:{INSIDE}/data/nuscenes'"
    assert f"--volume {mount} " in upstream.done("-n", "shell", *STACK)
    assert f"--volume {mount} " in upstream.done("-n", "train-stage1", *STACK, "VARIANT=tiny", "GPUS=1")
    native = upstream.done("-n", "eval", "STACK=native", *STACK[1:], "VARIANT=tiny")
    assert f"--volume '{outside}:{outside}' " in native
    colon = tmp_path / "a:b"
    outside.rename(colon)
    (upstream.root / "data/nuscenes").unlink()
    (upstream.root / "data/nuscenes").symlink_to(colon)
    done = upstream.make("-n", "shell", *STACK)
    assert done.returncode != 0 and f"{colon} cannot be mounted: a container engine takes no colon in a path" in done.stderr


DOCKER = '{"ServerVersion":"20.10","SecurityOptions":["name=seccomp,profile=default"%s]}'
PODMAN = """{
  "host": {
    "buildahVersion": "1.28.2",
    "security": {
      "rootless": %s,
      "selinuxEnabled": %s
    }
  }
}"""


def test_a_container_is_started_as_its_engine_needs_it(upstream: Upstream):
    me = f"--user {os.getuid()}:{os.getgid()}"
    info = upstream.root / "engine/info.json"

    def line(text: str, *more: str) -> str:
        info.write_text(text)
        return shown(upstream, "shell", "GPUS=1", *more).splitlines()[-1]

    plain = line(DOCKER % "")
    assert f" {me} " in plain and " --gpus all " in plain and "label=disable" not in plain
    rootless = line(DOCKER % ',"name=rootless"')
    assert " --user 0:0 " in rootless, "the caller is root inside"
    guarded = line(DOCKER % ',"name=selinux"')
    assert " --security-opt label=disable " in guarded and ":z" not in guarded, "a data set keeps its labels"
    alias = line(PODMAN % ("true", "true"))
    assert " --device nvidia.com/gpu=all " in alias and "--gpus" not in alias and "label=disable" in alias
    assert ("--userns=keep-id" in alias) == (os.getuid() != 0)
    assert "label=disable" not in line(PODMAN % ("false", "false"))


def test_rootless_docker_on_several_machines_is_one_line(upstream: Upstream):
    (upstream.root / "engine/info.json").write_text(DOCKER % ',"name=rootless"')
    machines = ("VARIANT=full", "GPUS=8", "NNODES=4", "MASTER_ADDR=first", "NODE_RANK=1")
    done = upstream.make("-n", "train-stage1", *STACK, *machines)
    assert done.returncode != 0 and "NNODES=4: rootless docker has no host network to give" in done.stderr


def test_without_gpus_no_gpu_is_asked_for(upstream: Upstream):
    text = shown(upstream, "train", "eval", "VARIANT=tiny", "GPUS=0")
    assert "--gpus" not in text and "CUDA_VISIBLE_DEVICES" not in text
    in_order(
        text, "python3 ./tools/train.py ./projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --deterministic",
        "python3 ./tools/test.py ./projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py ./ckpts/tiny_imgx0.25_e2e.pth --eval bbox",
    )  # fmt: skip


def test_more_flags_and_another_engine(upstream: Upstream):
    assert " --memory 9g --cpus 3 uniad_torch1.12 " in shown(upstream, "shell", "DOCKER_FLAGS=--memory 9g --cpus 3")
    line = upstream.done("-n", "shell", "STACK=torch1.12", "RUNTIME=podman", "GPUS=1", "DATASET=nuscenes").splitlines()[-1]
    assert "uniad_torch1.12 podman run" in line and "--device nvidia.com/gpu=all" in line and "--gpus" not in line
    assert "--shm-size=16g " in shown(upstream, "shell", "SHM_SIZE=16g")


def test_a_terminal_is_handed_on_only_where_there_is_one(upstream: Upstream):
    assert " -it " not in shown(upstream, "shell")
    host, terminal = pty.openpty()
    try:
        env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | dict(upstream.environment)
        done = subprocess.run(
            ["make", "-n", "shell", *STACK, *upstream.settings], cwd=upstream.root, env=env, stdin=terminal,
            stderr=terminal, stdout=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(host)
    assert " run --rm --init -it " in done.stdout


def test_several_machines_run_the_upstream_launch(upstream: Upstream):
    machines = ("VARIANT=full", "GPUS=8", "NNODES=4", "MASTER_ADDR=first")
    text = shown(upstream, "train-stage1", *machines, "NODE_RANK=2", "MASTER_PORT=28599")
    in_order(
        text, "wait_for_nodes.py --nodes 4 --rank 2 --address first --port 28599", "--network host",
        "python -m torch.distributed.launch --nproc_per_node=8 --nnodes=4 --node_rank=2 --master_addr=first --master_port=28599 "
        "./tools/train.py ./projects/configs/stage1_track_map/full_track_map.py --launcher pytorch "
        "--deterministic --work-dir ./projects/work_dirs/stage1_track_map/full_track_map/\n",
    )  # fmt: skip
    assert "epoch_6.pth UniAD_train" not in shown(upstream, "train", *machines, "NODE_RANK=2"), "the first machine promotes"
    assert "epoch_6.pth UniAD_train" in shown(upstream, "train", *machines, "NODE_RANK=0")
    rank = shown(upstream, "train-stage1", *machines, "RANK=3")
    assert "--node_rank=3" in rank and "--master_port=28599" in rank


@pytest.mark.parametrize("gpus", [9, 12, 16])
def test_more_gpus_than_eight_are_one_machines_processes(upstream: Upstream, gpus: int):
    """Upstream's script makes two machines of 16 GPUs, and waits; of 12 it uses eight."""
    text = shown(upstream, "train", "VARIANT=full", f"GPUS={gpus}")
    assert "./tools/uniad_dist_train.sh" not in text
    for work, kind in (("stage1_track_map", "track_map"), ("stage2_e2e", "e2e")):
        in_order(
            text, f"python -m torch.distributed.launch --nproc_per_node={gpus} --nnodes=1 --node_rank=0 --master_addr=127.0.0.1 ",
            f"./tools/train.py ./projects/configs/{work}/full_{kind}.py --launcher pytorch --deterministic "
            f"--work-dir ./projects/work_dirs/{work}/full_{kind}/",
        )  # fmt: skip


def test_a_cluster_gets_the_same_line_for_each_machine(upstream: Upstream):
    sbatch = upstream.root / "bin/sbatch"
    sbatch.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > submitted\n')
    sbatch.chmod(0o755)
    upstream.done("slurm", *STACK, "VARIANT=full", "GPUS=8", "NNODES=4", "SLURM_FLAGS=--partition=gpu")
    words = (upstream.root / "submitted").read_text().split()
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--partition=gpu"} <= set(words)
    assert words.index("--signal=TERM@180") < words.index("--partition=gpu")  # what SLURM_FLAGS says of it wins
    assert "tools/slurm_job.sh" in words and {"VARIANT=full", "STACK=torch1.12", "GPUS=8"} <= set(words)


def test_the_upstream_advice_for_memory_is_a_variable(upstream: Upstream):
    text = shown(upstream, "train-stage1", "VARIANT=full", "GPUS=8", "QUEUE_LENGTH=3")
    assert "full_track_map.py 8 --cfg-options queue_length=3 model.queue_length=3 data.train.queue_length=3" in text


def test_iterations_instead_of_epochs_change_names_and_skip_validation(upstream: Upstream):
    text = shown(upstream, "train", "VARIANT=tiny", "GPUS=0", "MAX_ITERS=2", "FROM_SCRATCH=1")
    assert "runner.type=IterBasedRunner runner.max_epochs=None runner.max_iters=2" in text and "--no-validate" in text
    assert "cp UniAD_train/UniAD/projects/work_dirs/stage1_track_map/tiny_imgx0.25_track_map/iter_2.pth" in text
    assert "load_from=None" in text and "fetch_weights" not in text


def test_a_run_does_each_step_once_and_the_next_does_nothing(upstream: Upstream):
    goals = ("train", "eval", *STACK, "VARIANT=tiny", "GPUS=8", "TOOLS_RUNTIME=host")
    upstream.done(*goals)
    log = upstream.engine_log()
    assert [line[0] for line in log if line[0] == "build"] == ["build"], "no deployment image: native tools run on the host"
    ran = [line[line.index("uniad_torch1.12") + 1] for line in log if line[0] == "run"]
    train = "./tools/uniad_dist_train.sh"
    assert ran == ["python3", "python3", train, train, "./tools/uniad_dist_eval.sh"], "compile, init-weights, both stages"
    assert (upstream.uniad / "projects/lines.py").read_text() == "one\nours\nthree\n"
    assert not (upstream.uniad / "sources").exists()
    assert (upstream.root / "ckpts/tiny_imgx0.25_e2e_ep20.pth").is_file()
    upstream.done(*goals)
    assert upstream.engine_log() == []
    upstream.done("train", *goals[2:], "CFG_OPTIONS=optimizer.lr=1e-5")
    assert len([line for line in upstream.engine_log() if line[0] == "run"]) == 2
    assert list((upstream.uniad / "projects/work_dirs/stage1_track_map").glob("tiny_imgx0.25_track_map.2*")), "set aside"


def test_native_targets_run_in_the_deployment_image(upstream: Upstream):
    text = upstream.done("-n", "train", "VARIANT=nano", "STACK=native", "RUNTIME=docker", "GPUS=0", "DATASET=synthetic")
    assert "docker build --tag uniad_deploy" in text and "tools/setup_env.py" not in text
    lines = [line for line in text.splitlines() if "tools/train.py" in line and "run --rm" in line]
    assert len(lines) == 2, "one for each stage"
    assert all(f"--volume '{upstream.root}:/workspace/UniAD' --workdir /workspace/UniAD" in line for line in lines)
    assert "uniad_deploy python3 tools/train.py projects/configs/stage1_track_map/nano_track_map.py" in lines[0]
    many = upstream.done("-n", "train", "VARIANT=nano", "STACK=native", "RUNTIME=docker", "GPUS=4", "DATASET=synthetic")
    assert re.search(r"--gpus all .* uniad_deploy tools/uniad_dist_train.sh .* 4 ", many)


def test_each_machine_of_a_job_trains_with_its_own_rank(tmp_path: Path):
    for name, text in {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'shift; for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "make": 'echo "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_NNODES": "2"}
    command = ["bash", REPO / "tools/slurm_job.sh", "train", "VARIANT=full", "GPUS=8"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"train NNODES=2 NODE_RANK={rank} MASTER_ADDR=node7 VARIANT=full GPUS=8" for rank in (0, 1)
    ]
