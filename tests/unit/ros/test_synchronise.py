"""Which messages belong to one instant, as they come in."""

from __future__ import annotations

import pytest

from uniad.ros.synchronise import ClockJump, Instant, Synchroniser

MS = 1_000_000


def settled(sync: Synchroniser, *messages: tuple[str, int]) -> list[Instant]:
    return [instant for stream, ms in messages for instant in sync.add(stream, ms * MS, f"{stream}{ms}")]


def payloads(instant: Instant) -> dict[str, str]:
    return {camera: payload for camera, (_, payload) in instant.picked.items()}


def test_the_nearest_message_within_the_tolerance_is_picked_when_nothing_nearer_can_come():
    sync = Synchroniser(["a", "b"], "lidar", tolerance_s=0.06)
    assert settled(sync, ("a", 80), ("b", 60), ("lidar", 100), ("a", 130)) == [], "b may still come nearer"
    (instant,) = settled(sync, ("b", 110))
    assert payloads(instant) == {"a": "a80", "b": "b110"} and not instant.missing
    assert instant.offsets_ms() == {"a": -20.0, "b": 10.0}


def test_a_camera_may_be_the_reference():
    sync = Synchroniser(["a", "b"], "a", tolerance_s=0.06)
    (instant,) = settled(sync, ("a", 100), ("b", 130))
    assert payloads(instant) == {"a": "a100", "b": "b130"}


def test_a_camera_that_fires_before_the_reference_is_not_waited_for_once_its_pace_is_known():
    sync = Synchroniser(["a"], "lidar", tolerance_s=0.06)
    assert settled(sync, ("a", 60), ("lidar", 100)) == []
    assert len(settled(sync, ("a", 560))) == 1
    (instant,) = settled(sync, ("lidar", 600))
    assert payloads(instant) == {"a": "a560"}
    assert settled(sync, ("a", 760), ("lidar", 900)) == [], "at 200 ms a nearer one may come"


def test_what_is_too_far_away_is_missing_and_the_reason_says_by_how_much():
    sync = Synchroniser(["a", "b"], "lidar", tolerance_s=0.06)
    settled(sync, ("lidar", 100), ("a", 100))
    (instant,) = settled(sync, ("b", 180))
    assert instant.missing == {"b": "the nearest message is 80 ms late"} and payloads(instant) == {"a": "a100"}


def test_patience_ends_and_the_rest_is_settled_by_a_flush():
    sync = Synchroniser(["a", "b"], "lidar", patience_s=0.2)
    assert settled(sync, ("lidar", 100), ("a", 100), ("a", 250)) == []
    (instant,) = settled(sync, ("a", 300))
    assert instant.missing == {"b": "no message"}
    settled(sync, ("lidar", 600), ("a", 600))
    (last,) = sync.flush()
    assert last.stamp_ns == 600 * MS and set(last.missing) == {"b"}


def test_images_of_a_reference_that_fell_silent_are_not_kept_for_ever():
    sync = Synchroniser(["a"], "lidar", patience_s=0.3)
    settled(sync, ("lidar", 0), *(("a", 100 * n) for n in range(1000)))
    assert len(sync._held["a"]) < 20
    assert payloads(settled(sync, ("lidar", 99_890))[0]) == {"a": "a99900"}


def test_every_nth_instant_is_taken_and_one_that_lacks_a_camera_is_replaced():
    sync = Synchroniser(["a"], "lidar", tolerance_s=0.01, every=4)
    messages = [(stream, 100 * n) for n in range(12) for stream in ("lidar", "a") if (stream, n) != ("a", 4)]
    instants = settled(sync, *messages) + sync.flush()
    assert [i.stamp_ns // (100 * MS) for i in instants] == [0, 5, 8] and not any(i.missing for i in instants)
    assert sync.replaced == 1


def test_an_instant_without_a_substitute_is_told_as_missing():
    sync = Synchroniser(["a"], "lidar", tolerance_s=0.01, every=4)
    messages = [(stream, 100 * n) for n in range(9) for stream in ("lidar", "a") if stream == "lidar" or n not in (4, 5, 6)]
    instants = settled(sync, *messages) + sync.flush()
    assert [(i.stamp_ns // (100 * MS), bool(i.missing)) for i in instants] == [(0, False), (4, True), (8, False)]


def test_streams_that_are_awaited_hold_an_instant_back():
    sync = Synchroniser(["a"], "a", awaited=["pose"])
    assert settled(sync, ("pose", 90), ("a", 100), ("pose", 100)) == []
    assert len(settled(sync, ("pose", 110))) == 1


def test_overtaking_is_sorted_where_it_is_allowed_and_counted():
    sync = Synchroniser(["a"], "lidar", tolerance_s=0.01, overtaken_s=0.3)
    settled(sync, ("lidar", 100), ("lidar", 200), ("a", 200), ("a", 100), ("a", 100))
    instants = settled(sync, ("lidar", 300), ("a", 300), ("a", 500))
    assert [payloads(i)["a"] for i in instants] == ["a100", "a200"]
    counts = sync.counts["a"]
    assert (counts.messages, counts.reordered, counts.repeated) == (5, 2, 1)


def test_a_late_reference_is_counted_and_a_clock_that_goes_back_is_an_error():
    sync = Synchroniser(["a"], "lidar")
    settled(sync, ("lidar", 500), ("a", 500), ("lidar", 400))
    assert sync.counts["lidar"].late == 1
    with pytest.raises(ClockJump, match="a: time goes back by 2 s"):
        settled(sync, ("a", 3000), ("a", 1000))
    sync.clear()
    settled(sync, ("lidar", 100))
    assert len(settled(sync, ("a", 100))) == 1, "another drive begins"
