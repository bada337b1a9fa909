"""How the papers of the families want to be cited."""

from timm.models import model_entrypoint

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
