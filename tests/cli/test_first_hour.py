"""What a newcomer meets first: help, typos, the wrong folder, too few images, options from files."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ProgressBar

from _pictures import make_folder
from ctxvision import cli
from ctxvision._cli import class_paths, messages
from ctxvision._cli.train import options_of
from ctxvision.checkpoints import CheckpointError, warm_start
from ctxvision.checkpoints.layout import our_models
from ctxvision.cli import main
from ctxvision.data import DataError
from ctxvision.data.open import open_for_evaluation
from ctxvision.devices import resolved
from ctxvision.runs import RunFolder
from ctxvision.tasks.registry import task_named
from ctxvision.training import OptionError
from ctxvision.training import run as training_run
from ctxvision.training.callbacks import RunCheckpoints, RunProgressBar
from ctxvision.training.class_paths import build
from ctxvision.training.warm_up import with_warmup_steps_within

LIGHT = """
import contextlib, io, runpy, sys
sys.argv = ["ctxvision", "--version"]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    runpy.run_module("ctxvision", run_name="__main__")  # as python -m ctxvision does
from ctxvision.cli import main
for words in {calls}:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        with contextlib.suppress(SystemExit):
            main(words)
    heavy = {{"torch", "timm", "numpy", "lightning", "PIL", "matplotlib"}} & set(sys.modules)
    assert not heavy, (words, heavy)
import torch
assert torch.ops.ctxvision.local_aggregation, "not registered with torch"
import timm
assert timm.is_model("cotnet50"), "not registered with timm"
"""
CALLS = [
    [], ["--help"], ["--version"], ["trian"], ["models"], ["recipes", "small"], ["predict", "--help"],
    ["predict", "--bath-size", "3"], ["train", "--help"], ["train", "a", "b", "--ephocs=3"], ["train"],
    ["train", "--task", "detect", "--recipe", "detect-cotnet-faster-rcnn-1x", "--help"],
]  # fmt: skip


@pytest.mark.process
def test_what_needs_no_network_imports_none():
    done = subprocess.run([sys.executable, "-c", LIGHT.format(calls=CALLS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
def test_networks_are_registered_whatever_of_ours_is_imported_first():
    code = "import ctxvision.nn, timm; assert timm.is_model('cotnet50'); import ctxvision; ctxvision.models.CoTNet"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_listed_networks_are_all_that_there_are(capsys):
    assert main(["models", "--format=json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == our_models()


def test_the_command_alone_is_help(capsys):
    assert stopped([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n    {name}" in shown for name in ("train", *cli._COMMANDS))


def stopped(words):
    """Return the exit code of a command that prints something and ends."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code or 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian", "x"], "there is no command 'trian', did you mean train?"),
        (["models", "contnet50"], "did you mean cotnet50?"),
        (["--versoin"], "there is no option --versoin, did you mean --version?"),
        (["predict", "a", "b", "--trust=yes"], "--trust takes no value, got 'yes'"),
        (["report", "a", "b", "c"], "too many words, from 'c' on"),
        (["serve", "a", "--timeout=x"], "--timeout: must be a number, got 'x'"),
        (["serve", "a", "--batch=0"], "--batch: must be a whole number of at least 1, got '0'"),
        (["predict", "--bath-size=3"], "there is no option --bath-size, did you mean --batch-size?"),
        (["train", "a", "b", "--bath-size=3"], "there is no option --bath-size, did you mean --batch-size?"),
        (["train", "a", "b", "--recipe=smal"], "there is no recipe 'smal', did you mean small?"),
        (["train", "test_resnet", "phtos"], "phtos: no such folder, did you mean photos?"),
        (["predict", "rnus/first.ckpt", "a.png"], "no such file, did you mean runs/first.ckpt?"),
        (["train", "a", "b", "--logger=tensorbord"], "did you mean tensorboard?"),
        (["train", "a", "b", "--callbacks.patience=3"], "name the class before it"),
        (["predict", "--config=none.yaml"], "--config none.yaml: no such file or directory"),
        (["predict", "--config=wrong.yaml"], "predict` has no option bath_size, did you mean batch_size?"),
        (["predict", "--config=flag.yaml"], "trust must be true or false, got 'yes please'"),
    ],
)  # fmt: skip
def test_a_typo_is_answered_by_what_was_meant(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", {"a": 1})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first.ckpt").touch()
    (tmp_path / "wrong.yaml").write_text("bath_size: 3\n")
    (tmp_path / "flag.yaml").write_text("trust: yes please\n")
    assert main(words) in (1, 2)
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["train", *cli._COMMANDS])
def test_help_has_dashes_a_config_and_one_word_for_the_device(command, capsys):
    assert stopped([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert not re.findall(r"--[a-z]+_\w+", shown)
    assert "null" not in shown
    assert "--config" in shown
    assert "--accelerator" not in shown
    if command not in ("models", "recipes", "convert", "convert-labels", "compare", "publish", "export"):
        assert re.search(r"--device .*?auto", shown, re.DOTALL)


def test_help_of_a_recipe_shows_its_values(capsys):
    assert stopped(["train", "--recipe", "small", "--help"]) == 0
    assert re.search(r"--epochs EPOCHS.*?default:\s+60\)", capsys.readouterr().out, re.DOTALL)


def test_options_come_from_a_file_and_words_change_them(tmp_path, monkeypatch):
    calls = []
    for name in ("predict", "benchmark", "serve"):
        monkeypatch.setattr(cli._COMMANDS[name][0], "run", lambda args: calls.append(args) or 0)
    file = tmp_path / "options.yaml"

    def called(command, options, *words):
        file.write_text(yaml.safe_dump(options))
        assert main([command, "--config", str(file), *words]) == 0
        return calls.pop()

    found = called(
        "predict", {"checkpoint": "a.ckpt", "images": ["b", "c"], "top-k": 3, "trust": True, "out": None}
    )
    assert (found.checkpoint, found.images, found.top_k, found.trust) == ("a.ckpt", ["b", "c"], 3, True)
    found = called("predict", {"checkpoint": "a.ckpt", "top_k": 3}, "b.ckpt", "x.png", "--" + "top_k=2")
    assert (found.checkpoint, found.images, found.top_k) == ("b.ckpt", ["x.png"], 2)
    assert called("benchmark", {"models": "a", "batch_size": [1, 4]}).batch_size == (1, 4)
    assert called("serve", {"allow_host": ["x", "y"]}, "a", "--allow-host=z").allow_host == ["x", "y", "z"]


@pytest.mark.parametrize(("there", "auto"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_there_is_any(there, auto, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert [resolved(name) for name in ("auto", "gpu", "cuda:1", "mps")] == [auto, "cuda", "cuda:1", "mps"]


def test_the_old_word_for_the_device_still_works(capsys):
    assert options_of(["a", "digits", "--accelerator=cpu"]).device == "cpu"
    assert "write --device" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "images", "batch"),
    [
        ([], 160, 16),
        ([], 20, 4),
        ([], 1_000_000, 128),
        (["--recipe=small"], 160, 16),
        (["--recipe=small"], 5000, 32),
        (["--devices=3"], 300, 24),
        (["--accumulate=3"], 1000, 63),
        (["--batch-size=50"], 160, 50),
        (["--task=detect"], 60, 4),
        (["--recipe=cotnet-default"], 160, 512),
    ],
)
def test_the_batch_makes_ten_steps_or_more(words, images, batch):
    assert options_of(["cotnet50", "photos", *words]).with_batch_for(images).batch_size == batch


def test_the_rate_of_sgd_follows_the_chosen_batch():
    options = options_of(["a", "photos", "--optimizer=sgd"])
    assert (options.batch_size, options.lr) == (None, None)
    assert options.with_batch_for(640).lr == pytest.approx(0.1 * 64 / 256)
    assert options_of(["a", "photos", "--optimizer=sgd", "--lr=0.3"]).with_batch_for(640).lr == 0.3


def test_few_images_and_few_steps_are_helped():
    def hint(images, *words):
        options = options_of(["a", "photos", *words]).with_batch_for(images)
        return training_run._hint_for_few(
            options, SimpleNamespace(train_size=images), images // options.batch_size
        )

    assert hint(160, "--batch-size=64") == "few steps: --batch-size 16 makes 10 of an epoch"
    assert "--recipe small, for a small network, or --recipe finetune" in hint(160)
    assert not hint(160, "--recipe=small")
    assert not hint(5000)


def test_a_recipe_s_warm_up_is_cut_and_one_s_own_is_refused(caplog):
    options = options_of(["a", "photos", "--recipe=small", "--epochs=1"])
    assert options.warmup_epochs == pytest.approx(0.2)
    assert "a warm-up of 3 epochs would leave nothing of 1 epoch: the warm-up is cut to 0.2" in caplog.text
    with pytest.raises(OptionError, match="must be less than"):
        options_of(["a", "photos", "--epochs=1", "--warmup-epochs=2"])
    options = options_of(["a", "photos", "--recipe=contextual-resnet50", "--epochs=25"])
    assert (options.warmup_epochs, options.cooldown_epochs) == (5, 5)
    assert "a warm-up of 20 and a cool-down of 10 epochs would leave nothing of 25 epochs" in caplog.text
    with pytest.raises(OptionError, match="less than --epochs together"):
        options_of(["a", "photos", "--recipe=contextual-resnet50", "--epochs=9", "--cooldown-epochs=9"])
    words = ["a", "--recipe=detect-rednet-faster-rcnn-1x", "--task=detect", "--init-from=b"]
    for own, steps in ((), 16), (("--warmup-steps=400",), 400):
        assert with_warmup_steps_within(options_of([*words, *own]), 80).warmup_steps == steps


LAYOUTS = {
    "coco": (["annotations/instances_train2017.json", "train2017/1.jpg"], "classify", "add --task detect"),
    "roboflow": (["train/_annotations.coco.json", "train/1.jpg"], "classify", "add --task detect"),
    "cityscapes": (["leftImg8bit/train/a/1.png", "gtFine/train/a/1.png"], "classify", "add --task segment"),
    "clips": (["train/jump/1.mp4", "train/run/2.mp4"], "classify", "add --task video"),
    "yolo": (["images/train/1.jpg", "labels/train/1.txt"], "classify", "labels of YOLO"),
    "yolo parts": (
        ["train/images/1.jpg", "train/labels/1.txt"],
        "detect",
        "ctxvision convert-labels .* COCO's JSON",
    ),
    "voc": (["VOCdevkit/VOC2012/Annotations/1.xml", "VOCdevkit/VOC2012/JPEGImages/1.jpg"], "detect", "Pascal VOC"),
    "classes": ([f"{c}/{i}.png" for c in ("images", "labels") for i in range(3)], "classify", ""),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_task_is_recognised(layout, tmp_path):
    files, task, said = LAYOUTS[layout]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    options = options_of(["a", str(tmp_path), f"--task={task}"])
    if said:
        with pytest.raises(OptionError, match=said):
            options.open_data(2)
    else:
        assert options.open_data(2).spec.class_names == ("images", "labels")


@pytest.mark.parametrize(
    ("data", "task", "said"),
    [
        ("digit", "classify", "digit: no such folder, did you mean digits?"),
        ("digits", "detect", "digits: not for --task detect, for which there is digits-scenes"),
        ("digits#val=2", "segment", "not for --task segment, for which there is digits-scenes"),
        ("moving-digit", "video", "did you mean moving-digits?"),
        ("digits-scenes", "classify", "not for --task classify, for which there is digits"),
    ],
)
def test_words_that_almost_name_embedded_data(data, task, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        options_of(["a", data, f"--task={task}"]).open_data(2)
    if "not for" in said:  # in evaluation, too
        with pytest.raises(DataError, match=re.escape(said)):
            open_for_evaluation(data, None, task_named(task))


def test_parts_by_class_path():
    words = ["--callbacks=a.B", "--callbacks.x=3", "--callbacks.y.z", "w", "--logger=[csv,c.D]", "--lr=1"]
    words.append("--callbacks+=e.F")
    assert class_paths.take_out(words) == (
        {
            "callbacks": [{"class_path": "a.B", "init_args": {"x": 3, "y": {"z": "w"}}}, {"class_path": "e.F"}],
            "logger": ["csv", {"class_path": "c.D"}],
        },
        ["--lr=1"],
    )
    assert class_paths.take_out(["--logger=null"]) == ({"logger": None}, [])
    wrong = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"patienc": 3}}
    with pytest.raises(
        OptionError, match=r"EarlyStopping: no argument 'patienc', did you mean patience\?; there are "
    ):
        build(Callback, [wrong], "--callbacks")


def test_an_object_in_the_place_of_a_class_is_refused_with_what_to_write():
    class Mine(Callback):
        pass

    with pytest.raises(OptionError, match=r"--callbacks: an object of \S+Mine cannot be written .*'class_path'"):
        build(Callback, [Mine()], "--callbacks")


def test_the_best_states_are_ranked(tmp_path):
    callback = RunCheckpoints(RunFolder(tmp_path), "top1", keep=2)
    dropped = [callback._rank(epoch, value) for epoch, value in enumerate([0.1, 0.3, float("nan"), 0.3, 0.2], 1)]
    assert dropped == [[], [], [], [1], [5]]
    restored = RunCheckpoints(RunFolder(tmp_path), "top1", keep=2)
    restored.load_state_dict(callback.state_dict())
    assert restored.kept == {2: 0.3, 4: 0.3}


def test_the_bar_counts_as_the_log_does(monkeypatch):
    bar = RunProgressBar()
    bar._trainer = SimpleNamespace(max_epochs=3)
    assert bar._get_train_description(0) == "Epoch 1/3 "  # as wide as "Validation"
    monkeypatch.setattr(ProgressBar, "get_metrics", lambda *args: {"loss": 1})
    monkeypatch.setattr("time.monotonic", lambda: 30.0)
    bar._began = 10.0, 1  # resumed after the first of three epochs, half an epoch ago
    trainer = SimpleNamespace(
        max_epochs=3, current_epoch=1, num_training_batches=4, fit_loop=SimpleNamespace(batch_idx=1)
    )
    assert bar.get_metrics(trainer, None) == {"left": "0:01:00", "loss": 1}


def test_a_line_tells_that_torch_is_loading(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    messages.say_loading()
    assert not capsys.readouterr().err
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    messages.say_loading()
    assert capsys.readouterr().err == "ctxvision: loading PyTorch …\n"


def test_weights_of_another_family_are_refused_with_the_reason():
    with pytest.raises(
        CheckpointError, match=r"resnet: the weights of another kind of network, not of the model .*such"
    ):
        warm_start(timm.create_model("rednet_micro"), timm.create_model("test_resnet"), source_name="resnet")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a relative path that stopped early, with two states kept, and a callback and a logger of others."""
    folder = tmp_path_factory.mktemp("first")
    make_folder(folder / "photos", {"a": 8, "b": 8})
    words = ["train", "test_resnet", "photos", "--out=run", "--image-size=16", "--workers=0", "--device=cpu"]
    words += ["--pictures=false", "--lr=1e-9", "--epochs=4", "--early-stopping=1", "--save-top-k=2"]
    words += ["--callbacks=lightning.pytorch.callbacks.LearningRateMonitor", "--callbacks.logging-interval=epoch"]
    words += ["--logger=lightning.pytorch.loggers.CSVLogger", "--logger.name=mine"]
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(words) == 0
    finally:
        os.chdir(before)
    return folder / "run"


def test_a_run_stops_early_and_keeps_the_best(run):
    assert len(RunFolder(run).read_rows().rows) == 2  # the first was the best
    assert {"best.ckpt", "epoch-1.ckpt", "epoch-2.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert "lr-AdamW/pg1" in (run / "mine" / "version_0" / "metrics.csv").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["batch_size"] == 4


def test_a_run_goes_on_from_elsewhere_until_it_is_finished(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--resume", str(run), "--epochs=3", "--early-stopping=0", "--logger=csv"]
    assert main(words) == 1
    moved, refused = capsys.readouterr().err.splitlines()
    assert moved == f"ctxvision: photos is not here; the run began with {run.parent / 'photos'}"
    assert "error: Cannot use `LearningRateMonitor`" in refused
    assert main([*words, "--callbacks=null"]) == 0
    assert "epoch 3/3" in capsys.readouterr().out
    assert main(["train", "--resume", str(run)]) == 0
    assert f"{run}: is finished, 3 of 3 epochs; more with --epochs 6" in capsys.readouterr().out


def test_predict_says_what_was_written_where(run, tmp_path, capsys):
    words = [
        "predict",
        str(run),
        str(run.parent / "photos" / "a"),
        "--format=csv",
        "--out",
        str(tmp_path / "p.csv"),
    ]
    assert main(words) == 0
    assert capsys.readouterr().err == f"ctxvision: 8 images answered, written to {tmp_path / 'p.csv'}\n"
