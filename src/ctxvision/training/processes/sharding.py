"""``--strategy fsdp``: parameters, gradients and optimiser state are sharded over the devices."""

import re

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from ctxvision.tasks import Task
from ctxvision.training.error import OptionError
from ctxvision.training.options import TrainOptions

# what works on each element by itself; others need whole matrices, norms of layers or the like
_OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
_BLOCK = re.compile(r"(^|\.)(layer\d+|blocks)(\.\d+)+$")


def synchronizes_norms(options: TrainOptions) -> bool:
    """Tell whether batch norms take their statistics over the images of all devices, which only GPUs can do."""
    several = (options.devices or 1) * (options.nodes or 1) > 1
    on_gpus = options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return several and on_gpus and options.sync_batchnorm


def make_sharded(options: TrainOptions) -> ModelParallelStrategy:
    """Build Lightning's strategy for a sharded network; its checkpoints are whole, and written by rank 0.

    Args:
        options: Options of the run, complete.

    Raises:
        OptionError: An option does not go together with a sharded network.
    """
    devices = (options.devices or 1) * (options.nodes or 1)
    if devices == 1:
        raise OptionError("--strategy fsdp shares a network out among several devices; add --devices")
    for name in ("ema", "skip_nan", "compile"):
        if getattr(options, name):
            raise OptionError(f"--{name} does not go together with --strategy fsdp; leave one of them out")
    if options.precision == "16-mixed":
        raise OptionError("--precision 16-mixed does not go together with --strategy fsdp; take bf16-mixed")
    if options.optimizer not in _OPTIMIZERS:
        raise OptionError(f"--strategy fsdp needs one of {', '.join(_OPTIMIZERS)}, not {options.optimizer}")
    return ModelParallelStrategy(
        data_parallel_size=devices, tensor_parallel_size=1, save_distributed_checkpoint=False
    )


def shard_when_ready(task: Task, *, sync_batchnorm: bool) -> None:
    """Let Lightning shard the network once the process group exists.

    Args:
        task: Task whose network is whole and has the same weights in all processes.
        sync_batchnorm: Whether batch norms take their statistics over all GPUs.
    """

    def configure_model() -> None:
        if sync_batchnorm:
            task.model = nn.SyncBatchNorm.convert_sync_batchnorm(task.model)
        # Lightning has no double precision here: the network's own is kept, and images are cast to it
        double = MixedPrecisionPolicy(param_dtype=torch.float64) if task.dtype == torch.float64 else None
        assert task.device_mesh is not None
        shard(task.model, task.device_mesh["data_parallel"], double or MixedPrecisionPolicy())

    task.configure_model = configure_model  # type: ignore[method-assign]


def shard(network: nn.Module, mesh: DeviceMesh, policy: MixedPrecisionPolicy) -> None:
    """Shard a network block by block, so that an all-gather makes only one block whole at a time.

    Args:
        network: Network of timm or ours.
        mesh: Device mesh of all processes.
        policy: Precision in which parameters are used.
    """
    # parameters in channels-last order cannot be cut; the images stay in it
    network.to(memory_format=torch.contiguous_format)
    for block in blocks(network).values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy)
    if hasattr(network, "forward_stages"):
        register_fsdp_forward_method(network, "forward_stages")


def blocks(network: nn.Module) -> dict[str, nn.Module]:
    """Find the residual blocks of a network by the names that timm gives them."""
    return {
        name: module
        for name, module in network.named_modules()
        if _BLOCK.search(name) and not isinstance(module, nn.Sequential)
    }
