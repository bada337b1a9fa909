"""Trained classifiers as folders that timm and the Hugging Face Hub take: configuration, weights, model card."""

from .error import PublishError
from .folder import publish
from .provenance import Provenance, Score, read_provenance, read_scores
from .uploading import check_upload, upload

__all__ = [
    "Provenance",
    "PublishError",
    "Score",
    "check_upload",
    "publish",
    "read_provenance",
    "read_scores",
    "upload",
]
