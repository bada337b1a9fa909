"""Uploads, with the hub's client replaced: what it is asked, and what becomes of its refusals."""

import os
import re
import types

import huggingface_hub
import pytest
from _publishing import run, save, task_of

from ctxvision.publish import (
    PublishError,
    check_upload,
    upload,
)

KEY = "ghp_not_a_token"


class Url(str):
    """An address as the hub's client returns it."""

    def __new__(cls, repo_id):
        url = super().__new__(cls, f"https://hub.example/{repo_id}")
        url.repo_id = repo_id
        return url


@pytest.fixture
def hub(monkeypatch):
    """The hub's client, replaced: what it is asked, and what it answers."""
    state = types.SimpleNamespace(calls=[], has_card=False, error=None)

    class Api:
        def __init__(self, **options):
            state.calls.append(("HfApi", options))

        def create_repo(self, repo, **options):
            state.calls.append(("create_repo", repo, options))
            if state.error:
                raise state.error
            return Url(repo)

        def file_exists(self, repo, filename):
            assert filename == "README.md"
            return state.has_card

        def upload_folder(self, **options):
            state.calls.append(("upload_folder", options))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: KEY)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return state


def test_push_uploads_the_folder_in_one_commit(hub, tmp_path, capsys):
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    words = (checkpoint, tmp_path / "net", "--push", "user/flowers", "--private", "--license", "mit")
    code, out, err = run(capsys, *words)
    assert code == 0
    assert out.splitlines()[-1] == "https://hub.example/user/flowers"
    assert KEY not in out + err
    assert hub.calls[1] == ("create_repo", "user/flowers", {"private": True, "exist_ok": True})
    (name, options), *more = hub.calls[2:]
    assert (name, more) == ("upload_folder", [])
    assert options["folder_path"] == tmp_path / "net"
    assert options["ignore_patterns"] is None
    assert 'create_model("hf-hub:user/flowers", pretrained=True)' in (tmp_path / "net" / "README.md").read_text()


def test_card_that_is_on_the_hub_stays(hub, tmp_path):
    hub.has_card = True
    upload(tmp_path, "user/flowers")
    assert hub.calls[-1][1]["ignore_patterns"] == ["README.md"]


def refusal(status):
    response = types.SimpleNamespace(status_code=status, headers={}, request=None)
    error = huggingface_hub.errors.HfHubHTTPError.__new__(huggingface_hub.errors.HfHubHTTPError)
    Exception.__init__(error, f"{status} Client Error\nlong story")
    error.response = response
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (refusal(401), "does not accept the token"),
        (refusal(403), "may not write there"),
        (refusal(429), "asks to wait"),
        (refusal(409), r"the hub refused \(409 Client Error\)"),
        (ConnectionError("no route"), "the hub cannot be reached"),
        (TimeoutError(), "the hub cannot be reached"),
        (type("ConnectError", (Exception,), {})("dns"), "the hub cannot be reached"),
    ],
)
def test_hub_that_refuses_is_one_line_and_the_folder_stays(hub, error, message, tmp_path, capsys):
    hub.error = error
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    code, _, err = run(capsys, checkpoint, tmp_path / "net", "--push", "user/flowers", "--license", "mit")
    assert code == 1
    last = err.splitlines()[-1]
    assert re.search(rf"user/flowers: .*{message}", last)
    assert "is complete, try again" in last
    assert (tmp_path / "net" / "config.json").is_file()


def test_upload_is_refused_before_the_work_where_it_cannot_succeed(hub, tmp_path, capsys, monkeypatch):
    checkpoint = save(task_of(), tmp_path / "a.ckpt")
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    code, _, err = run(capsys, checkpoint, tmp_path / "net", "--push", "user/flowers")
    assert code == 1
    assert "there is no token of the hub" in err
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        check_upload("user/flowers")
    assert not hub.calls
    assert os.listdir(tmp_path) == ["a.ckpt"]
