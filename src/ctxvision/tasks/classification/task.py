"""Image classification: one loss per kind of network, mixup and CutMix; timm's pretrained networks as tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import timm
import torch
from timm.data import Mixup, resolve_data_config
from torch import Tensor, nn

from ctxvision.checkpoints.finite import require_finite
from ctxvision.checkpoints.sources import pretrained_network
from ctxvision.data import DataSpec
from ctxvision.data.images.imagenet import labels
from ctxvision.nn import ContextualLoss
from ctxvision.nn.contextual_loss import LossClasses
from ctxvision.tasks.classifier import Batch, ClassifierTask, logits_of

from .class_sets import ClassSetRecall, is_contextual, kept_classes


class ClassificationTask(ClassifierTask):
    """Trains one of timm's networks, or ours, on images with one class each.

    Networks with ``forward_stages`` (Contextual CNN) are trained by `ctxvision.nn.ContextualLoss`, others by
    cross-entropy. The learning rate moves with every optimiser step, see `build_schedule`.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: The registered name of the network.
        data_spec: The fields of `ctxvision.data.DataSpec`, see its ``to_dict``; the task itself needs
            ``class_names`` and ``input_size``.
        model_args: More arguments of the network's constructor.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch.
        dropout: The probability that dropout zeroes a feature before the classifier.
        label_smoothing: The share of the target that is spread over all classes.
        stage_alpha: The weight α of the loss of each stage of a contextual network beside that of the head.
        loss_classes: The classes over which a contextual network's stage is trained, see `ContextualLoss`.
        mixup: The parameter alpha of mixup's beta distribution; 0 turns mixup off.
        cutmix: The parameter alpha of CutMix's beta distribution; 0 turns CutMix off.
        mixup_prob: The share of the batches that are mixed, by mixup or by CutMix.
        mixup_switch_prob: The share of the mixed batches that CutMix mixes, where both are on.
        mixup_mode: Whether one ratio is drawn for the whole ``batch``, for each ``pair`` of images, or for each
            image (``elem``).
        channels_last: Whether the network and its input are channels-last in memory.
        optimization: The fields of `ctxvision.tasks.Optimization`, by default AdamW with a cosine schedule.

    Raises:
        TaskError: The model or the optimiser is unknown, or arguments do not fit the network, the optimiser or the
            schedule.

    Examples:
        >>> spec = {"class_names": ["cat", "dog"], "input_size": [3, 32, 32]}
        >>> task = ClassificationTask("resnet10t", spec)
        >>> task(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 2])
    """

    kind = "classification"

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        dropout: float = 0.0,
        label_smoothing: float = 0.1,
        stage_alpha: float = 0.15,
        loss_classes: LossClasses = "considered",
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mixup_prob: float = 1.0,
        mixup_switch_prob: float = 0.5,
        mixup_mode: Literal["batch", "pair", "elem"] = "batch",
        channels_last: bool = True,
        **optimization: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec, optimization)
        self.build(drop_path_rate=drop_path_rate, dropout=dropout, channels_last=channels_last)
        self.mixup = (
            Mixup(
                mixup,
                cutmix,
                prob=mixup_prob,
                switch_prob=mixup_switch_prob,
                mode=mixup_mode,
                label_smoothing=label_smoothing,
                num_classes=len(self.class_names),
            )
            if mixup or cutmix
            else None
        )
        # mixup smooths its own targets
        self.train_loss = self._make_loss(stage_alpha, 0.0 if self.mixup else label_smoothing, loss_classes)
        self.val_loss = self._make_loss(stage_alpha, 0.0, loss_classes)
        self.val_recall: ClassSetRecall | None = None
        if is_contextual(self.model):
            stages = self.model.contextual_stages
            self.val_recall = ClassSetRecall(len(stages))
            self.columns = (*self.columns, *(f"val_recall_{stage}" for stage in stages), "temperature")

    @property
    def spec(self) -> DataSpec:
        """The description of the images.

        Raises:
            DataError: The task was built from less than a whole description.
        """
        return DataSpec.from_dict(self.data_spec)

    def example_input(self) -> Tensor:
        """Return one black image, (1, C, H, W)."""
        return torch.zeros(1, *self.data_spec["input_size"], dtype=torch.float32, device="cpu")

    def _make_loss(self, alpha: float, label_smoothing: float, over: LossClasses) -> nn.Module:
        if self.has_stage_outputs:
            return ContextualLoss(alpha=alpha, label_smoothing=label_smoothing, over=over)
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)  # of classes or of probabilities

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W): logits (B, num_classes)."""
        logits: Tensor = self.model(images.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of images (B, C, H, W) with classes (B,); of an empty batch it is `loss_of_nothing`."""
        images, targets = batch
        if not len(images):
            return self.loss_of_nothing()
        self.expect(len(images))
        if self.mixup:
            even = len(images) // 2 * 2 or 2
            if len(images) == 1:
                images, targets = images.repeat(2, 1, 1, 1), targets.repeat(2)
            images, targets = self.mixup(images[:even].clone(), targets[:even])
        loss: Tensor = self.train_loss(self.outputs(images), targets)
        self.log_train_loss(loss, len(images))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Score images (B, C, H, W) with classes (B,), and return ``logits`` (B, num_classes) and ``targets``."""
        images, targets = batch
        if not len(images):
            return None
        output = self.outputs(images)
        logits = logits_of(output).float()
        self.score(logits, self.val_loss(logits if isinstance(output, Tensor) else output, targets), targets)
        if self.val_recall is not None and not isinstance(output, Tensor):
            self.val_recall.update(kept_classes(self.model, output), targets)
        return {"logits": logits, "targets": targets}

    def report_more(self) -> None:
        """Report how often the true class was in the class set of each stage, and the temperature."""
        if self.val_recall is not None and is_contextual(self.model) and self.model.context is not None:
            recalls = zip(self.model.contextual_stages, self.val_recall.compute(), strict=True)
            self.log_dict({f"val_recall_{stage}": share for stage, share in recalls})
            self.log("temperature", self.model.context.temperature.detach())
            self.val_recall.reset()


def is_pretrained_name(source: str) -> bool:
    """Tell whether a text is the registered name of a network, with or without a tag, and of no file or folder."""
    return not Path(source).exists() and Path(source).name == source and bool(timm.is_model(source))


def pretrained_task(name: str) -> ClassificationTask:
    """Return a task, in evaluation mode and on the CPU, whose network has the pretrained weights of its name.

    Args:
        name: A registered name, such as ``"rednet50"`` or ``"rednet50.in1k"``.

    Raises:
        CheckpointError: There are no such weights, or they cannot be had.
    """
    network = pretrained_network(name)
    require_finite(network.state_dict(), name)
    about = cast(Mapping[str, Any], network.pretrained_cfg)
    task = ClassificationTask(about["architecture"], spec_of(network).to_dict())
    task.model.load_state_dict(network.state_dict())
    task.eval()
    return task


def spec_of(network: nn.Module) -> DataSpec:
    """Return the classes of a network of timm's, and how its images are prepared, from its ``pretrained_cfg``.

    Classes without names get those of the ImageNet classes, where there are as many, or else their numbers.
    """
    about = cast(Mapping[str, Any], network.pretrained_cfg)
    images = resolve_data_config(pretrained_cfg=about)
    count = int(about["num_classes"])
    names = about.get("label_names") or _class_names(count)
    return DataSpec(
        class_names=tuple(map(str, names)),
        **{name: images[name] for name in ("input_size", "mean", "std", "interpolation", "crop_pct")},
    )


def _class_names(count: int) -> list[str]:
    return list(labels().values()) if count == 1000 else [str(index) for index in range(count)]
