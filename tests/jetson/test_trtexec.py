"""trtexec of every release: its version is read, it gets the flags it knows, and what it cannot do is one clear line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from helpers import REPO
from helpers.command_line import refused
from helpers.toy_graph import write_toy
from uniad.artifacts.graph import check_graph
from uniad.backends import identity, trtexec
from uniad.engines import jetpack
from uniad.errors import UserError
from uniad.export.passes import opset_of
from uniad.export.to_onnx import TARGETS
from uniad.jetson.build import build_here
from uniad.jetson.bundle import DeviceOptions, write_bundle

NEW_HELP = "--skipInference --dumpRawBindingsToFile --noTF32"
TYPED_HELP = f"{NEW_HELP} --stronglyTyped"


@pytest.mark.parametrize(
    "number, version",
    [("8502", (8, 5, 2)), ("8602", (8, 6, 2)), ("100300", (10, 3, 0)), ("101303", (10, 13, 3)), ("110100", (11, 1, 0))],
)
def test_versions_are_read_from_the_banner(number, version):
    assert trtexec.parse_version(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{number}] # trtexec --help") == version


@pytest.mark.parametrize(
    "version, precision, has, has_not",
    [
        ((8, 5, 2), "fp32", ["--noTF32", "--buildOnly"], ["--fp16", "--skipInference"]),
        ((8, 5, 2), "fp16", ["--fp16", "--buildOnly"], ["--noTF32", "--int8"]),
        ((8, 6, 2), "int8", ["--int8", "--skipInference"], ["--noTF32", "--best", "--fp16"]),
        ((10, 3, 0), "fp16", ["--stronglyTyped"], ["--best", "--fp16"]),
        ((11, 1, 0), "fp16", [], ["--best", "--fp16", "--stronglyTyped", "--noTF32"]),
        ((10, 13, 3), "int8", ["--stronglyTyped"], ["--best", "--int8", "--fp16"]),
        ((11, 1, 0), "fp32", ["--noTF32"], ["--fp16"]),
        ((11, 1, 0), "int8", [], ["--int8", "--fp16", "--best", "--noTF32"]),
    ],
)
def test_each_release_gets_the_flags_that_it_knows(version, precision, has, has_not):
    tool = trtexec.Trtexec(
        "trtexec", version, TYPED_HELP if (11,) > version >= (10,) else NEW_HELP if version >= (8, 6) else "--buildOnly"
    )
    words = trtexec.build_command(tool, "m.onnx", "m.engine", precision, 1024, "cache")
    assert {"--onnx=m.onnx", "--saveEngine=m.engine", "--memPoolSize=workspace:1024", "--timingCacheFile=cache"} <= set(words)
    assert set(has) <= set(words) and not set(has_not) & set(words)


def test_what_a_release_cannot_do_is_refused():
    new = trtexec.Trtexec("trtexec", (11, 1, 0), NEW_HELP)
    with pytest.raises(UserError, match="choose one of fp32, fp16, int8"):
        trtexec.build_command(new, "m", "e", "fp8")
    with pytest.raises(UserError, match="GPU of its machine only"):
        trtexec.build_command(new, "m", "e", capabilities=("8.7",))
    with pytest.raises(UserError, match="TensorRT 8.4.1 is too old"):
        jetpack.highest_opset((8, 4, 1))


def test_a_release_that_chooses_types_itself_is_told_what_stays_in_fp32():
    old = trtexec.Trtexec("trtexec", (8, 5, 2), "--buildOnly")
    words = trtexec.build_command(old, "m", "e", "fp16", fp32_nodes=["glue/Add_1", "seg_head/Div_2"])
    assert {"--fp16", "--precisionConstraints=obey", "--layerPrecisions=glue/Add_1:fp32,seg_head/Div_2:fp32"} <= set(words)
    assert "--layerPrecisions=<2 nodes>" in trtexec.shown(words)
    typed = trtexec.build_command(trtexec.Trtexec("trtexec", (10, 3, 0), TYPED_HELP), "m", "e", "fp16", fp32_nodes=["glue/Add_1"])
    assert not any(word.startswith("--layerPrecisions") for word in typed)
    with pytest.raises(UserError, match="more than trtexec before 10 can be told"):
        trtexec.build_command(old, "m", "e", "fp16", fp32_nodes=[f"glue/Multiplication_{i}" for i in range(10_000)])


def test_the_package_before_10_is_told_what_stays_in_fp32_too():
    """Not for constants and whole numbers, whose precision such a builder lets nobody set."""
    from types import SimpleNamespace as Space

    from uniad.engines.tensorrt import PythonBackend, _keep_fp32

    kinds = Space(CONSTANT="constant", SHAPE="shape", ELEMENTWISE="elementwise")
    old = Space(
        float32="f32", LayerType=kinds, __version__="8.6.2", BuilderFlag=Space(FP16=0), NetworkDefinitionCreationFlag=Space()
    )
    new = Space(
        __version__="10.3.0", BuilderFlag=Space(FP16=0), NetworkDefinitionCreationFlag=Space(STRONGLY_TYPED=1, EXPLICIT_BATCH=0)
    )

    def layer(name: str, kind: str, dtype: str) -> Space:
        return Space(name=name, type=kind, num_outputs=1, get_output=lambda k: Space(dtype=dtype), precision=None)

    layers = [
        layer("glue/Add_1", "elementwise", "f32"), layer("glue/Add_2", "elementwise", "i32"),
        layer("glue/Constant_3", "constant", "f32"), layer("img_neck/Add_4", "elementwise", "f32"),
    ]  # fmt: skip
    network = Space(num_layers=len(layers), get_layer=layers.__getitem__)
    _keep_fp32(old, network, {"glue/Add_1", "glue/Add_2", "glue/Constant_3"})
    assert [each.precision for each in layers] == ["f32", None, None, None]
    backend = PythonBackend("tensorrt")
    assert backend._weak(old, "fp16") and not backend._weak(old, "fp32")
    assert not backend._weak(new, "fp16") and backend._flags(new, weak=False) == 2


def test_absent_or_another_program_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(trtexec, "PLACES", ())
    with pytest.raises(UserError, match="trtexec was not found"):
        trtexec.find()
    monkeypatch.setenv("TRTEXEC", "/bin/true")
    with pytest.raises(UserError, match="does not say its version"):
        trtexec.probe()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1", "5.1"),
        ("# R36 (release), REVISION: 3.0, GCID: 1", "6.0"),
        ("# R36 (release), REVISION: 4.3, GCID: 1", "6.1/6.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "7.0/7.1"),
        ("# R39 (release), REVISION: 2.0, GCID: 1", "7.2"),
    ],
)
def test_the_jetpack_of_a_release(line, expected):
    assert jetpack.jetpack_of(jetpack.parse_release(line, "file")).name == expected


def test_a_jetpack_that_is_too_old_is_refused():
    with pytest.raises(UserError, match="JetPack too old"):
        jetpack.jetpack_of(jetpack.parse_release("# R32 (release), REVISION: 7.1", "file"))


def test_one_table_says_which_graph_a_jetpack_gets():
    output = dict(re.findall(r"^TRT\.([\d.]+) := ([\d.]+)$", (REPO / "mk" / "jetson.mk").read_text(), re.MULTILINE))
    table = {name: row.target for row in jetpack.JETPACKS for name in row.name.split("/")}
    assert {name: output[name] for name in table} == table
    for row in jetpack.JETPACKS:
        assert TARGETS[row.target].opset <= row.highest_opset


def test_text_outputs_may_be_no_numbers(tmp_path):
    ports = {"inf_nan": {"shape": [1, 4], "dtype": "float32"}}
    file = tmp_path / "outputs.json"
    file.write_text('[ { "name" : "inf_nan"\n , "dimensions" : "1x4"\n , "values" : [ nan, -nan, -inf, 1.5e-07 ]\n} ]')
    values = trtexec.read_json(file, ports)["inf_nan"][0]
    assert str(values[:3]) == "[ nan  nan -inf]" and values[3] == pytest.approx(1.5e-7)


def test_a_build_that_fails_says_the_builders_own_reason(toy, stand_in, tmp_path):
    stand_in.behave(fail="Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
    with pytest.raises(UserError, match="OutOfMemory"):
        build_here(toy, tmp_path / "out" / "toy.engine", DeviceOptions(), say=lambda line: None)
    assert not (tmp_path / "out" / "toy.engine").exists()
    stand_in.behave()
    with pytest.raises(UserError, match="out of disk"):
        build_here(toy, tmp_path / "toy.engine", DeviceOptions(spare_mib=10**9), say=lambda line: None)


def test_a_graph_newer_than_the_release_is_refused(stand_in, tmp_path):
    new = write_toy(tmp_path / "new.onnx", opset=17)
    stand_in.behave(version=8502)
    with pytest.raises(UserError, match=r"opset 17, TensorRT 8.5.2 here reads up to 16.*JETPACK=5.1"):
        build_here(new, tmp_path / "new.engine", DeviceOptions(), say=lambda line: None)


def test_int8_needs_a_quantised_graph(toy, tmp_path):
    with pytest.raises(UserError, match="QuantizeLinear"):
        check_graph(toy, "int8")
    check_graph(write_toy(tmp_path / "q.onnx", quantised=True), "int8")


def test_fp16_needs_a_graph_with_halves_and_fp32_one_without(toy, converted_toy):
    check_graph(toy, "fp32")
    check_graph(converted_toy, "fp16")
    with pytest.raises(UserError, match="needs the fp16 graph, this one has no halves.*PRECISION=fp16"):
        check_graph(toy, "fp16")
    with pytest.raises(UserError, match="precision fp32: this graph is in fp16"):
        check_graph(converted_toy, "fp32")


def test_onnx_changed_or_card_missing(own_toy, tmp_path):
    own_toy.write_bytes(own_toy.read_bytes() + b"\0")
    with pytest.raises(UserError, match="digest differs"):
        write_bundle(own_toy, tmp_path / "bundle")
    Path(f"{own_toy}.json").unlink()
    with pytest.raises(UserError, match="the card of .* is missing"):
        write_bundle(own_toy, tmp_path / "bundle")
    output = refused("tools/jetson_engine.py", own_toy, "--out", tmp_path / "x", "--where", "bundle")
    assert "the card of" in output
    assert "choose one of" in refused("tools/build_engine.py", own_toy, "--out", tmp_path / "x", "--precision", "int4")


def test_an_engine_belongs_to_its_builder_and_its_gpu():
    card = {"builder": "tensorrt", "builder_version": "10.3.0", "compute_capabilities": ["default"],
            "device": {"model": "Orin", "compute_capability": "8.7"}}  # fmt: skip
    identity.check_identity("e", card, "10.3.0", card["device"])
    with pytest.raises(UserError, match="built for tensorrt 10.3.0, here is 10.7.0"):
        identity.check_identity("e", card, "10.7.0", card["device"])
    with pytest.raises(UserError, match="built on Orin, this is Thor"):
        identity.check_identity("e", card, "10.3.0", {"model": "Thor", "compute_capability": "11.0"})
    ahead = {**card, "compute_capabilities": ["8.6", "8.9"], "device": None}
    with pytest.raises(UserError, match="compiled for GPUs of compute capability 8.6, 8.9, this one has 9.0"):
        identity.check_identity("e", ahead, "10.3.0", {"model": "H200", "compute_capability": "9.0"})


def test_the_builder_makes_engines_through_trtexec_as_through_the_packages(converted_toy, stand_in, tmp_path):
    from uniad.backends.trtexec_runner import measure
    from uniad.engines.build import BuildOptions, build_engine
    from uniad.verify.run import verify_engine

    options = BuildOptions("trtexec", precision="fp16", timing_cache=str(tmp_path / "cache"), workspace_gib=2)
    engine = tmp_path / "toy.engine"
    toy = converted_toy
    card = build_engine(toy, engine, options)
    assert card["builder_version"] == "10.3.0" and card["typing"] == "strong" and card["precision"] == "fp16"
    assert card["precision_of_groups"] == {"glue": "fp32", "img_neck": "fp16"}
    (words,) = stand_in.builds()
    assert {"--stronglyTyped", "--memPoolSize=workspace:2048", f"--timingCacheFile={tmp_path}/cache"} <= set(words)
    assert verify_engine(toy, engine, "trtexec", "fp16").ok
    assert measure(toy, engine, 1, 0)["median_ms"] == 40.9
    stand_in.behave(wrong=True)
    assert "boxes differs" in verify_engine(toy, engine, "trtexec").faults[0]
    stand_in.behave(version=8602)
    card = build_engine(toy, tmp_path / "old.engine", options)
    assert card["typing"] == "weak"
    words = stand_in.builds()[-1]
    (told,) = [word for word in words if word.startswith("--layerPrecisions=")]
    assert {"--fp16", "--precisionConstraints=obey"} <= set(words) and "glue/Add" in told and "img_neck" not in told
    stand_in.behave(version=110100)
    with pytest.raises(UserError, match="built for trtexec 10.3.0, here is 11.1.0"):
        verify_engine(toy, engine, "trtexec")
    card = build_engine(toy, tmp_path / "new.engine", options)
    assert card["typing"] == "strong" and not any("fp16" in word for word in stand_in.builds()[-1][2:])


def test_an_engine_is_verified_against_the_onnx_that_it_was_built_from_and_no_other(toy, stand_in, tmp_path):
    """Before it is loaded: what it would say is beside the point, though it were right."""
    from uniad.engines.build import BuildOptions, build_engine
    from uniad.verify.run import verify_engine

    engine = tmp_path / "toy.engine"
    build_engine(toy, engine, BuildOptions("trtexec"))
    other = write_toy(tmp_path / "other.onnx", opset=15)
    stand_in.calls()
    with pytest.raises(UserError, match=r"toy\.engine: was built from another ONNX than .*other\.onnx; run `make engine` again"):
        verify_engine(other, engine, "trtexec")
    assert not stand_in.calls()
    assert verify_engine(toy, engine, "trtexec").ok
    with pytest.raises(UserError, match="needs --engine FILE"):
        verify_engine(toy, None, "trtexec")


def test_fp32_is_fp32_and_types_come_from_the_graph(toy, tmp_path):
    """TF32 is a default of every TensorRT, and is not fp32."""
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: make env installs it")
    from unittest import mock

    from uniad.engines.build import BuildOptions, build_engine

    seen = []
    real = trt.Builder.build_serialized_network

    def build(builder, network, config):
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return real(builder, network, config)

    with mock.patch.object(trt.Builder, "build_serialized_network", build):
        card = build_engine(toy, tmp_path / "toy.engine", BuildOptions(compute_capabilities=("8.6", "8.9")))
    assert seen == [False] and card["typing"] == "strong" and card["compute_capabilities"] == ["8.6", "8.9"]
    with pytest.raises(UserError, match="precision fp16 needs the fp16 graph"):
        build_engine(toy, tmp_path / "toy.engine", BuildOptions(precision="fp16"))


def test_the_toy_is_what_it_says(toy):
    import onnx

    assert opset_of(onnx.load(str(toy))) == 16
