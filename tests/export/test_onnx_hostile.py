"""``.onnx`` files and metadata of strangers: what they ask for is seen before onnxruntime opens them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ctxvision.export import ExportError, Metadata, open_exported

SPEC = {"class_names": ["a", "b"], "input_size": [3, 4, 4], "mean": [0.5] * 3, "std": [0.5] * 3}
NODES = [helper.make_node("ReduceMean", ["images"], ["m"], axes=[2, 3], keepdims=0)]


def write(path, nodes=(), initializers=(), weight=1.0, metadata=None, domains=(("", 13),), functions=()):
    """Write a linear classifier of mean colours, and more in it."""
    weights = numpy_helper.from_array(np.full((3, 2), weight, np.float32), "fc.weight")
    last = helper.make_node("MatMul", ["m", "fc.weight"], ["logits"])
    graph = helper.make_graph(
        [*NODES, *nodes, last],
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 2])],
        [weights, *initializers],
    )
    imports = [helper.make_opsetid(domain, version) for domain, version in domains]
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions), ir_version=8)
    text = Metadata("net", "classification", SPEC).to_json() if metadata is None else metadata
    model.metadata_props.add(key="ctxvision", value=text)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_harmless_file_is_taken(tmp_path):
    found = open_exported(write(tmp_path / "a.onnx"))(torch.ones(2, 3, 4, 4))
    torch.testing.assert_close(found, torch.full((2, 2), 3.0))


def outside(location):
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def sized(operator, shape):
    return (
        [helper.make_node(operator, ["shape"] if operator == "ConstantOfShape" else ["m", "shape"], ["huge"])],
        [numpy_helper.from_array(np.array(shape, np.int64), "shape")],
    )


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd"])
def test_other_files_are_not_read(tmp_path, location):
    with pytest.raises(ExportError, match=r"'far' lie in another file; .*--trust"):
        open_exported(write(tmp_path / "a.onnx", initializers=[outside(location)]))
    node = helper.make_node("Constant", [], ["k"], value=outside(location))
    with pytest.raises(ExportError, match="lie in another file"):
        open_exported(write(tmp_path / "a.onnx", [node]))


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
def test_tensors_that_take_all_memory(tmp_path, operator):
    nodes, initializers = sized(operator, [10**6, 10**6])
    with pytest.raises(ExportError, match=r"asks for a tensor of 1,000,000,000,000 values"):
        open_exported(write(tmp_path / "a.onnx", nodes, initializers))


def test_a_claim_beyond_the_bytes(tmp_path):
    tensor = TensorProto(name="lie", data_type=TensorProto.FLOAT, dims=[10**6, 10**6], raw_data=b"1234")
    with pytest.raises(ExportError, match="damaged"):
        open_exported(write(tmp_path / "a.onnx", initializers=[tensor]))


def test_operators_of_others(tmp_path):
    node = helper.make_node("Evil", ["m"], ["k"], domain="evil")
    path = write(tmp_path / "a.onnx", [node], domains=(("", 13), ("evil", 1)))
    with pytest.raises(ExportError, match="domain 'evil'"):
        open_exported(path)
    node = helper.make_node("Loop", ["", "", "m"], ["k"], body=helper.make_graph([], "body", [], []))
    with pytest.raises(ExportError, match=r"repeats a part of itself \(Loop\)"):
        open_exported(write(tmp_path / "a.onnx", [node]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(tmp_path, value):
    with pytest.raises(ExportError, match=r"NaN or infinity \(fc.weight\)"):
        open_exported(write(tmp_path / "a.onnx", weight=value))


def test_masks_may_be_infinite(tmp_path):
    mask = numpy_helper.from_array(np.array([-np.inf, 0, 0], np.float32), "mask")
    open_exported(write(tmp_path / "a.onnx", initializers=[mask]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_spec": {**SPEC, "input_size": [3, 100_000, 100_000]}}, "input_size is 100,000"),
        ({"data_spec": {**SPEC, "input_size": "large"}}, "input_size must be"),
        ({"data_spec": {**SPEC, "class_names": [1, 2]}}, "class_names must be a list of texts"),
        ({"data_spec": {**SPEC, "std": [0, 1, 1]}}, "std must not be 0"),
        ({"data_spec": {**SPEC, "interpolation": 5}}, "interpolation must be one of"),
        ({"data_spec": {**SPEC, "surprise": 5}}, "surprise"),
        ({"data_spec": []}, "data_spec is not an object"),
        ({"model": 5}, "model is not a text"),
        ({"task": ["x"]}, "task is not a text"),
        ({"dynamic_batch": "yes"}, "dynamic_batch is not true or false"),
        ({"settings": 3}, "settings is not an object"),
        ({"format": 7}, "not of format 1"),
    ],
)
def test_metadata_of_other_kinds(tmp_path, change, message):
    text = json.dumps({**json.loads(Metadata("net", "classification", SPEC).to_json()), **change})
    path = write(tmp_path / "a.onnx", metadata=text)
    with pytest.raises(ExportError, match=message) as raised:
        open_exported(path)
    assert str(path) in str(raised.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("task", ["classification", "segmentation", "video", "detection"])
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_in_the_metadata(task, data):
    spec = {**SPEC, "frames": 4} if task == "video" else SPEC
    spec = {"class_names": ["a"], "category_ids": [1]} if task == "detection" else spec
    values = json.loads(Metadata("net", task, spec, settings={"window": [4, 4], "stride": [2, 2]}).to_json())
    place = data.draw(st.sampled_from([values, values["data_spec"], values["settings"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    try:
        Metadata.from_json(json.dumps(values))
    except ExportError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message
