"""``native.compat`` by the name of a set of conventions, and what two checkpoints with different ones say of each other."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from helpers import specs
from uniad.config.file import ConfigError
from uniad.config.presets import CONVENTIONS, PRESETS, V1, V2
from uniad.config.read import load_spec
from uniad.config.spec import UPSTREAM, CompatSpec
from uniad.training import identity
from uniad.training.state import differences, flatten

TINY = specs.config_path("tiny", 2)


def compat_of(value: str) -> CompatSpec:
    return load_spec(TINY, [f"native.compat={value}"]).model.compat


def test_a_preset_names_only_keys_and_values_that_there_are():
    allowed = {f.name: {"fixed", UPSTREAM, *f.metadata.get("also", ())} for f in fields(CompatSpec)}
    assert allowed.keys() >= set(CONVENTIONS)
    for values in PRESETS.values():
        assert all(value in allowed[key] for key, value in values.items())


def test_upstreams_v1_is_what_upstream_has_always_meant():
    assert compat_of(V1) == compat_of("upstream") == compat_of("documented") == CompatSpec()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_sets_its_keys_and_leaves_the_others_as_in_v1(name: str):
    assert asdict(compat_of(name)) == {**asdict(CompatSpec()), **PRESETS[name]}


def test_v2_reaches_the_parts_of_the_model_that_read_it():
    spec = load_spec(TINY, [f"native.compat={V2}"])
    model = spec.model
    assert (model.bev.shift_now, model.bev.shift_rule, model.decoder.box_code) == (False, V2, V2)
    assert model.stage2.motion.anchor_rotation == model.stage2.motion.smoother_start == V2 and spec.data.compat == model.compat


def test_single_keys_stand_over_a_preset():
    found = compat_of("dict(preset='uniad-v2',rotate_center='fixed',timestamps='upstream')")
    assert found == compat_of("uniad-v2").__class__(**{**asdict(compat_of(V2)), "rotate_center": "fixed", "timestamps": UPSTREAM})


@pytest.mark.parametrize("value, words", [
    ("uniad-v3", ["native.compat is 'uniad-v3'", "did you mean 'uniad-v2'?"]),
    ("dict(preset='v2')", ["native.compat.preset is 'v2'", "'uniad-v1'"]),
    ("dict(timestamps='uniad-v2')", ["native.compat.timestamps is 'uniad-v2'", "'upstream', 'fixed', 'documented'"]),
    ("dict(preset='uniad-v2',box_codes='fixed')", ["does not support the key native.compat.box_codes"]),
])  # fmt: skip
def test_other_words_are_refused_with_those_that_there_are(value: str, words: list[str]):
    with pytest.raises(ConfigError) as raised:
        compat_of(value)
    assert all(word in str(raised.value) for word in words)


def test_a_checkpoint_from_before_there_were_generations_is_one_of_v1():
    """Its spec lacks the keys; a run of it goes on without a word, and another generation's differs."""
    spec = load_spec(TINY, [])
    new = {f"{part}.compat.{key}" for part in ("model", "data") for key in CONVENTIONS}
    new |= {"model.decoder.box_code", "model.bev.shift_rule", "model.motion.smoother_start"}
    old = json.dumps({key: value for key, value in flatten(spec).items() if key not in new})
    assert new < flatten(spec).keys() and differences(spec, old) == []
    changed = differences(load_spec(TINY, [f"native.compat={V2}"]), old)
    assert "model.compat.box_code: None -> uniad-v2" in changed and "model.bev.shift_rule: None -> uniad-v2" in changed


def test_a_run_under_v1s_name_is_a_run_under_upstreams():
    v1, upstream, v2 = (
        identity.settings(identity.parser().parse_args([str(TINY), "--cfg-options", f"native.compat={word}"]))
        for word in (V1, "upstream", V2)
    )
    assert v1 == upstream != v2


def test_published_base_is_full_with_the_map_lines_that_upstream_drew():
    for stage, kind in ((1, "stage1_track_map/{}_track_map.py"), (2, "stage2_e2e/{}_e2e.py")):
        base, full = (load_spec(specs.CONFIGS / kind.format(stem)) for stem in ("uniad_base", "full"))
        assert (base.variant, base.stage, base.data.lane_thickness, full.data.lane_thickness) == ("base", stage, 2, 1)
        assert base.model == full.model
