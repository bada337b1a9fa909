"""The command line of ``ctxvision train``: jsonargparse, with MODEL and DATA as plain words in front."""

import dataclasses
import logging
import os

from ctxvision.devices import resolved
from ctxvision.runs import Run
from ctxvision.training.error import OptionError, TrainingStopped
from ctxvision.training.options import TrainOptions
from ctxvision.training.settings import basis_of

from . import class_paths
from .messages import quieten, say_loading
from .train_parser import make_parser, types_explained
from .train_words import as_options, first_look


def run(words: list[str]) -> int:
    """Parse the words after ``train``, train, and return the exit code: 0, or 128 + the signal that came.

    Raises:
        OptionError: The command line is wrong.
        TrainingError: The training cannot begin, continue or end well.
    """
    quieten()
    options = options_of(words)

    from ctxvision.training.processes import rank
    from ctxvision.training.run import train_with

    quieten()  # again: Lightning sets its level when it is imported
    try:
        trained = train_with(options)
    except TrainingStopped as stopped:
        return 128 + stopped.signal_number
    if options.pictures and not rank():
        _write_report(trained, options)
    return 0


def _write_report(trained: Run, options: TrainOptions) -> None:
    """Write ``report.html`` into the run folder; what goes wrong is a line, for the training has succeeded."""
    from ctxvision.pages import write_report

    # the training has named the bad samples, and has said what there is to know about the data
    said = [logging.getLogger(name) for name in ("ctxvision.data", "ctxvision.evaluation.source")]
    for log in said:
        log.setLevel(logging.ERROR)
    write_report(
        trained.path,
        trained.path / "report.html",
        required=False,
        device=resolved(options.device),
        trust=True,
        workers=options.workers,
    )
    for log in said:
        log.setLevel(logging.NOTSET)


def options_of(words: list[str]) -> TrainOptions:
    """Return the options of a command line, complete; ``--help`` and ``--print-config`` end the program.

    Raises:
        OptionError: The command line is wrong.
    """
    parts, words = class_paths.take_out(as_options(words))
    first, words = first_look(words)
    first |= parts
    basis = basis_of(first)
    parser = make_parser()
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    parser.add_class_arguments(basis.kind)
    if {"-h", "--help"} & {*words}:
        parser.set_defaults(basis.usual(first))
    printing = [word for word in words if word[2:].split("=")[0] == "print_config"]
    with types_explained(basis.kind):
        given = first | parser.parse_args([w for w in words if w not in printing], defaults=False).as_dict()
    if printing and not (whole := {**basis.resumed, **given}).get("model"):
        parser.set_defaults(whole)
        with types_explained(basis.kind):
            parser.parse_args(printing)
    if {**basis.resumed, **given}.get("model"):  # else that is said at once
        say_loading()
    options = basis.complete(given)
    if printing:
        options = _with_batch(options)
        # what is printed is whole: options that depend on recipe, model and data are the defaults now
        parser.set_defaults(dataclasses.asdict(options))
        with types_explained(basis.kind):
            parser.parse_args(printing)
    return options


def _with_batch(options: TrainOptions) -> TrainOptions:
    """Return the options with the batch that the data would get, if they are here and can be read."""
    if options.batch_size is not None or not os.path.exists(options.data):
        return options
    from ctxvision.data import DataError

    try:
        return options.with_batch_for(options.open_data(1).train_size)
    except (DataError, OptionError):
        return options
