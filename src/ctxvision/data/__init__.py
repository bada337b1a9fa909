"""Data sets of every task: images, objects, masks and videos in, batches out, as LightningDataModules."""

from .dataset import BadImage, Batch, LoadedSample
from .detection import DetectionData, DetectionDataset, DetectionSpec, export_coco, find_detection
from .embedded import DigitsData, MovingDigits, make_scene
from .error import BadImageError, DataError
from .images import DataSpec, ImageData, ImageDataset, find_images, list_images, read_image
from .labelled import LabelledSet, SplitRule
from .module import DataModule
from .open import is_embedded, open_data, open_for_evaluation, spec_class
from .sampler import EpochSampler
from .segmentation import SegmentationData, SegmentationSpec, export_cityscapes, find_pixels
from .spec import ImageSpec, Spec
from .video import (
    VIDEO_SUFFIXES,
    BadVideoError,
    ClipDataset,
    ClipSpec,
    VideoData,
    VideoFile,
    export_moving_digits,
    find_videos,
    list_videos,
    write_video,
)

__all__ = [
    "VIDEO_SUFFIXES",
    "BadImage",
    "BadImageError",
    "BadVideoError",
    "Batch",
    "ClipDataset",
    "ClipSpec",
    "DataError",
    "DataModule",
    "DataSpec",
    "DetectionData",
    "DetectionDataset",
    "DetectionSpec",
    "DigitsData",
    "EpochSampler",
    "ImageData",
    "ImageDataset",
    "ImageSpec",
    "LabelledSet",
    "LoadedSample",
    "MovingDigits",
    "SegmentationData",
    "SegmentationSpec",
    "Spec",
    "SplitRule",
    "VideoData",
    "VideoFile",
    "export_cityscapes",
    "export_coco",
    "export_moving_digits",
    "find_detection",
    "find_images",
    "find_pixels",
    "find_videos",
    "is_embedded",
    "list_images",
    "list_videos",
    "make_scene",
    "open_data",
    "open_for_evaluation",
    "read_image",
    "spec_class",
    "write_video",
]
