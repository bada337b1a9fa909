"""The papers' numbers for each recipe, written once more, and the settings that a recipe leads to."""

from ctxvision._cli import train as command

# Table 3 without and with *, Table 4 of CoTNet; involution's table; Table 1 and c4 of Table 6 of Contextual CNN
COT = ("cotnet50", "cotnext50_2x48d", "se_cotnetd50", "cotnet101", "cotnext101_2x48d", "se_cotnetd101")
TOP1 = {
    "cotnet-default": dict(zip(COT, (79.2, 79.5, 79.8, 80.0, 80.3, 80.5), strict=True)),
    "cotnet-default-ema": dict(zip(COT, (79.8, 80.2, 80.5, 80.9, 81.3, 81.4), strict=True)),
    "cotnet-advanced": dict(zip((*COT, "se_cotnetd152"), (81.3, 82.1, 81.6, 82.8, 83.2, 83.2, 84.0), strict=True)),
    "rednet": {"rednet26": 75.96, "rednet38": 77.48, "rednet50": 78.35, "rednet101": 78.92, "rednet152": 79.12},
    "contextual-convnext": {
        "contextual_convnext_tiny": 83.9,
        "contextual_convnext_small": 84.6,
        "contextual_convnext_base": 85.2,
    },
    "contextual-resnet50": {"contextual_resnet50": 79.35},
    "finetune": {},
    "small": {},
}
# images per GPU (of 8), learning rate, weight decay, drop-path
ADVANCED = {
    "cotnet50": (80, 0.25, 4e-5, 0.1),
    "cotnext50_2x48d": (64, 0.2, 4e-5, 0.1),
    "se_cotnetd50": (80, 0.25, 4e-5, 0.1),
    "cotnet101": (56, 0.175, 6e-5, 0.1),
    "cotnext101_2x48d": (64, 0.2, 6e-5, 0.1),
    "se_cotnetd101": (64, 0.2, 4e-5, 0.1),
    "se_cotnetd152": (64, 0.2, 4e-5, 0.15),
}
DROP_PATH = {
    "contextual_convnext_tiny": 0.1,
    "contextual_convnext_small": 0.4,
    "contextual_convnext_base": 0.5,
}
PAIRS = [(recipe, model) for recipe, models in TOP1.items() for model in models]
GENERIC = [("finetune", "contextual_convnext_micro"), ("small", "contextual_convnext_micro")]


def expected(recipe, model):
    """Epochs, batch, lr, decay, momentum or betas, warm-up epochs, start factor, last lr, EMA decay."""
    default = (100, 512, 0.1 * 512 / 256, 1e-4, 0.9, 5, 0.0, 0.0)
    if recipe == "cotnet-advanced":
        per_gpu, lr, decay, _ = ADVANCED[model]
        return (350, 8 * per_gpu, lr, decay, 0.9, 5, 0.0, 1e-5, 0.9999)
    return {
        "cotnet-default": (*default, 0.0),
        "cotnet-default-ema": (*default, 0.9999),
        "rednet": (130, 64 * 32, 0.8, 1e-4, 0.9, 5, 0.25, 0.0, 0.0),
        "contextual-convnext": (300, 4096, 1e-3, 0.05, (0.9, 0.999), 20, 0.0, 0.0, 0.9999),
        "contextual-resnet50": (200, 256, 1e-4, 0.01, (0.9, 0.999), 20, 0.001, 1e-7, 0.0),
        "finetune": (30, 64, 5e-4, 0.05, (0.9, 0.999), 3, 0.0, 1e-6, 0.0),
        "small": (60, 32, 2e-3, 0.05, (0.9, 0.999), 3, 0.0, 0.0, 0.0),
    }[recipe]


def config_of(recipe, model, *words):
    """What `ctxvision train MODEL x --recipe RECIPE` would use."""
    start = ["--init-from=none"] if recipe == "finetune" else []
    return command.options_of([model, "x", f"--recipe={recipe}", *start, *words])
