"""CIFAR from disk: both versions, and nothing unpickled that is not official."""

import hashlib
import pickle

import numpy as np
import pytest
from _sources import cifar_records
from torchvision.datasets import CIFAR10, CIFAR100

from ctxvision.data import DataError, ImageData, find_images

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def binary10(root):
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for index in range(1, 6):
        cifar_records(20, 1, 10, index).tofile(folder / f"data_batch_{index}.bin")
    cifar_records(10, 1, 10).tofile(folder / "test_batch.bin")
    (folder / "batches.meta.txt").write_text("\n".join(NAMES10) + "\n\n")
    return folder


def binary100(root):
    folder = root / "cifar-100-binary"
    folder.mkdir(parents=True)
    cifar_records(200, 2, 100).tofile(folder / "train.bin")
    cifar_records(100, 2, 100).tofile(folder / "test.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(f"fine{i:02d}" for i in range(100)))
    return folder


def python_version(root, monkeypatch, kind):
    """Small files in the official layout, whose sums torchvision is told."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    classes = 10 if kind is CIFAR10 else 100

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for attribute in ("train_list", "test_list"):
        sums = []
        for seed, (name, _) in enumerate(getattr(kind, attribute), attribute == "train_list"):
            rows = cifar_records(2 * classes, 1, classes, seed)
            label = "labels" if kind is CIFAR10 else "fine_labels"
            sums.append([name, write(name, {"data": rows[:, 1:], label: rows[:, 0].tolist()})])
        monkeypatch.setattr(kind, attribute, sums)
    names = NAMES10 if classes == 10 else [f"fine{i:02d}" for i in range(100)]
    md5 = write(kind.meta["filename"], {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": md5})
    return folder


def test_binary_10(tmp_path):
    folder = binary10(tmp_path)
    for path in (tmp_path, folder):
        found = find_images(f"cifar10:{path}")
        assert found.class_names == tuple(NAMES10)
        assert found.train_counts == (10,) * 10
        assert len(found.val) == 10
    name, label = found.train[1]  # the second image of class 0: row 10 of the first file
    row = cifar_records(20, 1, 10, 1)[10]
    assert label == row[0] == 0
    image = np.asarray(found.open_image(name))
    assert (image.transpose(2, 0, 1).ravel() == row[1:]).all()


def test_binary_100_takes_the_fine_classes(tmp_path):
    binary100(tmp_path)
    found = find_images(f"cifar100:{tmp_path}")
    assert found.class_names[99] == "fine99"
    assert found.train_counts == (2,) * 100
    assert len(found.val) == 100


@pytest.mark.parametrize(("name", "kind", "files"), [("cifar10", CIFAR10, 5), ("cifar100", CIFAR100, 1)])
def test_python_version(tmp_path, monkeypatch, name, kind, files):
    folder = python_version(tmp_path, monkeypatch, kind)
    for path in (tmp_path, folder):
        found = find_images(f"{name}:{path}")
        assert len(found.class_names) == int(name[5:])
        assert set(found.train_counts) == {2 * files}
    sample, _ = found.val[0]
    row = cifar_records(2 * len(found.class_names), 1, len(found.class_names), 0)[0]
    assert (np.asarray(found.open_image(sample)).transpose(2, 0, 1).ravel() == row[1:]).all()


class Payload:
    def __reduce__(self):
        import os

        return os.mkdir, ("owned",)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
def test_other_pickles_are_never_opened(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    folder = python_version(tmp_path, monkeypatch, CIFAR10)
    (folder / file).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match="not the official ones by their MD5"):
        find_images(f"cifar10:{tmp_path}")
    assert not (tmp_path / "owned").exists()
    pickle.loads((folder / file).read_bytes())
    assert (tmp_path / "owned").exists()  # it would have been


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "data_batch_2.bin").unlink(), "data_batch_2.bin: no such file"),
        (lambda f: (f / "data_batch_2.bin").write_bytes(b"0" * 3072), "3072 bytes, not a multiple of 3073"),
        (lambda f: (f / "test_batch.bin").write_bytes(b""), "0 bytes"),
        (lambda f: (f / "batches.meta.txt").write_text("a\nb"), "a label 9 in train, but .* names 2 classes"),
    ],
)
def test_damaged_binary_files(tmp_path, damage, message):
    damage(binary10(tmp_path))
    with pytest.raises(DataError, match=message) as error:
        find_images(f"cifar10:{tmp_path}")
    assert "\n" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        find_images(f"cifar10:{tmp_path}/none")
    with pytest.raises(DataError, match=r"expected .*cifar-100-python or cifar-100-binary"):
        find_images(f"cifar100:{tmp_path}")
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"unpack .*cifar-10-python.tar.gz"):
        find_images(f"cifar10:{tmp_path}")


def test_images_keep_their_size(tmp_path):
    binary10(tmp_path)
    data = ImageData(f"cifar10:{tmp_path}", batch_size=10)
    assert data.spec.input_size == (3, 32, 32)
    (batch,) = data.val_dataloader()
    image = np.asarray(data._open_image(data.eval_samples[0][0]), np.float32).transpose(2, 0, 1) / 255
    mean, std = (np.reshape(v, (3, 1, 1)) for v in (data.spec.mean, data.spec.std))
    np.testing.assert_allclose(batch.images[0].numpy(), (image - mean) / std, atol=1e-5)
