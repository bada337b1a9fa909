"""The model card: what the network is, how good it was measured to be, and how to load it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ctxvision.foreign import json_text, markdown, markdown_block, markdown_code

from .citations import bibtex, family_of
from .provenance import Provenance, Score

_FAMILIES = {
    "cotnet": "CoTNet: attention over a neighbourhood, guided by a convolution",
    "rednet": "RedNet: involution, a kernel for every position",
    "contextual": "Contextual CNN: the classes that are still likely bend kernels and sampling grids",
}


@dataclass(frozen=True)
class Facts:
    """What the card tells about a network.

    Attributes:
        name: Name of the published network.
        repo: Name of the repository on the hub, ``user/repo``, if the network goes there.
        config: Configuration that `hub_config` returned.
        parameters: Number of parameters of the network.
        macs: Number of multiply-adds for one image of the network's input size.
        provenance: Facts that are known about the training of its checkpoint.
        scores: Measured scores, the best evidence first.
        dataset: Name of the data set; ``None`` if it is unknown.
        license: Identifier that the hub uses for the license of the weights; ``None`` if the author has not said.
    """

    name: str
    repo: str | None
    config: dict[str, Any]
    parameters: int
    macs: int
    provenance: Provenance
    scores: Sequence[Score]
    dataset: str | None
    license: str | None


def model_card(facts: Facts) -> str:
    """Write the card as Markdown with the hub's front matter."""
    parts = [
        f"---\n{_front_matter(facts)}\n---\n",
        f"# {markdown(facts.name)}\n",
        _introduction(facts),
        "## Results\n",
        _results(facts),
        "## Network\n",
        _network(facts),
        "## How to load it\n",
        _usage(facts),
        "## Training\n",
        _training(facts),
        "## Intended use\n",
        _intended_use(facts),
        "## Licence\n",
        _licence(facts),
        "## Citation\n",
        _citation(facts),
    ]
    return "\n".join(parts)


def _front_matter(facts: Facts) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    family = family_of(facts.config["architecture"])
    own_id = facts.provenance.data_id
    results = [
        EvalResult(
            task_type="image-classification",
            dataset_type=own_id if own_id and score.data in (None, own_id) else _slug(_data_of(score, facts)),
            dataset_name=_data_of(score, facts),
            dataset_split=score.split,
            metric_type=_metric_type(score),
            metric_name=f"{score.metric}, {score.measured_by}",
            metric_value=round(score.value, 6),
        )
        for score in facts.scores
    ]
    data = ModelCardData(
        license=facts.license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *(["ctxvision", family] if family else [])],
        datasets=[own_id] if own_id else None,
        metrics=["accuracy"] if results else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def _introduction(facts: Facts) -> str:
    architecture = facts.config["architecture"]
    family = family_of(architecture)
    kind = f" ({_FAMILIES[family]})" if family else ""
    trained = f" on {markdown(facts.dataset)}" if facts.dataset else ""
    classes = facts.config["num_classes"]
    return (
        f"{markdown_code(architecture)}{kind}, a classifier of images into {classes} classes, trained{trained}"
        f"{'' if facts.provenance.converted else ' with ctxvision'}.\n"
    )


def _results(facts: Facts) -> str:
    if not facts.scores:
        return "No accuracy was recorded with these weights.\n"
    lines = ["| metric | data set | split | images | value | measured by |", "|---|---|---|---|---|---|"]
    for score in facts.scores:
        value = f"{score.value:.2%}"
        if score.interval:
            low, high = score.interval
            value += f" (95 % interval {low:.2%} to {high:.2%})"
        images = "not noted" if score.images is None else f"{score.images:,}"
        data = markdown(_data_of(score, facts))
        metric, split, by = map(markdown, (score.metric, score.split, score.measured_by))
        lines.append(f"| {metric} | {data} | {split} | {images} | {value} | {by} |")
    if facts.provenance.scores:
        lines += ["", "The validation during the training may have chosen the epoch, which flatters its figures."]
    return "\n".join(lines) + "\n"


def _network(facts: Facts) -> str:
    prepared, config = facts.config["pretrained_cfg"], facts.config
    size = " × ".join(map(str, prepared["input_size"]))
    arguments = {k: v for k, v in config["model_args"].items() if k not in ("context_classes", "in_chans")}
    rows = {
        "parameters": f"{facts.parameters / 1e6:.3f} M",
        "multiply-adds of one image": f"{facts.macs / 1e9:.4g} G",
        "input": f"{size}; resized ({markdown(prepared['interpolation'])}), of which the centre crop is "
        f"{prepared['crop_pct']:.4g} of the shorter side",
        "mean, deviation": f"{prepared['mean']}, {prepared['std']}",
        "classes": f"{config['num_classes']}: {_some(config['label_names'])}",
        **({"arguments": markdown_code(json_text(arguments, ensure_ascii=False))} if arguments else {}),
    }
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows.items())


def _usage(facts: Facts) -> str:
    ours = family_of(facts.config["architecture"]) is not None
    place = f"hf-hub:{facts.repo}" if facts.repo else "local-dir:PATH_OF_THIS_FOLDER"
    mode = "L" if facts.config["pretrained_cfg"]["input_size"][0] == 1 else "RGB"
    first = "It needs ctxvision beside timm: importing it registers its networks.\n\n" if ours else ""
    return (
        f"{first}```python\n"
        f"import timm, torch{', ctxvision' if ours else ''}\n"
        "from PIL import Image, ImageOps\n\n"
        f'model = timm.create_model("{place}", pretrained=True).eval()\n'
        "prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)\n"
        f'image = prepare(ImageOps.exif_transpose(Image.open("image.png")).convert("{mode}"))\n'
        "with torch.inference_mode():\n"
        "    probabilities = model(image[None]).softmax(1)[0]\n"
        'names = model.pretrained_cfg["label_names"]\n'
        "print({names[i]: p.item() for p, i in zip(*probabilities.topk(min(5, len(names))))})\n"
        "```\n" + (_usage_with_transformers(facts, ours) if mode == "RGB" else "")
    )


def _usage_with_transformers(facts: Facts, ours: bool) -> str:
    """Return the call of transformers, which reads every image as RGB."""
    first, note = ("import ctxvision\n", ", after the same import") if ours else ("", "")
    return (
        f"\nWith transformers 5{note}:\n\n```python\n{first}from transformers import pipeline\n\n"
        f'classify = pipeline("image-classification", model="{facts.repo or "PATH_OF_THIS_FOLDER"}")\n'
        'print(classify("image.png"))\n'
        "```\n"
    )


def _training(facts: Facts) -> str:
    found = facts.provenance
    if found.converted:
        return f"{markdown(found.converted)}\n"
    if not found.settings:
        return "The settings of the training were not recorded with these weights.\n"
    recipe = f" Recipe: {markdown_code(found.recipe)}." if found.recipe else ""
    start = f" It began with the weights {markdown_code(found.start)}." if found.start else ""
    epoch = f" The weights are those after epoch {found.epoch}." if found.epoch is not None else ""
    decay = found.settings.get("ema")
    average = f" They are a moving average with decay {decay}." if decay else ""
    settings = yaml.safe_dump(dict(found.settings), sort_keys=False, allow_unicode=True)
    return (
        "`ctxvision train` with these settings, which `training.yaml` has too."
        f"{recipe}{start}{epoch}{average}\n\n{markdown_block(settings, 'yaml')}\n"
    )


def _intended_use(facts: Facts) -> str:
    data = markdown(facts.dataset) if facts.dataset else "the data set that it was trained on"
    return (
        f"To classify images like those of {data} into the classes above, and to start trainings from. It "
        "chooses one of its classes for every image, also where none is right. How it does on other images, and "
        "whether it serves all groups of people alike, was not measured unless the results above say so.\n"
    )


def _licence(facts: Facts) -> str:
    if not facts.license:
        return "The author of these weights has not stated a licence.\n"
    return f"The weights: {markdown(facts.license)}.\n"


def _citation(facts: Facts) -> str:
    entry = bibtex(facts.config["architecture"])
    if entry is None:
        return f"See timm's page of {markdown_code(facts.config['architecture'])} for the paper to cite.\n"
    return f"```bibtex\n{entry}\n```\n"


def _data_of(score: Score, facts: Facts) -> str:
    return score.data or facts.dataset or "unknown"


def _metric_type(score: Score) -> str:
    return "accuracy" if score.metric.startswith("top-1") else "top_5_accuracy"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(markdown(name) for name in names[:10])
    return shown + (", … (all in `config.json`)" if len(names) > 10 else "")


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-").lower() or "unknown"
