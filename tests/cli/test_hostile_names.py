"""Names that attack: from the training to every file, page and answer that shows them."""

import json
import os
import shutil

import huggingface_hub
import numpy as np
import pytest
import yaml

from _checkpoints import detection_task, segmentation_task, video_task, write_task
from _hostile_names import CLASSES, FILES, READABLE, assert_page, assert_plain, assert_svg, cells, name_in
from _masks import make_pixels
from _pictures import make_folder, picture
from _serving import app_of, ask, encoded, write_checkpoint
from ctxvision.cli import main
from ctxvision.data import DataSpec
from ctxvision.data.video.writing import write_video
from data._coco import content

pytestmark = pytest.mark.slow


def run(capsys, *words, code=0):
    assert main([os.fspath(word) for word in words]) == code, capsys.readouterr()
    said = capsys.readouterr()
    assert_plain(said.out)
    assert_plain(said.err)
    assert "Traceback" not in said.err
    return said.out


def read(path):
    """A text file that is valid UTF-8; a table holds names of files as the bytes they are."""
    return path.read_bytes().decode(errors="surrogateescape" if path.suffix == ".csv" else "strict")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A classifier trained on classes and files of hostile names, in a folder of such a name."""
    root = tmp_path_factory.mktemp("hostile") / "\x1b[1m=r\n"
    data = make_folder(root / "data", dict.fromkeys(CLASSES, 3))
    (root / "files").mkdir()
    for seed, name in enumerate(FILES):
        picture("cat", seed).save(root / "files" / f"{name}.png")
    (root / "files" / "bad\x1b[2J.png").write_bytes(b"no image")
    (data / CLASSES[0] / "bad\n\x1b[2J.png").write_bytes(b"no image")
    words = ["train", "test_resnet", os.fspath(data), "--image-size=16", "--epochs=1", "--workers=0"]
    words += ["--val-fraction=0.4", "--device=cpu", "--batch-size=9", f"--out={root / 'run'}", "--logger=csv"]
    assert main(words) == 0
    return root


def test_training_leaves_files_that_can_be_read(root):
    folder = root / "run"
    assert yaml.safe_load(read(folder / "config.yaml"))["data"] == str(root / "data")
    for name in ("report.json", "environment.json"):
        text = read(folder / name)
        assert_plain(text)
        json.loads(text)
    assert {row["name"] for row in json.loads(read(folder / "report.json"))["classes"]} == set(CLASSES)


def test_evaluate_and_report(root, capsys):
    folder, out = root / "run", root / "evaluation"
    out.mkdir()
    said = run(capsys, "evaluate", folder, root / "data", f"--json={out / 'a.json'}", f"--html={out / 'a.html'}")
    assert all(words in said for words in READABLE)
    assert len(said.splitlines()) < 30
    numbers = json.loads(read(out / "a.json"))
    assert [row["name"] for row in numbers["classes"]] == sorted(CLASSES)
    run(capsys, "report", folder, f"--out={out / 'report.html'}")
    assert json.loads(read(out / "report.json"))["class_names"] == sorted(CLASSES)
    for page in ("a.html", "report.html"):
        text = assert_page(read(out / page))
        assert all(words in text for words in READABLE)
        assert "49" not in text.split("\\alpha_1^{2$", 1)[1][:12]


def test_predict(root, capsys):
    folder, files = root / "run", root / "files"
    out = run(capsys, "predict", folder, files, "--top-k=9")
    assert len(out.splitlines()) == len(FILES)
    assert all(words in out for words in READABLE)
    found = json.loads(run(capsys, "predict", folder, files, "--format=json", "--top-k=9"))
    assert {row["image"] for row in found} == {str(files / f"{name}.png") for name in FILES}
    assert {row["class"] for row in found[0]["predictions"]} == set(CLASSES)
    run(capsys, "predict", folder, files, "--format=csv", "--top-k=9", f"--out={root / 'p.csv'}")
    rows = cells(read(root / "p.csv"))[1:]
    assert {name_in(row[0]) for row in rows} == {str(files / f"{name}.png") for name in FILES}
    assert {name_in(row[2]) for row in rows} == set(CLASSES)


def test_explain(root, capsys):
    out, spec = root / "explained", DataSpec(CLASSES, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    network = write_checkpoint(root / "contextual.ckpt", spec=spec)
    files = [root / "files" / f"{name}.png" for name in FILES[:1]]
    run(
        capsys,
        "explain",
        network,
        *files,
        f"--data={root / 'data'}",
        "--split=all",
        f"--out={out}",
        f"--class={CLASSES[0]}",
    )
    assert all(words in assert_page(read(out / "explain.html")) for words in READABLE)
    assert {row["file"] for row in json.loads(read(out / "explain.json"))["images"]} == set(map(str, files))
    drawings = list((out / "figures").glob("*.svg"))
    assert drawings
    for drawing in drawings:
        assert_svg(drawing.read_bytes())


def test_export(root, capsys):
    out = root / "=\x1bnet.onnx"
    run(capsys, "export", root / "run", out)
    found = json.loads(run(capsys, "predict", out, root / "files", "--format=json", "--top-k=9"))
    assert {row["class"] for row in found[0]["predictions"]} == set(CLASSES)


def test_publish(root, capsys):
    from markdown_it import MarkdownIt

    evaluated = root / "scores.json"
    run(capsys, "evaluate", root / "run", root / "data", f"--json={evaluated}")
    run(capsys, "publish", root / "run", root / "card", f"--metrics={evaluated}", "--name", CLASSES[4])
    text = read(root / "card" / "README.md")
    assert_plain(text)
    assert json.loads(read(root / "card" / "config.json"))["label_names"] == sorted(CLASSES)
    assert huggingface_hub.ModelCard(text, ignore_metadata_errors=False).data.model_name == CLASSES[4]
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text.split("\n---\n", 1)[1])
    inside = [child for token in tokens for child in token.children or ()]
    assert not {"link_open", "image", "html_inline", "s_open"} & {token.type for token in inside}
    assert "html_block" not in {token.type for token in tokens}
    rows = [token for token in tokens if token.type == "tr_open"]
    assert sum(token.type in ("td_open", "th_open") for token in tokens) % len(rows) >= 0
    (names,) = [token for token in tokens if token.type == "inline" and token.content.startswith("9: ")]
    shown = "".join(child.content for child in names.children)
    assert all(words in shown for words in (*READABLE, CLASSES[4], "$\\alpha_1^{2$ {{7*7}} [red]"))


def test_serve(root):
    from ctxvision.serve import open_networks
    from ctxvision.serve.network import of_folder

    shutil.copy(root / "run" / "checkpoints" / "best.ckpt", root / "net.ckpt")
    app = app_of(*open_networks([str(root / "net.ckpt")]), examples=of_folder(str(root / "files")))
    try:
        (model,) = ask(app, "GET", "/models").json()["models"]
        assert model["class_names"] == sorted(CLASSES)
        picture_file = {"image": ('"\r\nX: y\x1b.png', encoded(), "image/png")}
        for path in ("/predict", "/explain"):
            answer = ask(app, "POST", path, files=picture_file, params={"top_k": 9})
            assert answer.status_code == 200, answer.text
            assert CLASSES[7] in answer.text or CLASSES[7] in json.dumps(answer.json(), ensure_ascii=False)
            assert_plain(answer.text)
            assert "x" not in answer.headers
        named = [example["name"] for example in ask(app, "GET", "/examples").json()["examples"]]
        assert len(named) == len(FILES)
        assert ask(app, "GET", "/openapi.json").status_code == 200
        assert_plain(ask(app, "GET", "/metrics").text)
    finally:
        app.state.service.close()


DETECTED = (CLASSES[3], CLASSES[0])  # in the order of their ids


def _saved(task, root, **spec):
    task.hparams["data_spec"].update(spec)
    return write_task(task, root.parent / "net.ckpt")


def _coco(root):
    coco = content()
    for entry, name in zip(coco["images"], FILES, strict=False):
        entry["file_name"] = f"{name.encode('utf-8', 'replace').decode()}.png"
    for category, name in zip(sorted(coco["categories"], key=lambda entry: entry["id"]), DETECTED, strict=True):
        category["name"] = name
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for seed, entry in enumerate(coco["images"]):
            picture("cat", seed, (entry["width"], entry["height"])).save(root / split / entry["file_name"])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco))
    ids = sorted(category["id"] for category in coco["categories"])
    task = detection_task("mask_rcnn", detections=3)
    return _saved(task, root, class_names=list(DETECTED), category_ids=ids)


def _pixels(root):
    names = [name.replace("\n", " ").replace("\r", " ").encode("utf-8", "replace").decode() for name in CLASSES]
    make_pixels(root, {"train": 2, "val": 2})
    (root / "classes.txt").write_text("\n".join(names).strip())
    for part in ("train", "val"):
        for index, name in enumerate(FILES[:2]):
            for folder in ("images", "masks"):
                (root / folder / part / f"{index:03d}.png").rename(root / folder / part / f"{name}.png")
    task = segmentation_task(classes=len(CLASSES))
    return _saved(
        task, root, class_names=[line.strip() for line in names], colors=[[i, i, i] for i in range(len(names))]
    )


def _clips(root):
    for part in ("train", "val"):
        for name in sorted(CLASSES)[:3]:
            (root / part / name).mkdir(parents=True)
            pixels = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
            write_video(root / part / name / f"{FILES[0]}.mp4", pixels)
    task = video_task()
    return _saved(task, root, class_names=sorted(CLASSES)[:3])


@pytest.mark.parametrize("make", [_coco, _pixels, _clips])
def test_other_tasks(make, tmp_path, capsys):
    data = tmp_path / "\x1b[1m=d\n"
    checkpoint = make(data)
    out = [f"--json={tmp_path / 'a.json'}", f"--html={tmp_path / 'a.html'}"]
    run(capsys, "evaluate", checkpoint, data, *out)
    text = assert_page(read(tmp_path / "a.html"))
    assert "[31mred" in text
    assert repr(CLASSES[0]) in repr(json.loads(read(tmp_path / "a.json")))
    files = sorted(
        str(path) for path in data.rglob("*.[pm][np][g4]") if "val" in path.parts and "masks" not in path.parts
    )
    threshold = ["--threshold=0.0"] if make is _coco else []
    for style in ("table", "json"):
        said = run(
            capsys, "predict", checkpoint, *files, f"--format={style}", f"--draw={tmp_path / style}", *threshold
        )
        if style == "json":
            assert {next(iter(row.values())) for row in json.loads(said)} == set(files)
    run(capsys, "predict", checkpoint, *files, "--format=csv", f"--out={tmp_path / 'p.csv'}", *threshold)
    assert {name_in(row[0]) for row in cells(read(tmp_path / "p.csv"))[1:]} == set(files)
    run(capsys, "explain", checkpoint, files[0], f"--out={tmp_path / 'e'}", *threshold)
    assert_page(read(tmp_path / "e" / "explain.html"))
