"""The model card: what the network is, how good it was measured to be, and how to load it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from timm.models import model_entrypoint

from ctxvision.foreign import json_text, markdown, markdown_block, markdown_code

from .provenance import Provenance, Score

_BIBTEX = {
    "cotnet": """\
@article{cotnet,
  title   = {Contextual Transformer Networks for Visual Recognition},
  author  = {Li, Yehao and Yao, Ting and Pan, Yingwei and Mei, Tao},
  journal = {arXiv preprint arXiv:2107.12292},
  year    = {2021}
}""",
    "rednet": """\
@inproceedings{involution,
  title     = {Involution: Inverting the Inherence of Convolution for Visual Recognition},
  author    = {Li, Duo and Hu, Jie and Wang, Changhu and Li, Xiangtai and She, Qi and Zhu, Lei and Zhang, Tong and
               Chen, Qifeng},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2021}
}""",
    "contextual": """\
@inproceedings{contextualcnn,
  title     = {Contextual Convolutional Networks},
  author    = {Liang, Shuxian and Shen, Xu and Liu, Tongliang and Hua, Xian-Sheng},
  booktitle = {International Conference on Learning Representations (ICLR)},
  year      = {2023}
}""",
}


def family_of(architecture: str) -> str | None:
    """Return ``"cotnet"``, ``"rednet"`` or ``"contextual"``; ``None`` for networks that are not ours."""
    package, _, family = model_entrypoint(architecture).__module__.rpartition(".")
    return family if package == "ctxvision.models" else None


def bibtex(architecture: str) -> str | None:
    """Return the BibTeX entry of the paper of a network of ours; ``None`` for others."""
    family = family_of(architecture)
    return _BIBTEX[family] if family else None


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
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "markdown": markdown, "code": markdown_code, "json": partial(json_text, ensure_ascii=False)
    }  # fmt: skip
    config, architecture = facts.config, facts.config["architecture"]
    settings = yaml.safe_dump(dict(facts.provenance.settings), sort_keys=False, allow_unicode=True)
    template = environment.from_string(files(__package__).joinpath("card.md.j2").read_text("utf-8"))
    return template.render(
        f=facts,
        front_matter=_front_matter(facts),
        architecture=architecture,
        family=_FAMILIES.get(family_of(architecture) or ""),
        images=config["pretrained_cfg"],
        arguments={k: v for k, v in config["model_args"].items() if k not in ("context_classes", "in_chans")},
        settings=markdown_block(settings, "yaml"),
        citation=bibtex(architecture),
        data_of=partial(_data_of, facts=facts),
    )


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


def _data_of(score: Score, facts: Facts) -> str:
    return score.data or facts.dataset or "unknown"


def _metric_type(score: Score) -> str:
    return "accuracy" if score.metric.startswith("top-1") else "top_5_accuracy"


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-").lower() or "unknown"
