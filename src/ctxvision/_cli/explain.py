"""``ctxvision explain``: what a trained network looked at."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.files import write_folder
from ctxvision.foreign import json_text
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .errors import UserError
from .files import require_place
from .keeping import Keeping
from .messages import note, quieten, say
from .trust import add_trust

if TYPE_CHECKING:
    from ctxvision.explain.explanation import Against, Subject
    from ctxvision.explain.pictures import Picture
    from ctxvision.tasks import ClassificationTask, Task


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help=".ckpt file or run folder of `ctxvision train`",
    )
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="image files, and folders of them; videos for a video network"
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder for explain.html, explain.json and the figures"
    )
    parser.add_argument(
        "--class",
        dest="asked",
        metavar="NAME",
        help="class to explain in every image; default: what the network answers or finds",
    )
    parser.add_argument(
        "--layer", metavar="NAME", help="layer for Grad-CAM; default: see the page on explanations"
    )
    parser.add_argument(
        "--against",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="second network, .ckpt file or run folder, to compare",
    )
    parser.add_argument("--against_layer", metavar="NAME", help="its layer for Grad-CAM")
    parser.add_argument(
        "--truth",
        metavar="NAME",
        help="true class of the images; default: the name of an image's folder, where there is such a class",
    )
    parser.add_argument(
        "--data",
        metavar="DATA",
        help="data set over which to follow the true classes through a contextual network, as for `evaluate`",
    )
    parser.add_argument("--split", choices=("val", "train", "all"), help="of DATA; default as for `evaluate`")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="S",
        help="of a detector: lowest score of the boxes; default: 0.5",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=12,
        metavar="N",
        help="images to explain; of more, these are spread evenly; default: %(default)s",
    )
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="of DATA; default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode DATA")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, …")
    add_trust(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Write the page and print its path; 1 if no image could be read. See `ctxvision explain --help`."""
    if min(args.limit, args.batch_size) < 1 or args.workers < 0:
        raise UserError("--limit and --batch_size must be at least 1, --workers at least 0", 2)
    if args.against_layer and not args.against:
        raise UserError("--against_layer is a layer of the network that --against names", 2)
    require_place(args.out, "explain.json")
    quieten()
    import pytorch_grad_cam  # noqa: F401 - before the work, not after it

    from ctxvision.data.images.reading import list_image_files
    from ctxvision.explain.explanation import Against, make_explanation
    from ctxvision.pages.explanation_page import render
    from ctxvision.tasks import ClassificationTask

    from .files import expand

    loaded = _load(args.checkpoint, args.device, args.trust)
    if not isinstance(loaded, ClassificationTask):
        from .explain_parts import explain_parts

        return explain_parts(args, loaded)
    if args.threshold is not None:
        raise UserError("--threshold is for detectors", 2)
    task = loaded
    against = Against(args.against, load_other(args, task), args.against_layer) if args.against else None
    names = list(task.data_spec["class_names"])
    asked, truth = class_index(names, "class", args.asked), class_index(names, "truth", args.truth)
    paths = some(expand(args.images, list_image_files), args.limit)
    bad: list[dict[str, str]] = []
    subjects = list(_read(paths, task, against, truth, bad, args.strict))
    if not subjects:
        note("no image could be read, so nothing was written")
        return 1
    data = _open_data(args, task) if args.data else None
    made = make_explanation(
        task,
        subjects,
        checkpoint=args.checkpoint,
        asked=asked,
        layer=args.layer,
        against=against,
        data=data,
        data_name=args.data,
    )
    made.numbers["bad_images"] = bad
    return finish(args, made.pictures, made.numbers, partial(render, made), len(paths))


def finish(
    args: Namespace, pictures: Sequence["Picture"], numbers: dict[str, Any], page: Callable[[], str], count: int
) -> int:
    """Write the folder, print the path of the page, and return the exit code."""
    files = {f"figures/{picture.file}": picture.data for picture in pictures}
    files["explain.json"] = (json_text(numbers, indent=1, allow_nan=False) + "\n").encode()
    if numbers["bad_images"]:
        note(f"skipped {plural(len(numbers['bad_images']), 'bad image')} of {count}")
    html, keeping = Path(args.out) / "explain.html", Keeping()
    with keeping.step(str(html)):
        files["explain.html"] = page().encode()
    if keeping.exit_code:
        html.unlink(missing_ok=True)  # an earlier call's is of other figures
    write_folder(args.out, files)
    say(html if "explain.html" in files else args.out)
    return keeping.exit_code


def _load(checkpoint: str, device: str, trust: bool) -> "Task":
    import torch

    from ctxvision.tasks import load_task

    task = load_task(checkpoint, trust=trust)
    try:
        return task.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def load_other(args: Namespace, task: Any) -> Any:
    """Load the network of ``--against``, of the same task and classes as the first."""
    other = _load(args.against, args.device, args.trust)
    if other.kind != task.kind:
        raise UserError(f"{args.against}: its task is {other.kind}, not {task.kind}")
    names, theirs = task.data_spec["class_names"], other.data_spec["class_names"]
    if sorted(theirs) != sorted(names):
        odd = sorted(set(theirs) ^ set(names))
        raise UserError(f"{args.against}: has not the same classes; {odd[0]!r} is a class of one network only")
    return other


def class_index(names: Sequence[str], option: str, name: str | None) -> int | None:
    """Return the place of a class that an option names."""
    if name is None:
        return None
    if name not in names:
        some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise UserError(f"--{option}: no class {name!r}; the network's classes are {some}", 2)
    return list(names).index(name)


def some(paths: list[str], limit: int, thing: str = "images") -> list[str]:
    """Take at most so many files, evenly spread."""
    if len(paths) <= limit:
        return paths
    note(f"{len(paths)} {thing}: {limit} of them, evenly spread, are explained; --limit takes more")
    return [paths[index * len(paths) // limit] for index in range(limit)]


def _read(
    paths: Sequence[str],
    task: "ClassificationTask",
    against: "Against | None",
    truth: int | None,
    bad: list[dict[str, str]],
    strict: bool,
) -> Iterator["Subject"]:
    from ctxvision.data import BadImageError, DataSpec, read_image
    from ctxvision.explain.explanation import Subject

    tasks = [task] if against is None else [task, against.task]
    specs = [DataSpec.from_dict(t.data_spec) for t in tasks]
    transforms = [spec.eval_transform() for spec in specs]
    names = list(specs[0].class_names)
    for path in paths:
        try:
            views: list[Any] = [
                transform(read_image(path, spec.color_mode))
                for spec, transform in zip(specs, transforms, strict=True)
            ]
        except BadImageError as error:
            if strict:
                raise
            note(f"skipped {path}: {error.reason}")
            bad.append({"path": path, "reason": error.reason})
            continue
        folder = Path(path).absolute().parent.name
        known = names.index(folder) if truth is None and folder in names else truth
        yield Subject(path, views[0], views[1] if against is not None else None, known)


def _open_data(args: Namespace, task: "ClassificationTask") -> Any:
    from ctxvision.data import DataSpec
    from ctxvision.explain import is_contextual

    from .data import open_for_evaluation

    if not is_contextual(task.model):
        raise UserError(
            f"--data: {task.hparams['model']} weighs all classes at once, so there is no funnel to follow", 2
        )
    data, _ = open_for_evaluation(
        args.data,
        DataSpec.from_dict(task.data_spec),
        args.split,
        batch_size=args.batch_size,
        workers=args.workers,
        strict=args.strict,
    )
    for line in data.notes:
        note(line)

    def batches() -> Iterator[tuple[Any, Any]]:
        for batch in data.val_dataloader():
            images, targets = data.on_after_batch_transfer(batch, 0)
            if len(images):
                yield images.to(task.device, memory_format=task.memory_format), targets.to(task.device)

    return batches
