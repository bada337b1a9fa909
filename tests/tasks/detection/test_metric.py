"""Average precision against pycocotools: random and adversarial inputs, results files, several processes."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from pycocotools import mask as codes
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ctxvision.tasks.detection.metric import (
    DetectionMetric,
    average_precision,
    coco_results,
    detections_to_rows,
)

SIDE = 200


def code_of(box):
    """A mask with a hole, so that boxes and masks differ."""
    x, y, w, h = (round(v) for v in box)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[max(y, 0) : y + h, max(x, 0) : x + w] = 1
    mask[y + h // 4 : y + h // 2, x + w // 4 : x + w // 2] = 0
    code = codes.encode(mask)
    return {"size": [SIDE, SIDE], "counts": code["counts"].decode()}, int(mask.sum())


def row(label, box, **more):
    code, area = code_of(box)
    return {"label": label, "bbox": [float(v) for v in box], "area": area, "segmentation": code, **more}


def reference(images, num_classes, kind):
    """Pycocotools' twelve numbers; for masks, detections come without boxes, as Detectron2 hands them over."""
    truth, found = [], []
    for image, (objects, detections) in sorted(images.items()):
        for r in objects:
            truth.append({**copy.deepcopy(r), "id": len(truth) + 1, "image_id": image, "category_id": r["label"]})
        for r in detections:
            entry = {"image_id": image, "category_id": r["label"], "score": r["score"]}
            entry |= {"bbox": r["bbox"]} if kind == "bbox" else {"segmentation": dict(r["segmentation"])}
            found.append(entry)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": SIDE, "width": SIDE} for i in sorted(images)],
            "annotations": truth,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(num_classes)],
        }
        coco.createIndex()
        results = COCO()
        results.dataset = {**coco.dataset, "annotations": []}
        results.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found) if found else results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def assert_equal(images, num_classes):
    for kind in ("bbox", "segm"):
        got = average_precision(images, num_classes, kind)
        wanted = reference(images, num_classes, kind)
        numbers = [got.ap, got.ap50, got.ap75, got.ap_small, got.ap_medium, got.ap_large, got.recall]
        expected = [math.nan if wanted.stats[i] == -1 else wanted.stats[i] for i in (0, 1, 2, 3, 4, 5, 8)]
        np.testing.assert_allclose(numbers, expected, rtol=1e-9, atol=1e-12)
        precision = wanted.eval["precision"][:, :, :, 0, -1]
        for label in range(num_classes):
            values = precision[:, :, label]
            mean = values[values > -1].mean() if (values > -1).any() else math.nan
            np.testing.assert_allclose(got.by_class[label], mean, rtol=1e-9)


# few places, sizes and scores: duplicates, exact IoU thresholds and ties come up all the time
boxes = st.tuples(
    st.sampled_from([0, 3, 10, 40, 45, 90]),
    st.sampled_from([0, 2, 10, 40, 44, 80]),
    st.sampled_from([4, 10, 20, 32, 40, 96, 100]),
    st.sampled_from([5, 10, 20, 32, 40, 96, 110]),
)
objects = st.builds(row, st.integers(1, 4), boxes, iscrowd=st.sampled_from([0, 0, 0, 1]))
detections = st.builds(row, st.integers(1, 4), boxes, score=st.sampled_from([0.1, 0.5, 0.5, 0.9, 1.0]))
scenes = st.dictionaries(
    st.integers(1, 30),
    st.tuples(st.lists(objects, max_size=5), st.lists(detections, max_size=8)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, phases=[Phase.generate])  # two evaluations are slow to shrink
@given(scenes)
def test_equals_pycocotools(images):
    assert_equal(images, 5)  # the fifth class has nothing


def test_more_detections_than_the_limit():
    generator = np.random.default_rng(0)
    found = [
        row(1, generator.integers(1, 60, 4), score=float(score)) for score in generator.integers(0, 40, 150) / 40
    ]
    truth = [row(1, generator.integers(1, 60, 4), iscrowd=0) for _ in range(30)]
    assert_equal({1: (truth, found), 2: ([], found[:120])}, 1)


def test_near_misses_of_the_iou_thresholds():
    """IoUs of exactly 0.5, 0.75 and 0.95, and hardly less."""
    truth, found = [], []
    for place, height in enumerate([50, 75, 95, 49.9999, 74.9999, 94.9999]):
        x = 30 * place
        truth.append(row(1, (x, 0, 20, 100), iscrowd=0))
        found.append(row(1, (x, 0, 20, height), score=0.5 + place / 20) | {"bbox": [x, 0, 20.0, height]})
    assert_equal({1: (truth, found)}, 1)


def test_detections_in_crowds_do_not_count():
    crowd = row(1, (0, 0, 100, 100), iscrowd=1)
    truth = [row(1, (120, 120, 40, 40), iscrowd=0), crowd]
    inside = [row(1, (5 + 12 * i, 5, 10, 10), score=0.9) for i in range(6)]
    hit = row(1, (120, 120, 40, 40), score=0.5)
    assert average_precision({1: (truth, [*inside, hit])}, 1, "bbox").ap == pytest.approx(1.0)
    assert average_precision({1: (truth[:1], [*inside, hit])}, 1, "bbox").ap < 0.3
    assert_equal({1: (truth, [*inside, hit])}, 1)


@pytest.mark.parametrize("images", [{}, {1: ([], [])}, {1: ([], [row(1, (0, 0, 9, 9), score=0.9)])}])
def test_nothing_to_find(images):
    found = average_precision(images, 2, "bbox")
    assert math.isnan(found.ap)
    assert all(map(math.isnan, found.by_class))


def detection(rows):
    """What a detector returns for rows."""
    box = torch.tensor([r["bbox"] for r in rows]).reshape(-1, 4)
    box[:, 2:] += box[:, :2]
    masks = [torch.from_numpy(codes.decode(r["segmentation"])).float() for r in rows]
    return {
        "boxes": box,
        "labels": torch.tensor([r["label"] for r in rows], dtype=torch.int64),
        "scores": torch.tensor([r["score"] for r in rows]),
        "masks": torch.stack(masks).unsqueeze(1) if masks else torch.zeros(0, 1, SIDE, SIDE),
    }


def some_images():
    generator = np.random.default_rng(3)
    images = {}
    for image in range(1, 9):
        truth = [row(int(generator.integers(1, 4)), generator.integers(5, 90, 4), iscrowd=0) for _ in range(4)]
        found = [
            row(
                r["label"],
                np.array(r["bbox"]) + generator.integers(-3, 4, 4),
                score=float(generator.integers(1, 4)) / 4,
            )
            for r in truth
        ]
        images[image] = truth, found
    return images


def test_order_of_images_and_batches_does_not_matter():
    images = some_images()
    results = []
    for order in (list(images), list(reversed(images))):
        metric = DetectionMetric(3, masks=True)
        for image in order:
            metric.update([{"image_id": image, "truth": images[image][0]}], [detection(images[image][1])])
        metric.update([{"image_id": order[0], "truth": images[order[0]][0]}], [detection(images[order[0]][1])])
        assert len(metric) == len(images)
        results.append(metric.compute())
        metric.reset()
        assert len(metric) == 0
    assert repr(results[0]) == repr(results[1])  # NaN included
    assert results[0]["bbox"].ap == pytest.approx(reference(images, 3, "bbox").stats[0])
    assert results[0]["segm"].ap == pytest.approx(reference(images, 3, "segm").stats[0])


def _one_process(rank, world_size, port, images, queue):
    import torch.distributed as dist

    torch.set_num_threads(1)  # a forked process has no pool of threads
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
    metric = DetectionMetric(3)
    for image in list(images)[rank::world_size]:
        metric.update([{"image_id": image, "truth": images[image][0]}], [detection(images[image][1])])
    queue.put(metric.compute()["bbox"].ap)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.process
def test_processes_share_the_images():
    import socket

    images = some_images()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")  # a new interpreter would import everything again
    queue = context.Queue()
    workers = [context.Process(target=_one_process, args=(rank, 2, port, images, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = [queue.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    assert found == [average_precision(images, 3, "bbox").ap] * 2


def test_results_file_is_read_by_pycocotools(tmp_path):
    images = some_images()
    ids = (1, 18, 90)  # gaps
    entries = []
    for image, (_, found) in images.items():
        entries += coco_results(image, detections_to_rows(detection(found), masks=True), ids)
    (tmp_path / "results.json").write_text(json.dumps(entries))
    truth = [
        {**r, "id": i + 1, "image_id": image, "category_id": ids[r["label"] - 1]}
        for i, (image, r) in enumerate((image, r) for image, (rows, _) in images.items() for r in rows)
    ]
    coco = COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        coco.dataset = {
            "images": [{"id": i, "height": SIDE, "width": SIDE} for i in images],
            "annotations": truth,
            "categories": [{"id": i, "name": str(i)} for i in ids],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(average_precision(images, 3, "bbox").ap)
    first = json.loads((tmp_path / "results.json").read_text())[0]
    assert set(first) == {"image_id", "category_id", "bbox", "score", "segmentation"}
