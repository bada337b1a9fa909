"""Videos of any source as a LightningDataModule."""

import os
from collections.abc import Sequence
from typing import Any, Literal

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.utils.data import DataLoader

from ctxvision.data.dataset import Batch, collate_eval, collate_train
from ctxvision.data.epoch_data import EpochData
from ctxvision.data.error import DataError

from .clips import ClipSpec
from .dataset import ClipDataset
from .source import find_videos


class VideoData(EpochData):
    """Folders, tables or the embedded clips, with a validation part or split reproducibly; see `find_videos`.

    Training takes a random frame from each of ``frames`` equal parts of a video and the same random crop of all,
    validation the frame in the middle of each part and the centre. Videos that cannot be decoded are logged once,
    collected in ``bad_images`` and left out: of evaluation counts altogether, while in training other videos of
    the batch take their place. Those with too few frames show some of them several times (`segment_indices`).

    An epoch depends on the seed and its number alone, not on the workers; see `EpochSampler`.

    Args:
        source: a folder, ``.csv``, ``.tsv``, or ``moving-digits``.
        image_size: height and width of the network's input; by default 224, and that of the embedded clips.
        frames: of a clip.
        batch_size: clips per process.
        val_fraction: share held out where there is no validation part.
        split_seed: of that choice.
        seed: of shuffling and augmentation.
        workers: processes that decode; 0 decodes in the main process.
        prefetch: batches that each worker keeps ready.
        strict: raise at the first video that cannot be used.
        flip: mirror half of the training videos; by default, unless the classes are directions as the embedded
            ones are.
        crop: random crops in training; likewise.
        test_clips: clips spread over each video that is evaluated; their probabilities are averaged.
        test_crops: 1, the centre, or 3 along the long side.
        class_names: the classes in another order, that of a run which began with it.
        spec: of a trained network: its classes, input size, frames and normalisation replace all of the above.
        eval_split: what ``val_dataloader`` reads.

    Attributes:
        spec: what goes into the checkpoint.
        notes: what the user should know about the source, one line each.
        bad_images: reason by name, of this process.

    Raises:
        DataError: the source cannot be used, or has classes that the network lacks.
    """

    sample_name = "video"

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        image_size: int | None = None,
        frames: int = 8,
        batch_size: int = 16,
        val_fraction: float = 0.2,
        split_seed: int = 0,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 4,
        strict: bool = False,
        flip: bool | None = None,
        crop: bool | None = None,
        test_clips: int = 1,
        test_crops: int = 1,
        class_names: Sequence[str] | None = None,
        spec: ClipSpec | None = None,
        eval_split: Literal["val", "train", "all"] = "val",
    ) -> None:
        super().__init__()
        if test_clips < 1 or test_crops not in (1, 3):
            raise DataError(f"tests take 1 or more clips and 1 or 3 crops, got {test_clips} and {test_crops}")
        found = find_videos(
            source,
            val_fraction=spec.val_fraction if spec else val_fraction,
            split_seed=spec.split_seed if spec else split_seed,
            class_names=spec.class_names if spec else class_names,
            strict=strict,
            frames=spec.frames if spec else frames,
        )
        contents, size = found.contents, image_size or found.image_size or 224
        self.spec = spec or ClipSpec(
            class_names=contents.class_names,
            input_size=(3, size, size),
            mean=IMAGENET_DEFAULT_MEAN,
            std=IMAGENET_DEFAULT_STD,
            crop_pct=1.0 if found.image_size else 0.875,
            val_fraction=val_fraction,
            split_seed=split_seed,
            fingerprint=contents.fingerprint,
            train_counts=contents.train_counts,
            frames=frames,
        )
        self.source = os.fspath(source)
        self.root = contents.root
        self.fingerprint = contents.fingerprint
        self.notes = contents.notes
        self.batch_size = batch_size
        self.workers = workers
        self.prefetch = prefetch
        self.strict = strict
        self.seed = seed
        self.train_samples = contents.train
        self.train_size = len(contents.train)
        splits = {"val": contents.val, "train": contents.train, "all": contents.train + contents.val}
        self.eval_samples = splits[eval_split]
        if not self.eval_samples:
            raise DataError(
                f"{source}: no videos to {'validate' if eval_split == 'val' else 'evaluate'} on; every class "
                "needs two or more, or add a validation part"
            )
        self.open_video = found.open_video
        self._training = {
            "flip": found.flip if flip is None else flip,
            "crop": found.crop if crop is None else crop,
        }
        self._testing = {"clips": test_clips, "crops": test_crops}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled, augmented; what does not fill an optimiser step is left out, see `batches`."""
        dataset = ClipDataset(self.train_samples, self.spec, self.open_video, seed=self.seed, **self._training)
        return self.loader(
            dataset, sampler=self.train_order(), batch_size=self.batch_size, collate_fn=collate_train
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Every video of the split exactly once, however many processes share it."""
        dataset = self.eval_dataset()
        return self.loader(
            dataset,
            sampler=self.eval_order(len(dataset)),
            batch_size=self.batch_size,
            collate_fn=collate_eval,
        )

    def eval_dataset(self) -> ClipDataset:
        """Every video of the split, in order, as the network is tested."""
        return ClipDataset(self.eval_samples, self.spec, self.open_video, **self._testing)

    def on_after_batch_transfer(self, batch: Batch | Any, dataloader_idx: int) -> tuple[Tensor, Tensor] | Any:
        """Take the reports of bad videos out of a batch: clips (B, T, C, H, W) and classes (B,) remain."""
        if not isinstance(batch, Batch):
            return batch
        self.report(batch.bad)
        return batch.images, batch.targets
