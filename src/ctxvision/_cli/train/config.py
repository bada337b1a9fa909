"""The settings of a training run, and their defaults by kind of data."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UserError

Precision = Literal["32", "16-mixed", "bf16-mixed"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train one network; what is null depends on the data and is filled in by `completed`.

    Args:
        model: name of the network, see `ctxvision models`; also the first word of the command line.
        data: folder of images, or "digits"; also the second word of the command line.
        out: run folder; by default runs/MODEL-DATA-N.
        resume: continue the run in this folder, or from this checkpoint; alone, continue the run in --out.
        epochs: passes over the training images.
        batch_size: images per step and device.
        lr: highest learning rate.
        optimizer: a name of timm's (sgd is Nesterov's, momentum the plain one).
        weight_decay: not applied to norms and biases.
        warmup_epochs: during which the learning rate rises from 0.
        label_smoothing: share of the target spread over all classes.
        drop_path_rate: stochastic depth.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off.
        ema: decay of a moving average of the weights, which is then what is validated and saved; 0 is off.
        accumulate: batches per optimiser step.
        clip_grad: largest norm of the gradient; 0 is no limit.
        model_args: more arguments of the network's constructor, as JSON or YAML.
        image_size: height and width of the input.
        in_chans: 3 for RGB, 1 for grey.
        val_fraction: share of each class held out when the folder has no val/.
        split_seed: chooses which images are held out.
        auto_augment: timm's policy, for example rand-m9-mstd0.5-inc1.
        color_jitter: strength.
        random_erasing: probability.
        strict: stop at the first bad image instead of skipping it.
        seed: of the weights, the order of the images and everything else that is random.
        workers: processes that decode images.
        precision: of the arithmetic.
        accelerator: cpu, gpu, mps or auto.
        devices: how many.
        channels_last: memory layout; faster for these networks.
    """

    model: str | None = None
    data: str = "digits"
    out: str | None = None
    resume: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    optimizer: str = "adamw"
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    label_smoothing: float = 0.1
    drop_path_rate: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    accumulate: int = 1
    clip_grad: float = 0.0
    model_args: dict[str, Any] | None = None
    image_size: int | None = None
    in_chans: Literal[1, 3] = 3
    val_fraction: float = 0.2
    split_seed: int = 0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    strict: bool = False
    seed: int = 0
    workers: int | None = None
    precision: Precision = "32"
    accelerator: str = "auto"
    devices: int = 1
    channels_last: bool = True

    def completed(self, processors: int) -> "TrainConfig":
        """Fill in what was left open, and check the rest.

        Args:
            processors: how many this process may use.

        Raises:
            UserError: a value is missing or out of range.
        """
        if not self.model:
            raise UserError("name a model, for example `ctxvision train cotnet_micro digits`", 2)
        defaults = _DIGITS if self.data == "digits" else _FOLDER | {"workers": min(processors, 8)}
        plain_sgd = self.optimizer in ("sgd", "momentum")
        if plain_sgd:
            batch = (self.batch_size or defaults["batch_size"]) * self.accumulate * self.devices
            # the recipe of the CoTNet paper
            defaults = defaults | {"lr": 0.1 * batch / 256, "weight_decay": 1e-4}
        filled = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        config = dataclasses.replace(self, **filled)
        if "warmup_epochs" in filled:
            config = dataclasses.replace(
                config, warmup_epochs=min(filled["warmup_epochs"], (config.epochs or 1) / 5)
            )
        config._check()
        return config

    def _check(self) -> None:
        for names, lowest, highest in _RANGES:
            for name in names.split():
                value = getattr(self, name)
                if not lowest <= value <= highest:
                    limits = f"at least {lowest:g}" if highest == _INF else f"between {lowest:g} and {highest:g}"
                    raise UserError(f"--{name} must be {limits}, got {value}", 2)
        if not 0 < self.val_fraction < 1:
            raise UserError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}", 2)
        if not self.lr:
            raise UserError("--lr must be more than 0", 2)


_INF = float("inf")
_RANGES = (
    ("epochs batch_size accumulate devices", 1, _INF),
    ("image_size", 8, _INF),
    ("lr weight_decay warmup_epochs mixup cutmix clip_grad color_jitter seed split_seed workers", 0, _INF),
    ("label_smoothing drop_path_rate ema random_erasing", 0, 1),
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
_FOLDER: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 5.0,
    "image_size": 224,
}
