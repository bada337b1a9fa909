"""Small networks of each family, their checkpoints, and the command that publishes them."""

import huggingface_hub
import torch

import ctxvision
from ctxvision import cli
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.checkpoint_file import save_checkpoint

# one of each family, with what its constructor can be told
NETWORKS = {
    "cotnet_micro": {},
    "se_cotnetd50": {"depths": (1, 1, 2, 1)},
    "rednet_micro": {},
    "contextual_convnext_micro": {"class_ratios": (1, 0.6, 0.4, 0.3), "selection": "rerank", "dim": 32},
    "contextual_resnet50": {"depths": (1, 1, 1, 1), "planes": (8, 16, 16, 16), "stages": (3, 4)},
    "test_resnet": {},
}
SPEC = {
    "class_names": ["cat", "dog", "a | `b`\n<c>", "été", "e", "f"],
    "input_size": [3, 40, 40],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bilinear",
    "crop_pct": 0.8,
}


def lively(model):
    """Fill what starts at zero and would hide what lies behind it, and buffers too."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = 0.05 * torch.randn_like(tensor)
            tensor.add_(noise.abs() if name.endswith("running_var") else noise)
    return model


def task_of(name="rednet_micro", spec=SPEC, **options):
    task = ClassificationTask(name, spec, model_args=NETWORKS.get(name), **options)
    lively(task.model)
    return task.eval()


def save(task, path, *, epoch=2, step=66, **more):
    """Write a checkpoint as the training does."""
    mark = {"task": task.kind, "version": ctxvision.__version__}
    contents = {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams), "ctxvision": mark}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint({"epoch": epoch, "global_step": step, **contents, **more}, path)
    return path


def run(capsys, *words):
    code = cli.main(["publish", *map(str, words)])
    return code, *capsys.readouterr()


def card_of(folder):
    return huggingface_hub.ModelCard.load(folder / "README.md")
