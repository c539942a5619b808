"""What a plan rests on: the same frames with something taken away each time, and what the plan does then.

A model that plans from images must plan worse without them, and worse with those of another place. One that obeys the navigation
must go elsewhere for another command. One that has learnt more than to go on as before must beat a planner that sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniad.assess.faults import Deliver
from uniad.assess.frames import Held, Recorded, outcomes
from uniad.assess.plans import ALL, TruePlan
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Sensors
from uniad.deploy.sources import Scene
from uniad.interface.command import COMMANDS

Plans = Mapping[int, NDArray[Any]]  # by frame: path [P, 2]
AS_IS, NO_IMAGES, OTHER_IMAGES, NO_EGO, OTHER_COMMAND = (
    "as it is", "no images", "images of another scene", "no ego status", "wrong command",
)  # fmt: skip
EGO_ALONE = "ego status alone (MLP)"
CONDITIONS = (AS_IS, NO_IMAGES, OTHER_IMAGES, NO_EGO, OTHER_COMMAND)
BASELINES = (EGO_ALONE, "constant velocity", "standing still")

# A plan that moves by less than the first, or by less than the second of its own length, has not noticed.
UNMOVED_M, UNMOVED_SHARE = 0.1, 0.01
# An error that rises by less than this share is no sign of something that is used.
NOTABLE = 0.10
# A model whose error is at least this share of that of ego status alone is no better than it.
NO_BETTER = 0.95
NOTABLE_PERCENT = 1.0  # of plans that hit something
LEAST_FRAMES = 3  # of a kind, before anything is said of it


@dataclass(frozen=True)
class OtherScene:
    """Whose images arrive in place of a scene's own."""

    recorded: Recorded
    scene: Scene

    def images(self, number: int) -> Mapping[str, NDArray[np.uint8]]:
        return self.recorded.frames.read(self.scene.keys[number % len(self.scene)])[0].images


def deliver_for(condition: str, scene: Scene, other: Callable[[Scene], OtherScene]) -> Deliver:
    """What arrives of a scene's frames, in order, under a condition."""
    first: list[Sensors] = []
    source = other(scene) if condition == OTHER_IMAGES else None
    number = -1

    def deliver(sensors: Sensors) -> Sensors:
        nonlocal number
        number += 1
        if condition == NO_IMAGES:
            return replace(sensors, images={name: np.zeros_like(image) for name, image in sensors.images.items()})
        if source is not None:
            return replace(sensors, images=source.images(number))
        if condition == NO_EGO:
            # The pose of the first frame for ever: nothing tells that the car moves, or how.
            first.append(sensors) if not first else None
            return replace(sensors, can_bus=np.zeros(18), ego2global=first[0].ego2global)
        if condition == OTHER_COMMAND:
            return replace(sensors, command=other_command(sensors.command, number))
        return sensors

    return deliver


def other_command(command: int, number: int) -> int:
    """Left for right and right for left; a turn, by turns left and right, for straight on."""
    turns = [COMMANDS.index("left"), COMMANDS.index("right")]
    return turns[1 - turns.index(command)] if command in turns else turns[number % 2]


def plans_under(condition: str, runtime: Runtime, recorded: Recorded, other: Callable[[Scene], OtherScene]) -> dict[str, Any]:
    """``plans``: by frame, the path [P, 2] that the car would be given; ``refused``: how many frames the runtime refused, which
    have the plan that the car had. JSON values.
    """
    plans: dict[str, list[list[float]]] = {}
    without = 0
    for scene in recorded.scenes:
        held = Held(runtime.spec)
        for outcome in outcomes(runtime, scene, deliver_for(condition, scene, other)):
            arrival, result = outcome.arrival, outcome.result
            key, number, pose = arrival.key, arrival.record.number, recorded.global_from_lidar(arrival.key)
            if result is None:
                without += 1
                path = held.path(number, pose)
            else:
                held.keep(number, pose, result)
                assert result.plan is not None
                path = result.plan.path
            plans[str(key)] = np.asarray(path, np.float64).tolist()
    return {"backend": runtime.backend, "plans": plans, "refused": without}


class Verdict(NamedTuple):
    """A sentence for a person. ``bad``: an accusation; ``mixed``: worth a look; ``good``."""

    about: Literal["images", "ego status", "command", "baselines", "road"]
    state: Literal["bad", "mixed", "good"]
    text: str


def moved(a: Plans, b: Plans, truth: Sequence[TruePlan]) -> tuple[float, float]:
    """Mean distance of two plans' ends (m), and the same as a share of the length of the first one."""
    ends = [np.linalg.norm(np.asarray(a[t.key])[-1] - np.asarray(b[t.key])[-1]) for t in truth]
    ways = [np.linalg.norm(np.diff(np.vstack([[0, 0], a[t.key]]), axis=0), axis=1).sum() for t in truth]
    return float(np.mean(ends)), float(np.sum(ends) / max(np.sum(ways), 1e-6))


def unmoved(a: Plans, b: Plans, truth: Sequence[TruePlan]) -> bool:
    metres, share = moved(a, b, truth)
    return metres < UNMOVED_M or share < UNMOVED_SHARE


def obeyed(asked: Plans, otherwise: Plans, truth: Sequence[TruePlan], commands: Mapping[int, tuple[int, int]]) -> float:
    """By how many metres the plans' ends move, on average, to the side that the other command names. commands: by frame, the
    right and the other command.
    """
    side = {COMMANDS.index("right"): 1.0, COMMANDS.index("left"): -1.0, COMMANDS.index("straight"): 0.0}
    shifts = []
    for frame in truth:
        right, wrong = commands[frame.key]
        towards = np.sign(side[wrong] - side[right])
        shifts.append(towards * float(np.asarray(otherwise[frame.key])[-1, 0] - np.asarray(asked[frame.key])[-1, 0]))
    return float(np.mean(shifts))


def verdicts(
    plans: Mapping[str, Plans], scores: Mapping[str, Mapping[str, Mapping[str, float]]], truth: Sequence[TruePlan],
    commands: Mapping[int, tuple[int, int]],
) -> list[Verdict]:  # fmt: skip
    """The page's first lines. scores: by condition and group, see ``plans.score_plans``; commands: see ``obeyed``."""
    l2 = {name: groups[ALL]["L2_avg"] for name, groups in scores.items()}
    return [
        _on_images(plans, l2, truth),
        _on_ego_status(plans, l2, truth),
        _on_baselines(l2),
        _on_command(plans, truth, commands),
        *_on_road(scores),
    ]


def _rise(l2: Mapping[str, float], name: str) -> float:
    return l2[name] / l2[AS_IS] - 1 if l2[AS_IS] > 0 else float("inf") if l2[name] > 0 else 0.0


def _on_images(plans: Mapping[str, Plans], l2: Mapping[str, float], truth: Sequence[TruePlan]) -> Verdict:
    if all(unmoved(plans[AS_IS], plans[name], truth) for name in (NO_IMAGES, OTHER_IMAGES)):
        return Verdict("images", "bad", "IGNORES THE IMAGES: without them, and with another scene's, the plan is the same.")
    rises = [_rise(l2, name) for name in (NO_IMAGES, OTHER_IMAGES)]
    found = (
        f"its error is {l2[NO_IMAGES]:.2f} m without them, {l2[OTHER_IMAGES]:.2f} m with another scene's, "
        f"{l2[AS_IS]:.2f} m with its own."
    )
    if max(rises) < NOTABLE:
        return Verdict("images", "bad", f"HARDLY RESTS ON THE IMAGES: {found}")
    if min(rises) < NOTABLE:
        return Verdict("images", "mixed", f"Rests on the images in part: {found}")
    return Verdict("images", "good", f"Rests on the images: {found}")


def _on_ego_status(plans: Mapping[str, Plans], l2: Mapping[str, float], truth: Sequence[TruePlan]) -> Verdict:
    if unmoved(plans[AS_IS], plans[NO_EGO], truth):
        return Verdict("ego status", "good", "Does not need ego status: without CAN bus and motion the plan stays the same.")
    heavy = _rise(l2, NO_EGO) > max(_rise(l2, NO_IMAGES), _rise(l2, OTHER_IMAGES), NOTABLE)
    lead = "Rests on ego status more than on the images" if heavy else "Uses ego status, no more than the images"
    found = f"without CAN bus and motion its error is {l2[NO_EGO]:.2f} m instead of {l2[AS_IS]:.2f} m."
    return Verdict("ego status", "mixed" if heavy else "good", f"{lead}: {found}")


def _on_baselines(l2: Mapping[str, float]) -> Verdict:
    found = f"the model's error is {l2[AS_IS]:.2f} m, that of a small network that sees nothing {l2[EGO_ALONE]:.2f} m"
    if l2[AS_IS] >= NO_BETTER * l2[EGO_ALONE]:
        return Verdict("baselines", "bad", f"NO BETTER THAN EGO STATUS ALONE: {found}.")
    return Verdict(
        "baselines", "good", f"Better than ego status alone: {found}, of constant velocity {l2['constant velocity']:.2f} m."
    )


def _on_command(plans: Mapping[str, Plans], truth: Sequence[TruePlan], commands: Mapping[int, tuple[int, int]]) -> Verdict:
    metres, _ = moved(plans[AS_IS], plans[OTHER_COMMAND], truth)
    found = f"for another one its plan ends {metres:.2f} m elsewhere"
    if unmoved(plans[AS_IS], plans[OTHER_COMMAND], truth):
        return Verdict("command", "bad", f"IGNORES THE COMMAND: {found}.")
    shift = obeyed(plans[AS_IS], plans[OTHER_COMMAND], truth, commands)
    obeys = shift >= UNMOVED_M
    lead = "Obeys the command" if obeys else "Reacts to the command, but does not obey it"
    return Verdict("command", "good" if obeys else "mixed", f"{lead}: {found}, {shift:+.2f} m of it to the side asked for.")


def _on_road(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[Verdict]:
    here, steady = scores[AS_IS][ALL], scores["constant velocity"][ALL]
    out = [Verdict(
        "road", "good" if here["curbs"] + here["collisions"] < NOTABLE_PERCENT else "mixed",
        f"Its plan meets another road user in {here['collisions']:.1f} % of the cases and crosses the road's edge in "
        f"{here['curbs']:.1f} % (constant velocity: {steady['collisions']:.1f} and {steady['curbs']:.1f} %).",
    )]  # fmt: skip
    groups = {
        name: s for name, s in scores[AS_IS].items() if name != ALL and s["frames"] >= LEAST_FRAMES and not np.isnan(s["L2_avg"])
    }  # fmt: skip
    if groups:
        name, worst = max(groups.items(), key=lambda item: item[1]["L2_avg"])
        out.append(Verdict(
            "road", "mixed" if worst["L2_avg"] > 2 * here["L2_avg"] else "good",
            f"Largest error by kind of frame: {name} ({worst['frames']:.0f} frames), {worst['L2_avg']:.2f} m; "
            f"{here['L2_avg']:.2f} m over all.",
        ))  # fmt: skip
    return out
