"""timm's ``pretrained=True`` for weights that other projects keep in their own formats."""

from typing import Any

from timm.models import build_model_with_cfg
from timm.models._builder import resolve_pretrained_cfg

from ._weights import why_none


def build_network(network: Any, variant: str, pretrained: bool, **kwargs: Any) -> Any:
    """Build a network as `timm.models.build_model_with_cfg` does; weights behind an address are converted first.

    Args:
        network: Class of the network.
        variant: Registered name of the network.
        pretrained: Whether to load the weights of its configuration.
        **kwargs: Further arguments of `timm.models.build_model_with_cfg`.

    Raises:
        RuntimeError: There are no weights; the message says what to do instead.
        CheckpointError: The weights cannot be had.
    """
    if not pretrained:
        return build_model_with_cfg(network, variant, False, **kwargs)
    overlay = dict(kwargs.pop("pretrained_cfg_overlay", None) or {})
    config = resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)
    fetched = bool(config.url and not (config.state_dict or config.file or config.source))
    if fetched:
        # conversion knows all networks and so stands above them: it is imported when it is needed, not before
        from ctxvision.checkpoints.pretrained import fetch_weights

        overlay |= {"file": str(fetch_weights(config.url, variant, folder=kwargs.get("cache_dir")))}
    elif not (config.has_weights or config.state_dict):
        raise RuntimeError(why_none(variant))
    model: Any = build_model_with_cfg(network, variant, True, pretrained_cfg_overlay=overlay, **kwargs)
    if fetched:
        # a place on this machine means nothing where the configuration is published
        for about in (model.pretrained_cfg, getattr(model, "default_cfg", {})):
            about.pop("file", None)
    return model
