"""Compare networks of two other projects with ours, by the weight files that they write.

For every network their package builds it with random weights, also of the batch norms, writes its file, and
computes logits and features in eval mode at two image sizes; `ctxvision convert` converts the file, and our
network computes the same. The table of the differences stands in `docs/weights.md`.

The packages are heavy (TensorFlow, Paddle) and get environments of their own, made by this script once.

    python tools/verify_weights.py [--only NAME ...] [--envs DIR] [--table FILE] [--double]
    python tools/verify_weights.py --small tests/checkpoints/foreign     writes the files that the tests read
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import timm
import torch

from ctxvision.checkpoints import CheckpointError, convert
from ctxvision.checkpoints.kecam import renamed
from ctxvision.checkpoints.keras_file import read_layers
from ctxvision.models._weights import WITHHELD

FOREIGN = Path(__file__).parent / "foreign"
PACKAGES = {
    # what `--no-deps` leaves out of each package is asked for by parts that are not imported
    "kecam": (["keras_cv_attention_models==1.4.3"], ["tensorflow-cpu==2.15.*", "pillow", "tqdm", "ftfy", "regex"]),
    "paddle": (["paddleclas==2.6.0"], ["paddlepaddle==2.6.2", "setuptools"]),
}
KECAM = {
    "cotnet50": "CotNet50",
    "cotnet101": "CotNet101",
    "se_cotnetd50": "CotNetSE50D",
    "se_cotnetd101": "CotNetSE101D",
    "se_cotnetd152": "CotNetSE152D",
}
PADDLE = {f"rednet{depth}": f"RedNet{depth}" for depth in (26, 38, 50, 101, 152)}
AVERAGES = {"cotnet50": {"avg_down": True}, "cotnet101": {"avg_down": True}}
"""Arguments by which our network is kecam's where the authors' is another."""
SIZES = {"kecam": (224, 97), "paddle": (224, 96)}
"""PaddleClas' involution takes multiples of 32 only."""
EVEN = (224, 96)
"""Where kecam computes with torch: its average pools count the padding of odd sizes there, and nowhere else."""

SE = {"downsample_first": True, "groups": 1, "activation": "swish"}
_DEEP = {"stem_type": "deep", "stem_width": 16, "stem_downsample": False, "strides": [2, 2, 2, 2]}
_SE = {
    **_DEEP,
    "num_blocks": [1, 1, 2, 1],
    "out_channels": [32, 32, 64, 64],
    "attn_types": ["sa", "sa", ["cot", "sa"], "cot"],
    "attn_params": [SE, SE, [{}, SE], {}],
}
_PLAIN = {"num_blocks": [1, 2, 1, 1], "out_channels": [32, 32, 64, 64], "stem_width": 64}
SMALL = {
    "kecam_cotnet.h5": {"network": "CotNet", "options": {**_PLAIN, "shortcut_type": "conv"}, "whole": True},
    "kecam_cotnet_average.h5": {"network": "CotNet", "options": _PLAIN},
    "kecam_se_cotnetd.h5": {"network": "CotNet", "options": _SE},
    "kecam_se_cotnetd_torch.h5": {"network": "CotNet", "options": _SE, "backend": "torch"},
    "paddle_rednet.pdparams": {"network": "small", "planes": [64, 16, 32, 16], "depths": [1, 2, 1, 1]},
}


def environment(envs: Path, kind: str) -> Path:
    """Return the Python of an environment, which is made where it is not there."""
    folder = envs / kind
    python = folder / "bin/python"
    done = folder / "complete"
    if not done.is_file():
        venv.create(folder, with_pip=True)
        alone, needed = PACKAGES[kind]
        for options in (needed, ["--no-deps", *alone]):
            command = [python, "-m", "pip", "install", "--quiet", *options]
            if subprocess.run(command, check=False).returncode:
                raise SystemExit(f"{folder}: pip cannot install {' '.join(options)}; what it says stands above")
        done.touch()
    return python


def write(python: Path, kind: str, job: dict) -> dict[str, np.ndarray]:
    """Let the other package write a network, and return what it computes."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    backend = {"KECAM_BACKEND": job.get("backend", "tensorflow")}
    if backend["KECAM_BACKEND"] == "torch":  # kecam on our torch: no second one is installed
        site = next(python.parents[1].glob("lib/python*/site-packages"))
        folder = python.parents[1] / "kecam_on_torch"
        folder.mkdir(exist_ok=True)
        for name in ("keras_cv_attention_models", "ftfy", "wcwidth"):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(site / name)
        quiet["PYTHONPATH"] = str(folder)
        python = Path(sys.executable)
    command = ["nice", "-n", "10", python, FOREIGN / f"write_{kind}.py", json.dumps(job)]
    done = subprocess.run(command, env={**os.environ, **quiet, **backend}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    with np.load(job["answers"]) as answers:
        return dict(answers)


def differences(
    model: torch.nn.Module, answers: dict[str, np.ndarray], sizes: tuple[int, ...]
) -> tuple[float, float]:
    """Return the largest differences of logits and features, relative to the largest value of each.

    The network computes in the data type of the answers.
    """
    logits, features = 0.0, 0.0
    for size in sizes:
        pixels = np.random.default_rng(size).normal(size=(1, 3, size, size)).astype("float32")
        images = torch.from_numpy(pixels.astype(answers[f"logits_{size}"].dtype))
        model = model.to(images.dtype)
        with torch.inference_mode():
            last, levels = model.eval().forward_intermediates(images)
            logits = max(logits, relative(model.forward_head(last).numpy(), answers[f"logits_{size}"]))
        for i, stage in enumerate(levels[-4:], 1):
            features = max(features, relative(stage.numpy(), answers[f"stage{i}_{size}"]))
    return logits, features


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference over the largest value; all must be numbers."""
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise SystemExit("the random weights make values that are no numbers")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def verify(name: str, envs: Path, folder: Path, backend: str, double: bool) -> list[str]:
    """Compare one network; return its row of the table."""
    kind, theirs = ("kecam", KECAM[name]) if name in KECAM else ("paddle", PADDLE[name])
    source = folder / ("their.h5" if kind == "kecam" else "their.pdparams")
    job = {
        "network": theirs,
        "classes": 1000,
        "sizes": SIZES[kind],
        "out": str(source),
        "answers": str(folder / "a.npz"),
    }
    job |= {"backend": backend, "double": double and kind == "kecam"}
    if backend == "torch" and kind == "kecam":
        job["sizes"] = EVEN
    answers = write(environment(envs, kind), kind, job)
    converted, state = folder / "ours.safetensors", "equal: offered"
    try:
        convert(source, converted, overwrite=True)
        model = timm.create_model(name, checkpoint_path=str(converted))
        logits, features = differences(model, answers, job["sizes"])
    except CheckpointError:
        tensors, _ = renamed(read_layers(source))
        model = timm.create_model(name, **AVERAGES.get(name, {}))
        model.load_state_dict(tensors)
        logits, features = differences(model, answers, job["sizes"])
        state = f"not the authors' network: {WITHHELD[name].reason}; not offered"
    megabytes = source.stat().st_size / 1e6
    sizes = " and ".join(map(str, job["sizes"]))
    shown = name + "".join(f", `{k}={v}`" for k, v in AVERAGES.get(name, {}).items())
    package = {"kecam": f"keras_cv_attention_models on {backend}", "paddle": "PaddleClas"}[kind]
    package += ", float64" if job["double"] else ""
    return [shown, f"{theirs} of {package}", sizes, f"{megabytes:.0f}", f"{logits:.1e}", f"{features:.1e}", state]


def write_small(target: Path, envs: Path) -> None:
    """Write the files of the tests, with the logits at two sizes and the features at the smaller one."""
    target.mkdir(parents=True, exist_ok=True)
    for name, job in SMALL.items():
        kind = name.partition("_")[0]
        odd = kind == "kecam" and job.get("backend") != "torch"
        sizes = (64, 33) if odd else (64, 32)
        job = {
            **job,
            "classes": 10,
            "sizes": sizes,
            "out": str(target / name),
            "answers": str(target / "answers.npz"),
        }
        answers = write(environment(envs, kind), kind, job)
        (target / "answers.npz").unlink()
        small = {key: value for key, value in answers.items() if "logits" in key or key.endswith(f"_{sizes[-1]}")}
        np.savez_compressed(target / f"{name}.npz", **small)
        print(name, f"{(target / name).stat().st_size / 1e3:.0f} kB")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[*KECAM, *PADDLE], help="networks to verify, by default all")
    parser.add_argument("--envs", type=Path, default=Path(tempfile.gettempdir(), "ctxvision-verify"))
    parser.add_argument("--backend", choices=("tensorflow", "torch"), default="tensorflow", help="of kecam")
    parser.add_argument("--double", action="store_true", help="compute in float64; kecam does so on torch alone")
    parser.add_argument("--table", type=Path, help="write the table to this file, too")
    parser.add_argument(
        "--small", type=Path, help="write the small files of the tests to this folder, and nothing else"
    )
    args = parser.parse_args()
    if args.double and args.backend != "torch":
        parser.error("--double needs --backend torch")
    torch.set_num_threads(1)
    if args.small:
        write_small(args.small, args.envs)
        return
    head = ["network", "theirs", "image sizes", "file (MB)", "logits differ by", "features differ by", "verdict"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in args.only or [*KECAM, *PADDLE]:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(f"| {' | '.join(verify(name, args.envs, Path(folder), args.backend, args.double))} |")
        print(lines[-1], flush=True)
    if args.table:
        args.table.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
