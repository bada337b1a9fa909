"""Trained classifiers as folders that timm and the Hugging Face Hub take: configuration, weights, model card."""

from .folder import check_upload, publish, upload
from .provenance import Provenance, PublishError, Score, read_provenance, read_scores

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
