"""An engine made on a Jetson: on this machine, on one over ssh, or by a bundle that a person carries there.

All three run the same bundle. Over ssh the work goes on when the connection breaks; the same command again joins it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from uniad.artifacts.card import card_path
from uniad.backends import trtexec
from uniad.canary.judge import Result, cached, read_set
from uniad.engines import jetpack
from uniad.errors import UserError
from uniad.files import atomic_path, sha256
from uniad.jetson import ondevice
from uniad.jetson.bundle import CANARIES, DeviceOptions, files_of, pack, write_bundle, write_canary_bundle
from uniad.jetson.ssh import Remote

Say = Callable[[str], None]


def device_folder(name: str) -> str:
    """The folder that work and products go to on a device. Raises UserError for one that is not its own."""
    folder = name.removeprefix("~/").rstrip("/")
    if not folder or folder.startswith(("-", "~")) or not folder.isprintable() or {".", ".."} & set(folder.split("/")):
        raise UserError(f"JETSON_DIR={name}: name a folder of its own, from the login's home (engines) or absolute")
    return folder


def make_bundle(onnx: Path, tar: Path, options: DeviceOptions, say: Say = print) -> None:
    """Write the tar that a device unpacks and runs."""
    name = tar.name.removesuffix(".tar")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=_folder(tar)) as made:
        plan = write_bundle(onnx, Path(made), options)
        pack(Path(made), plan, tar, name)
    say(f"{tar}: {tar.stat().st_size / 2**20:.1f} MiB. On the device: tar xf {tar.name} && sh {name}/run.sh")


def build_here(onnx: Path, engine: Path, options: DeviceOptions, say: Say = print) -> dict:
    """Build, verify and time on this machine; the engine takes its place only if it is right."""
    trtexec.probe()
    with tempfile.TemporaryDirectory(prefix=".build-", dir=_folder(engine)) as made:
        plan = write_bundle(onnx, Path(made), options)
        ondevice.run(Path(made), plan, timing_cache=str(engine.parent / "timing.cache"), say=say)
        return _take(Path(made) / ondevice.OUT / plan["engine"], engine, "local", say)


def build_there(
    onnx: Path, engine: Path, options: DeviceOptions, remote: Remote, folder: str = "uniad-engines", say: Say = print
) -> dict:
    """Build, verify and time on a device over ssh, and bring engine, card and log back.

    There, work lies in FOLDER/work-DIGEST, which is removed at the end; engine, card and timing cache stay in FOLDER.
    """
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=_folder(engine)) as made:
        bundle = Path(made)
        plan = write_bundle(onnx, bundle, options)
        work = f"{folder}/work-{sha256(bundle / 'plan.json')[:12]}"
        stays = f"engine, card, timing.cache{' and canary/' if options.canary else ''} will stay in {folder}"
        say(f"{remote.target}: work goes to {work}, removed when it is done; {stays}")
        _look_there(remote, plan)
        _copy_there(remote, bundle, plan, work, options, say)
        _run_there(remote, work, say)
        fetched = bundle / "fetched"
        for name in (plan["engine"], plan["engine"] + ".json"):
            remote.fetch(f"{work}/{ondevice.OUT}/{name}", fetched / name)
        card = _take(fetched / plan["engine"], engine, remote.target, say)
    q, out = shlex.quote(work), shlex.quote(f"{work}/{ondevice.OUT}/{plan['engine']}")
    remote.run(f"mv -f {out} {out}.json {shlex.quote(folder)}/ && rm -rf {q}")
    say(f"{remote.target}: {folder}/{plan['engine']} and its card are there")
    return card


def canary_bundle(tar: Path, touched: list[str] | None, only: Sequence[str] = (), say: Say = print) -> None:
    """Write a tar of the canaries alone, for a device that ssh does not reach."""
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=_folder(tar)) as made:
        plan = write_canary_bundle(Path(made), touched, only)
        name = tar.name.removesuffix(".tar")
        pack(Path(made), plan, tar, name)
    say(f"{tar}: {tar.stat().st_size / 2**20:.1f} MiB. On the device: tar xf {tar.name} && sh {name}/run.sh canary")


def canaries_there(
    remote: Remote, touched: list[str] | None, folder: str = "uniad-engines", only: Sequence[str] = (), say: Say = print
) -> Result:
    """Try the canaries on a device over ssh. What was found stays in FOLDER/canary there, for the builds to come."""
    with tempfile.TemporaryDirectory(prefix="canaries-") as made:
        bundle = Path(made)
        plan = write_canary_bundle(bundle, touched, only)
        work = f"{folder}/canary-{sha256(bundle / 'plan.json')[:12]}"
        _look_there(remote, plan)
        remote.run(f"mkdir -p {shlex.quote(work)}")
        _send_together(remote, bundle, files_of(plan), work)
        say(f"{remote.target}: {len(read_set(bundle / CANARIES).rows)} canaries sent to {work}, removed when it is done")
        found = f"{work}/{ondevice.OUT}/{ondevice.CANARY_RESULT}"
        try:
            _run_there(remote, work, say, "canary")
        except UserError:
            # a canary that is wrong ends it so; the result says which
            if not remote.run(f"if [ -f {shlex.quote(found)} ]; then echo there; fi").strip():
                raise
        remote.fetch(found, bundle / "result.json")
        result = cached(bundle / "result.json")
    remote.run(f"rm -rf {shlex.quote(work)}")
    if result is None:
        raise UserError(f"{remote.target}: what came back is no result of canaries; run the same again")
    return result


def _look_there(remote: Remote, plan: dict) -> None:
    """Find out what cannot work before anything is copied."""
    output = remote.run(LOOK.format(release=jetpack.RELEASE_FILE, places=" ".join(trtexec.PLACES)))
    found = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    if found.get("release"):
        row = jetpack.jetpack_of(jetpack.parse_release(found["release"], remote.target))
        if plan.get("opset", 0) > row.highest_opset:
            raise UserError(
                f"{remote.target}: this graph has opset {plan['opset']}, JetPack {row.name} reads up to {row.highest_opset}: "
                f"`make jetson-engine JETPACK={row.name.split('/')[0]}` exports it for this release"
            )
    if not found.get("python3"):
        raise UserError(f"{remote.target}: python3 was not found there: sudo apt install python3 python3-numpy")
    if not found.get("trtexec"):
        raise UserError(f"{remote.target}: trtexec was not found there: `sudo apt install nvidia-jetpack` brings it")


LOOK = """r=${{NV_TEGRA_RELEASE:-{release}}}
[ ! -f "$r" ] || echo "release=$(head -n 1 "$r")"
echo "python3=$(command -v python3)"
t=${{TRTEXEC:-$(command -v trtexec)}}
for p in {places}; do [ -n "$t" ] || [ ! -x "$p" ] || t=$p; done
echo "trtexec=$t"
"""


def _copy_there(remote: Remote, bundle: Path, plan: dict, work: str, options: DeviceOptions, say: Say) -> None:
    names = files_of(plan)
    whole = sum((bundle / name).stat().st_size for name in names)
    held = f"if [ -d {shlex.quote(work)} ]; then du -sk {shlex.quote(work)}; else echo 0; fi"
    free, held = remote.free_bytes(work), int(remote.run(held).split()[0]) * 1024
    needed = max(whole - held, 0) + 2 * (bundle / "model.onnx").stat().st_size + options.spare_mib * 2**20
    if free < needed:
        raise UserError(
            f"{remote.target}: out of disk there: {free / 2**20:.0f} MiB are free, {needed / 2**20:.0f} MiB are needed; make "
            f"room, or name another folder with JETSON_DIR"
        )
    sent = 0
    # Small files travel together; the big ones one by one, each continued where it stopped.
    small = [n for n in names if n not in (ondevice.ONNX, ondevice.SEQUENCE)]
    for name in (ondevice.ONNX, ondevice.SEQUENCE):
        sent += remote.send(bundle / name, f"{work}/{name}")
    _send_together(remote, bundle, small, work)
    say(f"{remote.target}: {sent / 2**20:.1f} of {whole / 2**20:.1f} MiB sent")


def _send_together(remote: Remote, bundle: Path, names: list[str], work: str) -> None:
    with tempfile.TemporaryFile() as packed:
        subprocess.run(["tar", "-cf", "-", "-C", str(bundle), *names], stdout=packed, check=True)
        packed.seek(0)
        remote.run(f"tar -xf - -C {shlex.quote(work)}", stdin=packed)


# Started once, whoever looks: the process goes on when the connection ends. `rc` says how it ended.
START = """cd {work} || exit 2
running() {{ [ -f pid ] && kill -0 "$(cat pid)" 2>/dev/null; }}
if running; then echo 'joining the work that goes on there'; else
  if [ "$(cat rc 2>/dev/null)" != 0 ]; then
    rm -f rc
    : > log # there before tail looks for it
    nohup setsid sh -c 'sh run.sh --timing-cache ../timing.cache {command}; echo $? > rc' >> log 2>&1 < /dev/null &
    echo $! > pid
  fi
fi
tail -s 0.2 -n +1 -f --pid="$(cat pid)" log
exit "$(cat rc 2>/dev/null || echo 1)"
"""


def _run_there(remote: Remote, work: str, say: Say, command: str = "") -> None:
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        if not line.startswith("error: "):
            say(f"  {line}")

    if remote.follow(START.format(work=shlex.quote(work), command=command), note):
        messages = [line[len("error: ") :] for line in lines if line.startswith("error: ")]
        messages = messages or lines[-1:] or ["no reason given"]
        raise UserError(f"{remote.target}: {messages[-1]} [kept for a look, and for another try: {work}]")


def _take(built: Path, engine: Path, where: str, say: Say) -> dict:
    """Put a verified engine and its card into place."""
    card = json.loads(card_path(built).read_text())
    if card["sha256"] != sha256(built) or not (card["verified"] or {}).get("ok"):
        raise UserError(f"{where}: the engine that came back is not the one that was verified; run the same again")
    card["file"], card["built_on"] = engine.name, where
    with atomic_path(engine) as temporary:
        shutil.copyfile(built, temporary)
    with atomic_path(card_path(engine)) as temporary:
        temporary.write_text(json.dumps(card, indent=2) + "\n")
    latency = card["latency"].get("median_ms")
    say(f"{engine}: {card['bytes'] / 2**20:.1f} MiB, TensorRT {card['builder_version']}, built in {card['build_seconds']} s")
    say(f"  verified over {card['verified']['frames']} frames" + (f", {latency} ms a step (median)" if latency else ""))
    return card


def _folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.parent
