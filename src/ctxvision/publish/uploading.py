"""A folder to the Hugging Face Hub, in one commit."""

import os
from pathlib import Path

from .error import PublishError


def check_upload(repo: str) -> None:
    """Find out before the work whether an upload can be tried: a name that is one, a token, a hub to reach.

    Raises:
        PublishError: The upload cannot be tried.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise PublishError(f"{repo!r} is not the name of a repository on the hub: write user/repo") from error
    if repo.count("/") != 1:
        raise PublishError(f"{repo!r} does not say whose repository it is: write user/repo")
    if constants.HF_HUB_OFFLINE:
        raise PublishError("HF_HUB_OFFLINE is set, nothing can be uploaded; unset it, or leave out --push")
    if not get_token():
        raise PublishError("there is no token of the hub: run `hf auth login`, or set HF_TOKEN")


def upload(folder: str | os.PathLike[str], repo: str, *, private: bool = False) -> str:
    """Upload all files of a folder in one commit; a model card that is there already stays.

    Args:
        folder: Folder that `publish` has made.
        repo: Name of the repository, ``user/repo``; it is made if it does not exist.
        private: Whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        PublishError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    check_upload(repo)
    api = HfApi(library_name="ctxvision")
    try:
        place = api.create_repo(repo, private=private, exist_ok=True)
        has_card = api.file_exists(place.repo_id, "README.md")
        api.upload_folder(
            repo_id=place.repo_id,
            folder_path=Path(folder),
            commit_message="Network trained with ctxvision",
            ignore_patterns=["README.md"] if has_card else None,
        )
    except (ImportError, NameError, AttributeError, MemoryError):  # of versions that do not fit, or of ours
        raise
    except Exception as error:  # of the hub, of its HTTP client, of the system: no common base in all versions
        raise PublishError(
            f"{repo}: {_reason(error)}; the folder {folder} is complete, try again with --overwrite"
        ) from error
    return str(place)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: "the hub does not accept the token (401): run `hf auth login` again",
        403: "the token may not write there (403)",
        429: "the hub asks to wait (429)",
    }
    if status in known:
        return known[status]
    if status is None and _is_of_the_network(error):
        return "the hub cannot be reached"
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"the hub refused ({line})"


def _is_of_the_network(error: Exception) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "ConnectError", "TransportError", "Timeout", "TimeoutError"})
