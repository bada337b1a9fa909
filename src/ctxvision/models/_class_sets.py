"""What the stages of a contextual network found out about the classes of a batch, remembered beside its features.

A network hands this on itself. Who calls its stages one after the other, with features alone, gets it from here.
"""

import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ctxvision.nn import ClassFunnel, ClassStep

Steps = list[tuple[Tensor | None, ClassStep]]

# Not an attribute of the tensor, which would be pickled with it.
_STEPS: WeakIdKeyDictionary = WeakIdKeyDictionary()


def remember(features: Tensor, steps: Steps) -> None:
    """Remember the class sets that features were computed with, as long as their memory lives."""
    if not torch.compiler.is_dynamo_compiling():
        _STEPS[_key(features)] = steps


def recall(features: Tensor) -> Steps | None:
    """Return the class sets that features were computed with; ``None`` if they were not remembered."""
    steps: Steps | None = _STEPS.get(_key(features))
    if not steps or not isinstance(features, Tensor):
        return steps
    return steps if steps[-1][1].kept.shape[0] == features.shape[0] else None  # a part of the batch


def _key(features: Tensor) -> Any:
    """Return what identifies features: their memory, which detached ones share, or where there is none themselves.

    Reentrant checkpointing computes a stage again from detached features.
    """
    if not isinstance(features, Tensor) or torch.compiler.is_compiling():
        return features
    try:
        return features.untyped_storage()
    except (NotImplementedError, RuntimeError):  # under torch.vmap
        return features


class StageClasses(NamedTuple):
    """The class funnel and the number of a stage, for the case that the stage is called by itself.

    The network owns the funnel; a stage only refers to it.
    """

    funnel: ClassFunnel
    number: int

    @property
    def narrows(self) -> bool:
        """Whether the stage has a contextualizing layer; otherwise it only passes on what is known."""
        return str(self.number) in self.funnel.steps

    def known(self, features: Tensor) -> Steps:
        """Return what earlier stages found out about the features that enter, with this stage's own step."""
        if not self.narrows:
            return [] if torch.compiler.is_dynamo_compiling() else list(_recall_eagerly(features) or ())
        steps = _recall_eagerly(features)
        if steps is None and self.funnel.selection == "reduce" and self.number > min(map(int, self.funnel.steps)):
            warnings.warn(
                f"stage {self.number} got features that the stage before did not return: no class sets are known, "
                "so it considers all classes; call the network itself, or its stages one after the other",
                stacklevel=3,
            )
        steps = list(steps or ())
        return [*steps, self.funnel.narrow(self.number, features, steps)]


# a compiled graph breaks here, because it cannot tell which tensors share their memory
_recall_eagerly = torch.compiler.disable(recall)
remember_eagerly = torch.compiler.disable(remember)
