"""The embedded digits."""

import numpy as np
import pytest
import torch

from ctxvision.data import DataError, DataSpec, DigitsData, read_image


def batches(loader):
    images, targets = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(targets)


def test_split_is_stratified_and_pinned():
    train, val = DigitsData(eval_split="train"), DigitsData()
    (train_images, train_targets), (val_images, val_targets) = (batches(d.val_dataloader()) for d in (train, val))
    assert len(train_images) + len(val_images) == 1797
    totals = torch.bincount(torch.cat([train_targets, val_targets]))
    assert (torch.bincount(val_targets) - 0.2 * totals).abs().max() <= 0.5
    seen = {image.numpy().tobytes() for image in train_images}
    assert not any(image.numpy().tobytes() in seen for image in val_images)
    assert val_targets[:12].tolist() == [1, 5, 7, 8, 0, 5, 9, 9, 4, 1, 2, 6]


def test_normalised_shapes():
    images, _ = batches(DigitsData(eval_split="train").val_dataloader())
    assert images.shape[1:] == (3, 32, 32)
    assert abs(images.mean()) < 0.01
    assert abs(images.std() - 1) < 0.01
    assert batches(DigitsData(in_chans=1, image_size=16).val_dataloader())[0].shape[1:] == (1, 16, 16)


def test_training_batches_are_augmented_but_recognisable():
    data = DigitsData(batch_size=1438)
    (images, targets), (again, _) = (batches(data.train_dataloader()) for _ in range(2))
    plain, plain_targets = batches(DigitsData(eval_split="train").val_dataloader())
    assert torch.equal(images, again)
    assert images.shape == plain.shape
    means, plain_means = (
        torch.stack([x[t == digit].mean(0).flatten() for digit in range(10)])
        for x, t in ((images, targets), (plain, plain_targets))
    )
    # the mean augmented 7 looks most like the mean 7, and not like a mirrored one
    likeness = torch.corrcoef(torch.cat([means, plain_means]))[:10, 10:]
    assert likeness.argmax(1).tolist() == list(range(10))
    mirrored = plain_means.view(10, 3, 32, 32).flip(-1).flatten(1)
    for digit in (2, 5, 7):
        assert torch.corrcoef(torch.stack([means[digit], mirrored[digit]]))[0, 1] < likeness[digit, digit] - 0.1


def test_epochs_differ_and_a_set_epoch_repeats():
    loader = DigitsData(seed=4).train_dataloader()
    first, _ = batches(loader)
    loader.sampler.set_epoch(1)
    second, _ = batches(loader)
    loader.sampler.set_epoch(0)
    assert torch.equal(batches(loader)[0], first)
    assert not torch.equal(first, second)


def test_exported_files_are_what_the_network_saw(tmp_path):
    data = DigitsData()
    paths = data.export(tmp_path / "digits", limit=20)
    images, targets = batches(data.val_dataloader())
    transform = data.spec.eval_transform()
    assert len(paths) == 20
    for path, image, target in zip(paths, images[:20], targets[:20], strict=True):
        assert path.endswith(f"is-{target}.png")
        assert np.asarray(read_image(path, "L")).shape == (8, 8)
        torch.testing.assert_close(transform(read_image(path)), image)


def test_other_classes_are_refused():
    spec = DataSpec(("cat", "dog"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(DataError, match="cat, dog"):
        DigitsData(spec=spec)


def test_single_item_is_one_of_the_batch():
    dataset = DigitsData().val_dataloader().dataset
    image, target = dataset[5]
    images, targets = dataset.__getitems__([4, 5])
    assert torch.equal(image, images[1])
    assert target == targets[1]
