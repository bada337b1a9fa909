"""The settings of a training run, and their defaults by kind of data."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UserError
from . import processes

Precision = Literal["32", "16-mixed", "bf16-mixed", "64-true"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train one network; what is null depends on the data and is filled in by `completed`.

    Args:
        model: name of the network, see `ctxvision models`; also the first word of the command line.
        data: folder of images, "digits", or another source; also the second word of the command line.
        recipe: settings of a paper, see `ctxvision recipes`; what is set beside it changes them.
        out: run folder; by default runs/MODEL-DATA-N.
        resume: continue the run in this folder, or from this checkpoint; alone, continue the run in --out.
        init_from: start from the weights in this file, or from timm's pretrained network of this name.
        init_partial: take what fits of them, even if they are of quite another network.
        epochs: passes over the training images.
        batch_size: images per optimiser step, over all devices.
        micro_batch: most images at a time on a device; more are accumulated.
        accumulate: in how many parts a device takes its share of the batch; by default as micro_batch demands.
        lr: highest learning rate; it does not follow the batch size.
        optimizer: a name of timm's (sgd is Nesterov's, momentum the plain one, adamw, lamb, muon).
        optimizer_args: more arguments of the optimiser, as JSON or YAML, such as betas or eps.
        weight_decay: not applied to norms, biases, class embeddings and temperature.
        layer_decay: ratio of the learning rates of neighbouring layers; null is the same for all.
        schedule: of the learning rate after the warm-up.
        schedule_args: more arguments of timm's schedule, such as decay_milestones and decay_rate.
        warmup_epochs: during which the learning rate rises.
        warmup_factor: the share of the learning rate that it rises from.
        min_lr: learning rate at the end of cosine and poly.
        label_smoothing: share of the target spread over all classes.
        dropout: before the classifier.
        drop_path_rate: stochastic depth.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off.
        mixup_prob: share of the batches that are mixed.
        mixup_switch_prob: share of those that are cut instead of blended, where both are on.
        mixup_mode: one ratio per batch, per pair or per image.
        ema: decay of a moving average of the weights, which is then what is validated and saved; 0 is off.
        clip_grad: largest norm of the gradient; 0 is no limit.
        skip_nan: how many steps may be left out because their loss or gradient is not finite.
        save_minutes: how often a checkpoint is written within an epoch; 0 is only at its end.
        model_args: more arguments of the network's constructor, as JSON or YAML.
        image_size: height and width of the input; by default 224, and that of the images of small ones.
        in_chans: 3 for RGB, 1 for grey.
        val_fraction: share of each class held out where the data have no validation part.
        split_seed: chooses which images are held out.
        auto_augment: timm's policy, for example rand-m9-mstd0.5-inc1.
        color_jitter: strength; without effect beside auto_augment.
        random_erasing: probability.
        crop_scale: smallest share of an image that a training crop covers.
        repeats: how often an image comes up in a row, augmented differently (repeated augmentation).
        strict: stop at the first bad image instead of skipping it.
        seed: of the weights, the order of the images and everything else that is random.
        workers: processes that decode images.
        prefetch: batches that each of them keeps ready.
        precision: of the arithmetic.
        accelerator: cpu, gpu, mps or auto.
        devices: how many, on each node; by default one, or what torchrun or SLURM has started.
        nodes: how many machines; likewise.
        sync_batchnorm: batch normalisation over all GPUs instead of each by itself.
        channels_last: memory layout; faster for these networks.
        compile: translate the network with torch.compile.
        grad_checkpointing: recompute activations instead of keeping them; less memory, more time.
    """

    model: str | None = None
    data: str = "digits"
    recipe: str | None = None
    out: str | None = None
    resume: str | None = None
    init_from: str | None = None
    init_partial: bool = False
    epochs: int | None = None
    batch_size: int | None = None
    micro_batch: int | None = None
    accumulate: int | None = None
    lr: float | None = None
    optimizer: str = "adamw"
    optimizer_args: dict[str, Any] | None = None
    weight_decay: float | None = None
    layer_decay: float | None = None
    schedule: Literal["cosine", "poly", "step", "multistep"] = "cosine"
    schedule_args: dict[str, Any] | None = None
    warmup_epochs: float | None = None
    warmup_factor: float = 0.0
    min_lr: float = 0.0
    label_smoothing: float = 0.1
    dropout: float = 0.0
    drop_path_rate: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    ema: float = 0.0
    clip_grad: float = 0.0
    skip_nan: int = 0
    save_minutes: float = 15.0
    model_args: dict[str, Any] | None = None
    image_size: int | None = None
    in_chans: Literal[1, 3] = 3
    val_fraction: float = 0.2
    split_seed: int = 0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    crop_scale: float = 0.08
    repeats: int = 1
    strict: bool = False
    seed: int = 0
    workers: int | None = None
    prefetch: int = 4
    precision: Precision = "32"
    accelerator: str = "auto"
    devices: int | None = None
    nodes: int | None = None
    sync_batchnorm: bool = True
    channels_last: bool = True
    compile: bool = False
    grad_checkpointing: bool = False

    def completed(self, processors: int) -> "TrainConfig":
        """Fill in what was left open, and check the rest.

        Args:
            processors: how many this process may use.

        Raises:
            UserError: a value is missing or out of range.
        """
        if not self.model:
            raise UserError("name a model, for example `ctxvision train cotnet_micro digits`", 2)
        defaults = _DIGITS if self.data == "digits" else _IMAGES | {"workers": min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of the CoTNet paper
            batch = self.batch_size or defaults["batch_size"]
            defaults = defaults | {"lr": 0.1 * batch / 256, "weight_decay": 1e-4}
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **filled)
        if "warmup_epochs" in filled:
            config = dataclasses.replace(
                config, warmup_epochs=min(filled["warmup_epochs"], (config.epochs or 1) / 5)
            )
        config._check()
        devices, nodes = processes.counts(config.devices, config.nodes)
        return dataclasses.replace(config, devices=devices, nodes=nodes)

    def _check(self) -> None:
        for names, lowest, highest in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if value is not None and not lowest <= value <= highest:
                    limits = f"at least {lowest:g}" if highest == _INF else f"between {lowest:g} and {highest:g}"
                    raise UserError(f"--{name} must be {limits}, got {value}", 2)
        if not 0 < self.val_fraction < 1:
            raise UserError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}", 2)
        for name in ("lr", "layer_decay", "crop_scale"):
            if getattr(self, name) == 0:
                raise UserError(f"--{name} must be more than 0", 2)
        if self.min_lr > (self.lr or 0):
            raise UserError(f"--min_lr must not be more than --lr, got {self.min_lr} and {self.lr}", 2)
        if (self.warmup_epochs or 0) >= (self.epochs or 1):
            raise UserError(
                f"--warmup_epochs must be less than --epochs, got {self.warmup_epochs:g} and {self.epochs}", 2
            )


_INF = float("inf")
_RANGES = (
    ("epochs batch_size micro_batch accumulate devices nodes repeats prefetch", 1, _INF),
    ("image_size", 8, _INF),
    ("lr min_lr weight_decay warmup_epochs mixup cutmix clip_grad color_jitter save_minutes", 0, _INF),
    ("seed split_seed workers skip_nan", 0, _INF),
    ("label_smoothing dropout drop_path_rate ema random_erasing mixup_prob mixup_switch_prob", 0, 1),
    ("layer_decay warmup_factor crop_scale", 0, 1),
)
_DIGITS: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 64,
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "image_size": 32,
    "workers": 0,
}
_IMAGES: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 5.0,
}
