"""The folder: complete, loaded back by timm and compared, or not there at all; and its way to the hub."""

import copy
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import torch
import yaml
from torch import nn

from ctxvision.checkpoints.finite import require_finite
from ctxvision.files import WriteError, replacing_folder
from ctxvision.foreign import json_text
from ctxvision.models import ContextualNet, count_macs
from ctxvision.tasks import ClassificationTask

from .card import Facts, model_card
from .provenance import Provenance, PublishError, Score

_KEPT = ("first_conv", "fixed_input_size", "origin_url", "paper_name", "paper_ids")


def hub_config(task: ClassificationTask, license: str | None = None) -> dict[str, Any]:
    """Describe a trained classifier as timm does (``architecture``, ``model_args``, ``pretrained_cfg``).

    Args:
        task: Task of a trained network, from `ctxvision.tasks.load_task`.
        license: Identifier of the license of its weights.

    Raises:
        PublishError: An argument of the network's constructor cannot be written as JSON.
    """
    spec, model = task.spec, task.model
    own = cast(Mapping[str, Any], model.pretrained_cfg)
    classes, size = list(spec.class_names), list(spec.input_size)
    settings = {
        "input_size": size,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
        "crop_mode": "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": len(classes),
        "classifier": _classifier(model, own.get("classifier")),
        "license": license,
        **{name: own.get(name) for name in _KEPT},
    }
    config = {
        "architecture": own["architecture"],
        "num_classes": len(classes),
        "num_features": model.num_features,
        "label_names": classes,
        "model_args": {**task.model_args, **_class_funnel(model), "in_chans": size[0]},
        "pretrained_cfg": {name: value for name, value in settings.items() if value is not None},
    }
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PublishError(f"{own['architecture']}: its arguments cannot be written as JSON ({error})") from error
    return config


def _class_funnel(model: nn.Module) -> dict[str, Any]:
    """Return the number of classes that features depend on.

    The number of classes that a head scores is none of the arguments: timm finds it in ``pretrained_cfg``, and
    transformers passes it itself, as 0 to build the network without its head.
    """
    funnel = model.context if isinstance(model, ContextualNet) else None
    return {} if funnel is None else {"context_classes": funnel.num_classes}


def _classifier(model: nn.Module, usual: Any) -> Any:
    """Name the layer that timm replaces for another number of classes."""
    layer = cast(Callable[[], nn.Module], model.get_classifier)()
    return next((name for name, module in model.named_modules() if module is layer), usual)


WEIGHTS, CONFIG, CARD, SETTINGS = "model.safetensors", "config.json", "README.md", "training.yaml"


def publish(
    task: ClassificationTask,
    folder: str | os.PathLike[str],
    *,
    provenance: Provenance | None = None,
    scores: Sequence[Score] = (),
    name: str | None = None,
    repo: str | None = None,
    dataset: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Facts:
    """Write a trained classifier so that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it.

    The folder has ``config.json``, ``model.safetensors``, the model card ``README.md`` and, where the settings of
    the training are known, ``training.yaml``. Before it gets its name, timm loads it, and its logits on random
    images are compared with the task's, bit by bit.

    Args:
        task: Task from `ctxvision.tasks.load_task`, with the weights that ``ctxvision evaluate`` scores.
        folder: Path of the new folder; it may exist if it is empty.
        provenance: Facts about the training run.
        scores: More figures that were measured, before those of the provenance.
        name: Name of the network on the card; by default the name of the folder.
        repo: Name of the repository, ``user/repo``, from which the card says how to load the network.
        dataset: Name of the data set on the card; by default the name in the provenance.
        license: Identifier of the license of the weights, such as ``apache-2.0``; by default the one that the
            provenance names, and without either the card says so.
        overwrite: Whether to replace a folder that an earlier call wrote.

    Returns:
        The facts that the card tells.

    Raises:
        PublishError: The folder cannot be written there, or timm would load something else.
        CheckpointError: Weights are NaN or infinite.
    """
    folder = Path(folder)
    check_folder(folder, overwrite)
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise PublishError(f"licence {license!r}: write it as the hub does, such as apache-2.0, mit or other")
    provenance = provenance or Provenance()
    license = license or provenance.license
    config = hub_config(task, license)
    weights = {key: value.detach().cpu().contiguous().clone() for key, value in task.model.state_dict().items()}
    require_finite(weights, folder)
    measured = (*scores, *provenance.scores)
    if len(task.class_names) <= 5:  # of which five are always right
        measured = tuple(score for score in measured if not score.metric.startswith("top-5"))
    facts = Facts(
        name=name or (repo or folder.resolve().name).rpartition("/")[2],
        repo=repo,
        config=config,
        parameters=sum(parameter.numel() for parameter in task.model.parameters()),
        macs=count_macs(task.model, task.spec.input_size),
        provenance=provenance,
        scores=measured,
        dataset=dataset or provenance.data,
        license=license,
    )
    try:
        with replacing_folder(folder) as part:
            (part / WEIGHTS).write_bytes(safetensors.torch.save(weights, {"format": "pt"}))
            (part / CARD).write_text(model_card(facts), encoding="utf-8")
            if provenance.settings:
                text = yaml.safe_dump(dict(provenance.settings), sort_keys=False, allow_unicode=True)
                (part / SETTINGS).write_text(text, encoding="utf-8")
            (part / CONFIG).write_text(json_text(config, indent=2) + "\n", encoding="utf-8")
            _require_same(task, part)
    except WriteError as error:
        raise PublishError(str(error)) from error
    return facts


def check_folder(folder: Path, overwrite: bool) -> None:
    """Find out before the work whether the folder can be written.

    Raises:
        PublishError: The folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise PublishError(f"{folder}: is a file; name a folder to make")
    above = folder.resolve().parent
    if not above.is_dir():
        raise PublishError(f"{folder}: there is no folder {above}; create it first")
    if not os.access(above, os.W_OK):
        raise PublishError(f"{folder}: cannot be written (permission denied)")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    strange = sorted({entry.name for entry in folder.iterdir()} - {WEIGHTS, CONFIG, CARD, SETTINGS})
    if strange:
        raise PublishError(f"{folder}: is not empty (it holds {strange[0]}); choose another folder")
    if not overwrite:
        raise PublishError(
            f"{folder}: holds a published network already; allow --overwrite, or choose another folder"
        )


def _require_same(task: ClassificationTask, folder: Path) -> None:
    """Compare what timm makes of the folder with the network that went into it."""
    images = torch.randn(
        2,
        *task.spec.input_size,
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float32,
        device="cpu",
    )
    own = copy.deepcopy(task.model).cpu().to(memory_format=torch.contiguous_format).eval()
    try:
        loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except (RuntimeError, TypeError, ValueError, AssertionError, AttributeError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PublishError(f"timm {timm.__version__} cannot load this network from a folder ({line})") from error
    with torch.inference_mode():
        if not torch.equal(own(images), loaded(images)):
            raise PublishError("timm rebuilds another network from this folder: its logits differ")


def check_upload(repo: str) -> None:
    """Find out before the work whether an upload can be tried: a name that is one, a token, a hub to reach.

    Raises:
        PublishError: The upload cannot be tried.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PublishError(f"{repo!r} is not the name of a repository on the hub: write user/repo") from error
    if repo.count("/") != 1:
        raise PublishError(f"{repo!r} does not say whose repository it is: write user/repo")
    if constants.HF_HUB_OFFLINE:
        raise PublishError("HF_HUB_OFFLINE is set, nothing can be uploaded; unset it, or leave out --push")
    if not get_token():
        raise PublishError("there is no token of the hub: run `hf auth login`, or set HF_TOKEN")


def upload(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Upload all files of a folder in one commit; a model card that is there already stays.

    Args:
        folder: Folder that `publish` has made.
        repo: Name of the repository, ``user/repo``; it is made if it does not exist.
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        PublishError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_upload(repo)
    api = HfApi(library_name="ctxvision")
    try:
        place = api.create_repo(repo, private=private, exist_ok=True)
        has_card = api.file_exists(place.repo_id, "README.md")
        api.upload_folder(
            repo_id=place.repo_id,
            folder_path=Path(folder),
            commit_message="Network trained with ctxvision",
            ignore_patterns=["README.md"] if has_card else None,
        )
    except (ImportError, NameError, AttributeError, MemoryError):  # of versions that do not fit, or of ours
        raise
    except Exception as error:  # of the hub, of its HTTP client, of the system: no common base in all versions
        raise PublishError(
            f"{repo}: {_reason(error)}; the folder {folder} is complete, try again with --overwrite"
        ) from error
    return str(place)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: "the hub does not accept the token (401): run `hf auth login` again",
        403: "the token may not write there (403)",
        429: "the hub asks to wait (429)",
    }
    if status in known:
        return known[status]
    if status is None and _is_of_the_network(error):
        return "the hub cannot be reached"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"the hub refused ({line})"


def _is_of_the_network(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "ConnectError", "TransportError", "Timeout", "TimeoutError"})
