"""What a run folder of ``ctxvision train`` says about its training."""

from pathlib import Path
from typing import Any

import yaml


def read_settings(run: Path, error: type[Exception]) -> dict[str, Any]:
    """Return the settings that a training wrote beside its checkpoints; none where there is no such file.

    Args:
        run: the folder.
        error: what is raised where the file is damaged.
    """
    path = run / "config.yaml"
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as reason:
        raise error(f"{path}: not YAML") from reason
    if not isinstance(settings, dict):
        raise error(f"{path}: not the settings of a run")
    return settings
