"""Answers are those of torch and of ctxvision.explain; batches change nothing."""

import asyncio
import base64
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from _serving import NAMES, SPEC, app_of, ask, client_of, encoded, pixels, plain_network, write_checkpoint
from ctxvision.checkpoints import CheckpointError
from ctxvision.explain import class_funnel, contextual_offsets, generated_kernels, grad_cam
from ctxvision.export import Metadata, export_onnx, export_pt2
from ctxvision.serve import ServeError, create_app, open_networks
from ctxvision.serve.explaining import explain
from ctxvision.serve.network import of_digits, of_folder


@pytest.fixture(scope="module")
def networks(checkpoints):
    return open_networks([f"first={checkpoints[0]}", str(checkpoints[1])])


@pytest.fixture(scope="module")
def app(networks):
    made = create_app(networks)
    yield made
    made.state.service.close()


def inputs(*images):
    return torch.stack([SPEC.eval_transform()(image) for image in images])


@torch.no_grad()
def probabilities(network, *images):
    return network.task(inputs(*images)).softmax(1)


@pytest.mark.parametrize("index", [0, 1])
def test_predictions_are_torch_s(app, networks, index):
    images = [pixels(seed) for seed in range(3)]
    files = [("image", (f"{n}.png", encoded(image))) for n, image in enumerate(images)]
    answer = ask(app, "POST", f"/predict?model={networks[index].name}&top_k=4", files=files)
    assert answer.status_code == 200
    found = answer.json()
    assert found["model"] == networks[index].name
    for row, chances in zip(found["predictions"], probabilities(networks[index], *images), strict=True):
        order = chances.argsort(descending=True, stable=True)[:4].tolist()
        assert [entry["class"] for entry in row] == [NAMES[c] for c in order]
        np.testing.assert_allclose([entry["probability"] for entry in row], chances[order], rtol=1e-4, atol=1e-6)


def test_the_first_network_answers_by_default_and_top_k_may_be_more_than_there_are(app):
    answer = ask(app, "POST", "/predict?top_k=1000", files={"image": encoded()}).json()
    assert answer["model"] == "first"
    (row,) = answer["predictions"]
    assert sorted(entry["class"] for entry in row) == sorted(NAMES)
    assert sum(entry["probability"] for entry in row) == pytest.approx(1, abs=1e-5)


def test_many_clients_share_batches_and_get_what_each_would_get_alone(networks):
    app = create_app(networks[:1])
    images = [pixels(seed) for seed in range(24)]

    async def all_at_once():
        async with client_of(app) as client:
            posts = [client.post("/predict", files={"image": encoded(image)}) for image in images]
            return await asyncio.gather(*posts)

    answers = asyncio.run(all_at_once())
    alone = [probabilities(networks[0], image)[0] for image in images]
    for answer, chances in zip(answers, alone, strict=True):
        (row,) = answer.json()["predictions"]
        expected = [chances[NAMES.index(entry["class"])].item() for entry in row]
        np.testing.assert_allclose([entry["probability"] for entry in row], expected, rtol=1e-4, atol=1e-6)
    text = ask(app, "GET", "/metrics").text
    counts = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
    assert counts['ctxvision_batch_images_sum{model="first"}'] == 24
    assert counts['ctxvision_batch_images_count{model="first"}'] < 24
    assert counts['ctxvision_requests_total{method="POST",route="/predict",status="200"}'] == 24
    assert counts['ctxvision_request_seconds_count{route="/predict"}'] == 24
    assert counts['ctxvision_queue_depth{model="first"}'] == 0
    app.state.service.close()


def test_the_orientation_in_exif_is_applied(app, networks):
    image = pixels()
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    data = encoded(turned, exif=exif)
    (row,) = ask(app, "POST", "/predict", files={"image": data}).json()["predictions"]
    (upright,) = ask(app, "POST", "/predict", files={"image": encoded(image)}).json()["predictions"]
    assert row == upright
    chances = probabilities(networks[0], image)[0]
    assert row[0]["probability"] == pytest.approx(chances.max().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_formats(app, kind):
    answer = ask(app, "POST", "/predict", files={"image": ("x.txt", encoded(kind=kind), "text/plain")})
    assert answer.status_code == 200


def test_the_first_frame_of_an_animation_counts(app):
    frames = [pixels(seed) for seed in range(3)]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    still = encoded(frames[0], "WEBP", lossless=True)
    both = [
        ask(app, "POST", "/predict", files={"image": data}).json()["predictions"][0] for data in (moving, still)
    ]
    assert both[0][0]["class"] == both[1][0]["class"]
    assert both[0][0]["probability"] == pytest.approx(both[1][0]["probability"], rel=1e-4)


@pytest.mark.parametrize("asked", [None, "gnu"])
def test_explanation_is_that_of_the_library(app, networks, asked):
    model, image = networks[0].task.model, inputs(pixels())
    query = "" if asked is None else f"?class={asked}"
    answer = ask(app, "POST", f"/explain{query}", files={"image": encoded()}).json()
    chances = probabilities(networks[0], pixels())[0]
    chosen = int(chances.argmax()) if asked is None else NAMES.index(asked)

    (cam,) = grad_cam(model, image, [chosen])
    assert answer["grad_cam"]["class"] == NAMES[chosen]
    assert (answer["grad_cam"]["layer"], answer["grad_cam"]["scored_by"]) == (cam.layer.name, cam.scored_by)
    np.testing.assert_allclose(answer["grad_cam"]["map"], cam.raw, rtol=1e-3, atol=1e-5)

    (funnel,) = class_funnel(model, image, [chosen])
    assert answer["funnel"]["followed"] == NAMES[chosen]
    for stage, expected in zip(answer["funnel"]["stages"], funnel.stages, strict=True):
        assert (stage["name"], stage["rank"]) == (expected.name, expected.true_rank)
        assert [row["class"] for row in stage["classes"]] == [NAMES[c] for c in expected.classes]
        assert [row["kept"] for row in stage["classes"]] == list(expected.kept)

    expected_bends = {bend.name: bend for bend in contextual_offsets(model, image)}
    assert [layer["stage"] for layer in answer["offsets"]] == [2, 3, 4]
    for layer in answer["offsets"]:
        bend = expected_bends[layer["layer"]]
        moves = np.frombuffer(base64.b64decode(layer["moves"]), "<i2").reshape(bend.regular.shape) * layer["scale"]
        rows, columns = np.array(layer["rows"]), np.array(layer["columns"])
        plain = np.stack(np.broadcast_arrays(rows[:, None, :, None], columns[None, :, None, :]), -1).reshape(
            bend.regular.shape
        )
        np.testing.assert_allclose(plain, bend.regular, atol=1e-4)
        np.testing.assert_allclose(plain + moves, bend.sampled[0], atol=1e-3 * max(1, np.abs(moves).max()))
        assert np.abs(moves).max() > 0.01


@pytest.mark.parametrize("model", ["cotnet_micro", "rednet_micro"])
def test_kernels_are_those_of_the_library(model, attentive, tmp_path):
    path = attentive if model == "cotnet_micro" else write_checkpoint(tmp_path / "red.ckpt", model)
    (network,) = open_networks([str(path)])
    app = create_app([network])
    answer = ask(app, "POST", "/explain", files={"image": encoded()}).json()
    app.state.service.close()
    found = {layer.name: layer for layer in generated_kernels(network.task.model, inputs(pixels()))}
    assert [layer["stage"] for layer in answer["kernels"]] == [1, 2, 3, 4]
    for layer in answer["kernels"]:
        expected, shape = found[layer["layer"]], (len(layer["groups"]), -1, *layer["size"])
        weights = np.frombuffer(base64.b64decode(layer["weights"]), "i1").reshape(shape) * layer["scale"]
        of_groups = expected.kernels[0, np.array(layer["groups"]) - 1]
        np.testing.assert_allclose(weights, of_groups, atol=np.abs(of_groups).max() / 250)
        assert layer["of_groups"] == expected.kernels.shape[1]
        rows, step = np.array(layer["rows"]), 32 / layer["size"][0]
        side = layer["kernel"][0]
        np.testing.assert_allclose(np.diff(rows, axis=0), step)  # neighbours of a place are one step apart
        assert rows.shape == (side, layer["size"][0])
        assert 0 <= rows[side // 2, 0] <= step  # the middle tap of the first place lies in its corner
        if model == "cotnet_micro":
            assert layer["kind"] == "attention"
            np.testing.assert_allclose(layer["dynamic"], expected.dynamic[0], rtol=1e-3)
            assert layer["dynamic_share"] == pytest.approx(expected.dynamic_share.mean(), rel=1e-4)
        else:
            assert (layer["kind"], layer["static"], layer["dynamic_share"]) == ("involution", None, None)


def test_where_the_view_lies_in_the_photo(networks):
    """The page finds what was cut out of the photo from one pair of numbers: no more is in the transform."""
    spec = dataclasses.replace(SPEC, crop_pct=0.8)
    found = json.loads(explain(dataclasses.replace(networks[1], spec=spec), inputs(pixels())[0], None, 1))
    assert found["scaled_to"] == [40, 40]
    photo = Image.fromarray(np.arange(120, dtype=np.uint8)[None, :, None].repeat(60, 0).repeat(3, 2))
    scale = max(40 / 60, 40 / 120)
    left = (120 * scale - 32) / 2 / scale  # as scene.js has it
    seen = (spec.eval_transform()(photo)[0] * 0.25 + 0.5) * 255
    assert seen[16, 0].item() == pytest.approx(left + 0.5 / scale - 0.5, abs=1)
    assert seen[16, -1].item() == pytest.approx(left + 31.5 / scale - 0.5, abs=1)


def test_pictures_of_an_explanation(app, networks):
    answer = ask(app, "POST", "/explain", files={"image": encoded()}).json()
    view, heat = (
        Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        for uri in (answer["view"], answer["grad_cam"]["picture"])
    )
    assert view.size == heat.size == (32, 32)
    seen = (inputs(pixels())[0] * 0.25 + 0.5).clamp(0, 1).permute(1, 2, 0).mul(255).round().byte().numpy()
    assert np.array_equal(np.asarray(view), seen)


def test_a_plain_network_has_no_funnel_and_no_offsets(app, networks):
    answer = ask(app, "POST", f"/explain?model={networks[1].name}", files={"image": encoded()}).json()
    assert answer["funnel"] is None
    assert answer["offsets"] == []
    assert answer["grad_cam"]["class"] == answer["predictions"][0]["class"]


def test_explaining_changes_no_prediction(app):
    def predict():
        return ask(app, "POST", "/predict", files={"image": encoded()}).content

    before = predict()
    ask(app, "POST", "/explain?class=hen", files={"image": encoded()})
    assert predict() == before


@pytest.fixture(params=["net.pt2", "net.onnx"])
def exported(request, tmp_path):
    """A small network as a file; its layers are few because exporting takes its time."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, 10))
    net[2].weight.data.mul_(5)
    path = tmp_path / request.param
    write = export_pt2 if path.suffix == ".pt2" else export_onnx
    write(net, path, metadata=Metadata("small", "classification", SPEC.to_dict()))
    return net, path


def test_an_exported_file_predicts_but_is_not_explained(exported):
    net, path = exported
    app = create_app(open_networks([f"file={path}"]))
    (row,) = ask(app, "POST", "/predict?top_k=10", files={"image": encoded()}).json()["predictions"]
    chances = net(inputs(pixels()))[0].softmax(0)
    for entry in row:
        assert entry["probability"] == pytest.approx(chances[NAMES.index(entry["class"])].item(), rel=1e-3)
    refused = ask(app, "POST", "/explain", files={"image": encoded()})
    assert (refused.status_code, refused.json()["error"]) == (409, "not_explained")
    (about,) = ask(app, "GET", "/models").json()["models"]
    assert (about["model"], about["explains"]) == ("small", False)
    app.state.service.close()


def test_models_and_health(app):
    about = ask(app, "GET", "/models").json()["models"]
    assert [(one["name"], one["contextual"], one["offsets"]) for one in about] == [
        ("first", True, True),
        ("test_resnet", False, False),
    ]
    assert about[0]["class_names"] == list(NAMES)
    assert ask(app, "GET", "/healthz").json()["status"] == "ok"


def test_names_of_networks(checkpoints):
    path = checkpoints[1]
    assert [network.name for network in open_networks([str(path), str(path)])] == ["test_resnet", "test_resnet-2"]
    with pytest.raises(ServeError, match="two networks are called 'a'"):
        open_networks([f"a={path}", f"a={path}"])


def test_a_network_whose_output_is_no_number_is_not_started(checkpoints, tmp_path):
    from ctxvision.tasks.checkpoint_file import save_checkpoint

    checkpoint = torch.load(checkpoints[1], weights_only=True)
    name = next(name for name in checkpoint["state_dict"] if name.endswith("fc.bias"))
    checkpoint["state_dict"][name].fill_(float("nan"))
    save_checkpoint(checkpoint, tmp_path / "broken.ckpt")
    with pytest.raises(CheckpointError, match="NaN"):
        open_networks([str(tmp_path / "broken.ckpt")])
    for name, value in checkpoint["state_dict"].items():
        if name.endswith(("weight", "bias")):
            value.fill_(3e38)  # numbers, but what is computed with them overflows
    save_checkpoint(checkpoint, tmp_path / "broken.ckpt")
    with pytest.raises(ServeError, match="NaN"):
        open_networks([str(tmp_path / "broken.ckpt")])


def test_examples_of_a_folder(tmp_path):
    for index in range(30):
        pixels(index).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "29.png").write_bytes(b"no image")
    app = app_of(plain_network(), examples=of_folder(str(tmp_path)))
    found = ask(app, "GET", "/examples").json()["examples"]
    assert len(found) == 24
    data = ask(app, "GET", found[1]["url"])
    assert data.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data.content))), np.asarray(pixels(1)))
    assert ask(app, "GET", "/examples/24").status_code == 404
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ServeError, match="no image that can be read"):
        of_folder(str(empty))
    with pytest.raises(ServeError, match="no such folder"):
        of_folder(str(empty / "deeper"))
    app.state.service.close()


def test_examples_of_the_embedded_digits_are_held_out():
    from ctxvision.data import DigitsData

    data = DigitsData()
    found = of_digits([SPEC, data.spec], 5)
    assert [example.name[:7] for example in found] == [f"digit {int(target)}" for target in data._eval[1][:5]]
    held_out = np.stack([np.asarray(Image.open(io.BytesIO(example.data))) for example in found])
    assert np.array_equal(held_out, data._eval[0][:5].numpy())
    assert of_digits([SPEC]) == []


def test_the_page_is_part_of_the_package():
    from importlib.resources import files

    folder = Path(__file__).parents[2] / "src/ctxvision/serve/static"
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "app.js", "style.css"} <= names
    assert {path.name for path in (files("ctxvision.serve") / "static").iterdir()} == names
