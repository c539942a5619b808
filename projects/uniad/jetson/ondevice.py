"""What a bundle does on its device: build the engine with trtexec, replay the recorded sequence through it, judge, time, report.

``run.sh`` of a bundle starts it. Travels to the device: Python 3.8 and numpy, nothing else; so does what it imports.
A bundle's ``plan.json`` says what to do; products go to ``out/``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from uniad.backends import trtexec
from uniad.backends.trtexec import undo_rounding
from uniad.canary.bench import TrtexecBench, run_cached, run_set
from uniad.canary.judge import cache_file, checked_entry, keep, read_set, refusal
from uniad.engines import jetpack
from uniad.errors import UserError, run_cli
from uniad.postprocess.map_merge import finish_lanes
from uniad.verify.compare import Report, compare
from uniad.verify.tolerances import Tolerance

ONNX, SEQUENCE, PLAN, CANARIES, OUT = "model.onnx", "sequence.npz", "plan.json", "canaries", "out"
CANARY_RESULT = "canary.json"  # in OUT


def main() -> None:
    args = _parse_args()
    here = Path(args.bundle).resolve()
    plan = read_plan(here)
    if args.command == "report":
        print(json.dumps(jetpack.describe_device(), indent=2))
    elif args.command == "compare":
        report = judge_files(here, plan, Path(args.folder))
        print(_verdict(report, plan))
        if not report.ok:
            raise UserError(f"{args.folder}: wrong outputs: {report.faults[0]}{_more(report)}")
    elif args.command == "verify":
        _verify_card(Path(args.engine), plan)
        report, _ = verify(here, plan, trtexec.probe(), Path(args.engine), args.keep)
        print(_verdict(report, plan))
        if not report.ok:
            raise UserError(f"{args.engine}: wrong on this device: {report.faults[0]}{_more(report)}")
    elif args.command == "canary":
        run_canaries(here, plan, args.timing_cache)
    else:
        if "frames" not in plan:
            raise UserError(f"{here}: a bundle of canaries, without a graph to build: sh run.sh canary")
        run(here, plan, args.keep, args.timing_cache)


def _parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="run.sh", description="Build, verify and time the engine of this bundle on this device.")
    p.add_argument("--bundle", default=".", help=argparse.SUPPRESS)
    p.add_argument("--timing-cache", metavar="FILE", help="what builds have measured (default: out/timing.cache)")
    p.add_argument("--keep", metavar="FOLDER", help="keep the outputs of every frame there")
    commands = p.add_subparsers(dest="command")
    commands.add_parser("all", help="build, verify, time (default)")
    commands.add_parser("report", help="print model, JetPack, power mode and clocks")
    one = commands.add_parser("verify", help="verify an engine that is there")
    one.add_argument("engine")
    commands.add_parser("canary", help="try micro-graphs that some releases compute wrong; build no engine")
    two = commands.add_parser("compare", help="judge outputs that were made elsewhere: FOLDER/000, 001, ...")
    two.add_argument("folder")
    return p.parse_args()


def read_plan(here: Path) -> dict:
    """The plan of a bundle whose files are whole. Raises UserError naming the first that is not."""
    try:
        plan = json.loads((here / PLAN).read_text())
    except FileNotFoundError:
        raise UserError(f"{here}: no {PLAN}; is this an unpacked bundle?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{here / PLAN}: cannot be read ({error}); unpack the bundle again") from None
    if not isinstance(plan, dict) or not isinstance(plan.get("files"), dict) or not (plan.get("frames") or plan.get("canaries")):
        raise UserError(f"{here / PLAN}: no plan of a bundle with recorded frames; unpack the bundle again")
    for name, digest in plan["files"].items():
        if not (here / name).is_file():
            raise UserError(f"{here / name} is missing; unpack the bundle again")
        if digest_of(here / name) != digest:
            raise UserError(f"{here / name} changed after the bundle was made (digest differs); unpack the bundle again")
    return plan


def run(here: Path, plan: dict, keep: str | None = None, timing_cache: str | None = None, say=print) -> dict:
    """Build (unless done), verify and time; returns the card. A wrong engine is removed, and is an error."""
    tool = trtexec.probe()
    device = jetpack.describe_device()
    highest = jetpack.highest_opset(tool.version)
    if plan["opset"] > highest:
        row = next(r for r in jetpack.JETPACKS if r.highest_opset == highest)
        raise UserError(
            f"this graph has opset {plan['opset']}, TensorRT {tool.version_text} here reads up to {highest}: export it for this "
            f"release, `make jetson-engine JETPACK={row.name.split('/')[0]}`"
        )
    say(f"device: {device['model']}, JetPack {device['jetpack'] or 'none'}, TensorRT {tool.version_text} ({tool.path})")
    say(f"power mode: {device['power_mode'] or 'unknown'}; clocks (MHz): {device['clocks_mhz'] or 'unknown'}; left as they are")
    out = here / OUT
    out.mkdir(exist_ok=True)
    engine = out / plan["engine"]
    options = plan["options"]
    made_by = {"plan": digest_of(here / PLAN), "tensorrt": tool.version_text, "device": device["model"]}
    stamp = out / "built.json"
    card = _read(stamp)
    if card and card["made_by"] == made_by and engine.is_file() and digest_of(engine) == card["sha256"]:
        say(f"{OUT}/{engine.name}: is there already")
    else:
        _check_disk(out, 2 * (here / ONNX).stat().st_size, options["spare_mib"])
        canaries = _check_canaries(here, plan, tool, device, timing_cache, say)
        cache = os.path.abspath(timing_cache or str(out / "timing.cache")) if options["timing_cache"] else ""
        part = out / (engine.name + ".part")
        words = trtexec.build_command(
            tool,
            str(here / ONNX),
            str(part),
            plan["precision"],
            options["workspace_mib"],
            cache,
            options["compute_capabilities"],
            plan["fp32_nodes"],
        )
        shown = [word.replace(str(here) + os.sep, "") for word in trtexec.shown(words)]
        say("building: " + " ".join(shown))
        try:
            seconds = trtexec.build(words, out / "build.log", say)
            if not part.is_file():
                raise UserError(f"trtexec wrote no engine; its whole output: {out / 'build.log'}")
            os.replace(str(part), str(engine))
        finally:
            if part.exists():
                part.unlink()
        card = {
            "made_by": made_by,
            "file": engine.name,
            "sha256": digest_of(engine),
            "bytes": engine.stat().st_size,
            "build_seconds": round(seconds, 1),
            "command": shown,
            **({"canaries": canaries} if canaries else {}),
        }
        stamp.write_text(json.dumps(card, indent=2) + "\n")
    say(f"verifying {plan['frames']} frames, the state fed back")
    report, last = verify(here, plan, tool, engine, keep)
    if not report.ok:
        (out / "report.json").write_text(json.dumps(report.to_json(), indent=2) + "\n")
        engine.unlink()
        stamp.unlink()
        raise UserError(
            f"{engine.name}: built, but wrong on this device and therefore removed: {report.faults[0]}{_more(report)}"
        )
    say(_verdict(report, plan))
    latency = trtexec.TrtexecEngine(tool, engine, plan["outputs"]).latency(last, options["iterations"], options["seconds"])
    say("latency (GPU): " + (", ".join(f"{k[:-3]} {v} ms" for k, v in latency.items()) or "trtexec gave none"))
    card = {
        **plan["card"],
        "kind": "engine",
        "builder": "trtexec",
        "builder_version": tool.version_text,
        "precision": plan["precision"],
        "options": options,
        "device": device,
        **{k: v for k, v in card.items() if k != "made_by"},
        "verified": report.to_json(),
        "latency": latency,
    }
    (out / (engine.name + ".json")).write_text(json.dumps(card, indent=2) + "\n")
    say(f"done: {out / engine.name}, its card beside it")
    return card


def _canary_cache(here: Path, timing_cache: str | None) -> Path:
    """Beside the timing cache, which outlives the bundle's own folder over ssh."""
    return Path(os.path.abspath(timing_cache)).parent / "canary" if timing_cache else here / OUT / "canary"


def _check_canaries(here: Path, plan: dict, tool: trtexec.Trtexec, device: dict, timing_cache: str | None, say) -> dict | None:
    """The entry for the card; None in a bundle without canaries. Raises UserError where one is wrong that concerns the graph."""
    touched = plan.get("canaries")
    if touched is None:
        return None
    canaries = read_set(here / CANARIES)
    say(f"trying {len(canaries.rows)} canaries, unless this TensorRT was tried before")
    result = run_cached(TrtexecBench(tool, device["model"]), canaries, _canary_cache(here, timing_cache), say)
    return checked_entry(canaries, result, touched, plan["card"]["onnx"], say)


def run_canaries(here: Path, plan: dict, timing_cache: str | None = None, say=print) -> None:
    """Try all of them anew, print what was found, keep it in out/. Raises UserError for a wrong one that concerns the graph."""
    touched = plan.get("canaries")
    if touched is None:
        raise UserError(f"{here}: this bundle was made with CANARY=0; make it again without")
    canaries, tool = read_set(here / CANARIES), trtexec.probe()
    result = run_set(TrtexecBench(tool, str(jetpack.describe_device()["model"])), canaries)
    kept = cache_file(_canary_cache(here, timing_cache), canaries.digest, result.backend, result.version, result.device)
    for path in (kept, here / OUT / CANARY_RESULT):
        keep(path, result)
    for name, outcome in result.outcomes.items():
        say(f"{name}: {outcome.state}" + (f", {outcome.text}" if outcome.text else ""))
    say(f"canaries: {result.where}: {result.tally()}")
    refused = refusal(canaries, result, touched, plan["card"]["onnx"] if "card" in plan else "any graph that holds it")
    if refused:
        raise UserError(refused)


def _verify_card(engine: Path, plan: dict) -> None:
    card = _read(Path(f"{engine}.json"))
    if card is None:
        raise UserError(f"{engine}.json: the card of {engine.name} is missing; build the engine again with run.sh")
    if card["sha256"] != digest_of(engine):
        raise UserError(f"{engine}: changed after its card was written (digest differs); build it again with run.sh")
    if card["onnx_sha256"] != plan["card"]["onnx_sha256"]:
        raise UserError(f"{engine}: was built from another ONNX than this bundle's; build it again with run.sh")
    version, model = trtexec.probe().version_text, jetpack.describe_device()["model"]
    if card["builder_version"] != version:
        raise UserError(f"{engine}: built for TensorRT {card['builder_version']}, here is {version}; build it again with run.sh")
    if card["device"]["model"] != model:
        raise UserError(f"{engine}: built on {card['device']['model']}, this is {model}; build it again with run.sh")


def verify(here: Path, plan: dict, tool: trtexec.Trtexec, engine: Path, keep: str | None = None) -> tuple[Report, dict]:
    """(Report of a replay with the state fed back, feeds of the last frame)."""
    sequence = load_sequence(here / SEQUENCE, plan)
    runner = trtexec.TrtexecEngine(tool, engine, plan["outputs"])
    state, outputs, feeds = initial_state(plan), [], {}
    for i, frame in enumerate(sequence.feeds):
        feeds = {**frame, **state}
        folder = (Path(keep) / f"{i:03d}").resolve() if keep else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        got = runner.infer(feeds, folder)
        if not runner.exact:
            got = undo_rounding(got, frame, plan["passed_on"])
        state = {name: got[source] for source, name in plan["card"]["contract"]["feedback"].items()}
        outputs.append(finish_lanes(got, contract_of(plan).map_merge))
    return judged(outputs, sequence, plan), feeds


def judge_files(here: Path, plan: dict, folder: Path) -> Report:
    """Report on outputs that trtexec left in FOLDER/000, 001, ...: raw files or outputs.json."""
    sequence = load_sequence(here / SEQUENCE, plan)
    outputs = []
    for i, frame in enumerate(sequence.feeds):
        at = folder / f"{i:03d}"
        if not at.is_dir():
            raise UserError(f"{at}: no such folder; outputs of frame {i} belong there")
        if (at / "outputs.json").is_file():
            got = undo_rounding(trtexec.read_json(at / "outputs.json", plan["outputs"]), frame, plan["passed_on"])
        else:
            got = trtexec.read_raw(at, plan["outputs"])
        outputs.append(finish_lanes(got, contract_of(plan).map_merge))
    return judged(outputs, sequence, plan)


def judged(outputs: list, sequence: Recorded, plan: dict) -> Report:
    """Compare by the tolerances that the bundle carries."""
    limits = {name: float("inf") if value is None else value for name, value in plan["tolerance"].items()}
    return compare(outputs, sequence, contract_of(plan), "trtexec", plan["precision"], limit=Tolerance(**limits))


class Merge(NamedTuple):
    """A card's ``map_merge``."""

    num_classes: int
    quality_threshold: float
    overlap_threshold: float
    mask_threshold: float


class Judged(NamedTuple):
    """As much of a contract as comparing needs."""

    map_merge: Merge
    has_stage2: bool


def contract_of(plan: dict) -> Judged:
    contract = plan["card"]["contract"]
    return Judged(Merge(**contract["map_merge"]), "occ_grid" in contract)


def initial_state(plan: dict) -> dict:
    inputs = plan["card"]["contract"]["inputs"]
    return {i["name"]: np.full(i["shape"], i["initial"], i["dtype"]) for i in inputs if "initial" in i}


@dataclass
class Recorded:
    """Frames, expected outputs and end state of a recorded sequence."""

    feeds: list
    expected: list
    end_state: dict

    def __len__(self) -> int:
        return len(self.feeds)


def load_sequence(path: Path, plan: dict) -> Recorded:
    contract = plan["card"]["contract"]
    states = [name[len("state_") :] for name in contract["feedback"].values()]
    outputs = [o["name"] for o in contract["outputs"] if o["name"] not in contract["feedback"]]
    frames = [i["name"] for i in contract["inputs"] if "initial" not in i]
    with np.load(str(path), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    if any(name.startswith(f"f{plan['frames']}/") for name in arrays) or f"f{plan['frames'] - 1}/img_u8" not in arrays:
        raise UserError(f"{path}: holds another number of frames than the {plan['frames']} of {PLAN}; make the bundle again")
    feeds, expected = [], []
    for i in range(plan["frames"]):
        feed = {name: arrays[f"f{i}/{name}"] for name in frames if name != "img"}
        pixels = (arrays[f"f{i}/img_u8"].astype(np.float32) - arrays["mean"]) / arrays["std"]
        feed["img"] = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))[None]
        feeds.append(feed)
        expected.append({name: arrays[f"f{i}/out/{name}"] for name in outputs})
    end = {name: arrays[f"end/{name}"] for name in states}

    return Recorded(feeds=feeds, expected=expected, end_state=end)


def _check_disk(folder: Path, needed: int, spare_mib: int) -> None:
    free = shutil.disk_usage(str(folder)).free
    needed += spare_mib * 2**20
    if free < needed:
        raise UserError(
            f"{folder}: out of disk: {free / 2**20:.0f} MiB are free, {needed / 2**20:.0f} MiB are needed; make room or use "
            f"another folder"
        )


def _verdict(report: Report, plan: dict) -> str:
    worst = {"plan_m": "plan", "boxes_m": "boxes"}
    off = ", ".join(f"{label} {report.worst[row]:.2g} m" for row, label in worst.items() if row in report.worst)
    return f"{'right' if report.ok else 'WRONG'} over {report.frames} frames, {report.tracks} tracks, {plan['precision']}: {off}"


def _more(report) -> str:
    return f" (and {len(report.faults) - 1} more)" if len(report.faults) > 1 else ""


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(str(path), "rb") as handle:
        while True:
            block = handle.read(1 << 20)
            if not block:
                return digest.hexdigest()
            digest.update(block)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    run_cli(main)
