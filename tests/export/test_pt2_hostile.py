"""``.pt2`` files of strangers: none runs code unless trusted, and what is harmless computes as torch does."""

import contextlib
import json
import re
import struct
import tempfile
import zipfile
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from _hostile_files import Trap, edit_json, pickled, rewritten
from ctxvision.cli import main
from ctxvision.export import ExportError, Metadata, export_pt2, open_exported
from ctxvision.inference.exported.pt2_contents import Guards, NeedsTrustError, read_parts
from ctxvision.inference.exported.pt2_graph import Graph

pytestmark = pytest.mark.slow

SPEC = {"class_names": ["a", "b"], "input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor([1.0, 2.0]))

    def forward(self, x):
        x = self.norm(self.conv(x).relu_())  # which cannot be folded into the convolution
        with torch.autocast("cpu", enabled=False):
            a, b = x.split([1, 3], 1)
            x = torch.cat([b * x.shape[3], a], 1)
        return self.fc(x.mean((2, 3))) * self.scale


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("pt2")
    export_pt2(Net(), folder / "net.pt2", metadata=Metadata("net", "classification", SPEC, dynamic_size=True))
    return folder / "net.pt2"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "pwned"
    assert not (tmp_path / "pwned").exists()


def program(edit):
    return {"change": {"models/model.json": edit_json(edit)}}


def weights(edit):
    return {"change": {"data/weights/model_weights_config.json": edit_json(edit)}}


def graph(content):
    return content["graph_module"]["graph"]


def add_node(content, target, inputs, outputs=()):
    node = {"target": target, "inputs": inputs, "outputs": list(outputs), "metadata": {}, "name": None}
    graph(content)["nodes"].insert(0, {**node, "is_hop_single_tensor_return": None})


def text(value, name=""):
    return {"name": name, "arg": {"as_string": str(value)}, "kind": 1}


def code_for(marker):
    return f"__import__('os').mknod({str(marker)!r})"


def vectors(marker):
    """Give a change of an archive by the way in which torch's loader would run it."""
    trap, code = pickled({"conv.bias": Trap(marker)}), code_for(marker)
    first = "data/weights/weight_0"

    def pickle_flag(content):
        next(iter(content["config"].values()))["use_pickle"] = True

    def sympy(content):
        expression = {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}
        for about in graph(content)["tensor_values"].values():
            about["sizes"] = [expression for _ in about["sizes"]]

    def sizes(content):
        graph(content)["sym_int_values"] = {
            name: {"as_expr": {"expr_str": code, "hint": None}} for name in graph(content)["sym_int_values"]
        }

    def constant(kind):
        def edit(content):
            content["config"]["evil"] = {
                "path_name": f"{kind}_0", "is_param": False, "use_pickle": True, "tensor_meta": None
            }  # fmt: skip

        return {
            "change": {"model_constants_config.json": edit_json(edit)},
            "more": {f"data/constants/{kind}_0": trap},
        }

    def name(content):
        evil = f"x): {code} #"
        for place in (graph(content)["inputs"], graph(content)["outputs"]):
            place[-1]["as_tensor"]["name"] = evil
        content["graph_module"]["signature"]["input_specs"][-1]["user_input"]["arg"]["as_tensor"]["name"] = evil

    return {
        "a pickled weight": {**weights(pickle_flag), "change": {
            "model_weights_config.json": edit_json(pickle_flag), first: lambda _: trap}},
        "all weights a pickle": {"more": {"data/weights/model.pt": trap}},
        "constants a pickle": {"more": {"data/constants/model.pt": trap}},
        "a custom object": constant("custom_obj"),
        "an opaque object": constant("opaque_obj"),
        "a compiled library": {"more": {"data/aotinductor/model/net.so": b"\x7fELF"}},
        "source to compile": {"more": {"data/aotinductor/model/net.cpp": b"int x;"}},
        "a library elsewhere": {"more": {"extra/net.so": b"\x7fELF"}},
        "an expression of a size": program(sympy),
        "an expression of a symbol": program(sizes),
        "a guard": program(lambda c: c["guards_code"].append(f"{code} or True")),
        "a guard in a subscript": program(lambda c: c["guards_code"].append(f"L[{code}].size()[0] == 1")),
        "a guard of a call": program(lambda c: c["guards_code"].append(f"torch.sym_max({code}, 1) == 1")),
        "a guard with a walrus": program(lambda c: c["guards_code"].append(f"(x := {code}) is None")),
        "a function below torch": program(
            lambda c: add_node(c, "torch.os.system", [text(f"touch {marker}")])
        ),
        "an operator of ours that no graph has": program(
            lambda c: add_node(c, "torch.ops.ctxvision.local_aggregation_input_grad.default", [])
        ),
        "an operator that we do not have": program(
            lambda c: add_node(c, "torch.ops.ctxvision.system.default", [text(f"touch {marker}")])
        ),
        "a loader": program(lambda c: add_node(c, "torch.ops.load_library", [text(marker)])),
        "a builtin": program(lambda c: add_node(c, "_operator.__builtins__.exec", [text(code)])),
        "the math module": program(lambda c: add_node(c, "math.__loader__.load_module", [text("os")])),
        "an operator on files": program(lambda c: add_node(c, "torch.ops.aten.from_file.default", [
            text(marker, "filename"), {"name": "shared", "arg": {"as_bool": True}, "kind": 1},
            {"name": "size", "arg": {"as_int": 8}, "kind": 1}],
            [{"as_tensor": {"name": "evil"}}])),
        "an operator as argument": program(
            lambda c: graph(c)["nodes"][0]["inputs"].append(
                {"name": "", "arg": {"as_operator": "torch.os.system"}, "kind": 1})
        ),
        "an extension": program(lambda c: add_node(c, "#os:system", [text(marker)])),
        "a name with code": program(name),
        "an argument's name": program(
            lambda c: c["graph_module"]["module_call_graph"][0]["signature"].update(
                forward_arg_names=[f"x={code}"])
        ),
        "the older layout": {"more": {}, "drop": ("models/model.json",), "older": trap},
    }  # fmt: skip


VECTORS = sorted(vectors("x"))


@pytest.fixture
def attacked(good, marker):
    """Write the file of an attack."""

    def write(vector):
        how = vectors(marker)[vector]
        older = how.pop("older", None)
        path = rewritten(good, marker.parent / "net.pt2", **how)
        if older:
            with zipfile.ZipFile(good) as archive, zipfile.ZipFile(path, "w") as new:
                content = archive.read(next(n for n in archive.namelist() if n.endswith("models/model.json")))
                new.writestr("serialized_exported_program.json", content)
                new.writestr("version", "8.20")
                for part in ("state_dict", "constants", "example_inputs"):
                    new.writestr(f"serialized_{part}.pt", older)
        return path

    return write


@pytest.mark.parametrize("vector", VECTORS)
def test_nothing_in_a_file_is_run(vector, attacked, marker):
    """It is refused in one line, or what would have been run is not looked at."""
    path = attacked(vector)
    message = ""
    try:
        open_exported(path)(torch.zeros(2, 3, 16, 16))
    except ExportError as error:
        message = str(error)
    assert not marker.exists()
    assert "\n" not in message
    assert not message or str(path) in message or "does not take" in message


@pytest.mark.parametrize(
    "vector",
    [
        "a pickled weight", "all weights a pickle", "a custom object", "an opaque object", "a compiled library",
        "a guard",
        "source to compile", "a function below torch", "an operator on files", "the older layout", "a loader",
    ],
)  # fmt: skip
def test_code_is_named_and_needs_trust(vector, attacked):
    with pytest.raises(ExportError, match=r"refused, nothing in it was run: .*--trust"):
        open_exported(attacked(vector))


def test_the_attacks_are_real(good, tmp_path):
    """The harness itself: torch's loader does run what some of these files say."""
    for vector in ("a guard", "a pickled weight"):
        marker = tmp_path / vector.replace(" ", "-")
        path = rewritten(good, tmp_path / "net.pt2", **vectors(marker)[vector])
        with contextlib.suppress(Exception):  # it ran or not
            torch.export.load(path).module()(torch.zeros(2, 3, 16, 16))
        assert marker.exists(), vector


@pytest.mark.parametrize("command", ["predict", "serve", "benchmark", "evaluate", "explain", "export", "publish"])
def test_every_command_refuses(command, attacked, marker, capsys):
    path = attacked("a pickled weight")
    words = {
        "predict": [path, "image.png"], "serve": [path, "--port=0"], "evaluate": [path, "digits"],
        "benchmark": [path, "--skip-memory", "--repeats=1"], "explain": [path, "image.png", "--out=out"],
        "export": [path, "out.onnx"], "publish": [path, "out"],
    }  # fmt: skip
    assert main([command, *map(str, words[command])]) == 1
    found = capsys.readouterr()
    assert "refused" in found.err or "an exported network" in found.err
    assert "Traceback" not in found.err


def test_trust_hands_the_file_to_torch(good, tmp_path, monkeypatch):
    """Compiled files and graphs with more than operators are loaded as before, where they are trusted."""
    path = rewritten(good, tmp_path / "net.pt2", more={"data/aotinductor/model/net.so": b""})
    text = Metadata("net", "classification", SPEC).to_json()

    class Loaded:
        def get_metadata(self):
            return {"ctxvision": text}

        def __call__(self, images):
            return images.new_zeros(len(images), 2)

    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda file: Loaded())
    assert open_exported(path, trust=True)(torch.zeros(3, 3, 16, 16)).shape == (3, 2)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda file: pytest.fail("torch unpacks it"))
    with pytest.raises(
        ExportError, match=rf"unpacks \d\.\d MB to {tempfile.gettempdir()}, where 0\.0 MB are free"
    ):
        open_exported(path, trust=True)
    more = program(lambda c: c["guards_code"].append("isinstance(1, int)"))
    path = rewritten(good, tmp_path / "more.pt2", **more)
    with pytest.raises(ExportError, match="trust"):
        open_exported(path)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(
        open_exported(path, trust=True)(images), open_exported(good)(images), rtol=0, atol=0
    )


def test_graphs_compute_what_torch_computes(good):
    images = torch.randn(3, 3, 20, 24)
    with good.open("rb") as file:
        mine = Graph(read_parts(file))(images)[0]
    torch.testing.assert_close(mine, torch.export.load(good).module()(images), rtol=0, atol=0)


def test_graphs_refuse_what_they_were_not_traced_for(good):
    opened = open_exported(good)
    for shape in ((1, 1, 16, 16), (1, 3, 1, 16), (3, 16, 16)):
        with pytest.raises(ExportError, match="does not take"):
            opened(torch.zeros(shape))
    with pytest.raises(ExportError, match="dtype"):
        opened(torch.zeros(1, 3, 16, 16, dtype=torch.float64))


def test_two_members_of_one_name(good, tmp_path):
    """A checker and a loader could see different ones."""
    path = rewritten(good, tmp_path / "net.pt2")
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"{}")
    with pytest.raises(ExportError, match="twice"):
        open_exported(path)


def test_members_that_unpack_to_more(good, tmp_path):
    path = rewritten(good, tmp_path / "net.pt2", compress=zipfile.ZIP_DEFLATED)
    with pytest.raises(ExportError, match="compressed"):
        open_exported(path)


def test_members_that_overlap(good, tmp_path):
    """Every member claims the largest one's bytes."""
    path = rewritten(good, tmp_path / "net.pt2")
    data = bytearray(path.read_bytes())
    for found in re.finditer(rb"PK\x01\x02", bytes(data)):
        struct.pack_into("<LL", data, found.start() + 20, len(data) // 2, len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(ExportError, match="claim more"):
        open_exported(path)


@pytest.mark.parametrize("sizes", [[10**6], [3, 10**9]])
def test_weights_beyond_their_member(good, tmp_path, sizes):
    def edit(content):
        about = content["config"]["fc.bias"]["tensor_meta"]
        about["sizes"], about["strides"] = ([{"as_int": n} for n in sizes], [{"as_int": 1} for _ in sizes])

    with pytest.raises(ExportError, match="damaged"):
        open_exported(rewritten(good, tmp_path / "net.pt2", **weights(edit)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_weights_that_are_no_numbers(good, tmp_path, value):
    name = "norm.running_var" if value == -1 else "fc.bias"

    def overwrite(data):
        return struct.pack("<f", value) + data[4:]

    with zipfile.ZipFile(good) as archive:
        config = next(n for n in archive.namelist() if n.endswith("model_weights_config.json"))
        member = json.loads(archive.read(config))["config"][name]["path_name"]
    path = rewritten(good, tmp_path / "net.pt2", change={f"weights/{member}": overwrite})
    with pytest.raises(ExportError, match=f"(NaN or infinity|negative).*{name}"):
        open_exported(path)


def test_a_size_that_takes_all_memory(good, tmp_path):
    size = {"name": "size", "arg": {"as_ints": [10**6, 10**6]}, "kind": 1}
    change = program(lambda c: add_node(c, "torch.ops.aten.zeros.default", [size], [{"as_tensor": {"name": "z"}}]))
    with pytest.raises(ExportError, match="asks for size"):
        open_exported(rewritten(good, tmp_path / "net.pt2", **change))


def test_numbers_that_grow_without_end(good, tmp_path):
    """Squares of squares of sizes have as many digits as memory holds."""

    def edit(content):
        for k in reversed(range(60)):
            factor = {"name": "", "arg": {"as_sym_int": {"as_name": f"n{k}"} if k else {"as_int": 9}}, "kind": 1}
            add_node(content, "_operator.mul", [factor, factor], [{"as_sym_int": {"as_name": f"n{k + 1}"}}])

    opened = open_exported(rewritten(good, tmp_path / "net.pt2", **program(edit)))
    with pytest.raises(ExportError, match="bits"):
        opened(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("condition", "small", "large"),
    [
        ("L['x'].size()[0] >= 3", False, True),
        ("(1 + (((-1) + L['x'].size()[1]) // 2))*torch.sym_max(1, L['x'].size()[0]) != 1", False, True),
        ("not (L['x'].size()[0] == 1) and 5 % L['x'].size()[0] == 2", False, True),
        ("L['x'].size()[0] / 2 > 1", False, True),
    ],
)
def test_conditions_are_read_as_python_reads_them(condition, small, large):
    about = {"sizes": [{"as_expr": {"expr_str": "Symbol('s0', integer=True)", "hint": None}}] * 2}
    guards = Guards(["x"], [about], {"s0": {"min_val": None, "max_val": 9}}, [condition])
    for side, holds in ((1, small), (3, large)):
        inputs = [torch.zeros(side, side)]
        if holds:
            guards.check(inputs)
        else:
            with pytest.raises(AssertionError, match="Guard failed"):
                guards.check(inputs)
    for shape in ((1, 2), (10, 10)):
        with pytest.raises(AssertionError, match=r"size\(\)"):
            guards.check([torch.zeros(shape)])


@pytest.mark.parametrize(
    "condition", ["9 ** 9 ** 9", "'a' * 99", "[x for x in L]", "L['x']", "1 +", "(" * 500, "1 " * 20_000]
)
def test_conditions_that_are_no_arithmetic(condition):
    with pytest.raises(NeedsTrustError, match="more than arithmetic"):
        Guards(["x"], [{"sizes": []}], {}, [condition])
