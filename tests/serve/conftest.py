"""What the tests of the server share: two small networks, one process that serves them."""

import pytest

from _serving import start_server, stop_server, write_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """A contextual network and another, untrained, of the same classes."""
    folder = tmp_path_factory.mktemp("networks")
    return write_checkpoint(folder / "contextual.ckpt"), write_checkpoint(
        folder / "other.ckpt", "test_resnet", seed=1
    )


@pytest.fixture(scope="session")
def attentive(tmp_path_factory):
    """A CoT network of the same classes."""
    return write_checkpoint(tmp_path_factory.mktemp("attentive") / "cot.ckpt", "cotnet_micro", seed=2)


@pytest.fixture(scope="session")
def server(checkpoints, attentive, tmp_path_factory):
    """Address of a process that serves all three, with two examples."""
    from _serving import pixels

    folder = tmp_path_factory.mktemp("examples")
    for index in range(2):
        pixels(index).save(folder / f"picture {index}.png")
    words = [f"first={checkpoints[0]}", f"second={checkpoints[1]}", f"third={attentive}"]
    words += ["--port", 0, "--examples", folder]
    process, address = start_server(*words, "--max-bytes", 200_000, "--max-pixels", 1_000_000)
    yield address
    code, said = stop_server(process)
    assert code == 0, said
    assert "Traceback" not in said
