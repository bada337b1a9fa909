"""``ctxvision serve``: a page and an HTTP API in front of trained classifiers."""

import os
import signal
from argparse import ArgumentParser, Namespace

from .messages import UserError, note, quieten
from .options import add_shared, whole

TOKEN = "CTXVISION_TOKEN"


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoints",
        metavar="CHECKPOINT",
        nargs="+",
        help="network to serve: .ckpt file or run folder of `ctxvision train`, or .onnx or .pt2 of "
        "`ctxvision export` (of --aot: with --trust); "
        "NAME=CHECKPOINT names it",
    )
    add("--host", default="127.0.0.1", help="address to listen on; default: %(default)s, this machine alone")
    add(
        "--port",
        type=whole(0),
        default=8000,
        help="port to listen on, 0 for any that is free; default: %(default)s",
    )
    add(
        "--token",
        help=f"secret of at least 16 characters that requests must carry; better given "
        f"as {TOKEN} in the environment",
    )
    add("--without-token", action="store_true", help="let every machine that can reach --host in, without a token")
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="another name by which browsers know this server, as behind a proxy; may be repeated",
    )
    add(
        "--max-bytes",
        type=whole(1),
        default=10 * 2**20,
        metavar="N",
        help="largest size of a request in bytes; default: %(default)s",
    )
    add(
        "--max-pixels",
        type=whole(1),
        default=25_000_000,
        metavar="N",
        help="largest number of pixels of an image; default: %(default)s",
    )
    add(
        "--batch", type=whole(1), default=16, metavar="N", help="largest number of images computed at a time; "
        "default: %(default)s"
    )  # fmt: skip
    add(
        "--queue", type=whole(1), default=64, metavar="N", help="largest number of images that wait for a "
        "network; more are refused; default: %(default)s"
    )  # fmt: skip
    add(
        "--max-wait-ms", type=float, default=5.0, metavar="MS", help="milliseconds that an image waits for more; "
        "default: %(default)s"
    )  # fmt: skip
    add(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="largest number of seconds that a request may take; default: %(default)s",
    )
    add_shared(parser, "trust", "device", "optimize")
    add("--examples", metavar="DIR", help="folder of images that the page offers to try")


def run(args: Namespace) -> int:
    """Serve until SIGTERM or SIGHUP (0), or Ctrl-C (130). See `ctxvision serve --help`."""
    if args.port > 65535:
        raise UserError(f"--port must be at most 65535, got {args.port}", 2)
    quieten()
    from ctxvision.serve import Limits, access_for, bind, create_app, open_networks, serve, url_of
    from ctxvision.serve.network import of_digits, of_folder

    token = args.token or os.environ.get(TOKEN) or None
    access = access_for(args.host, token, tuple(args.allow_host), args.without_token)
    limits = Limits(
        max_bytes=args.max_bytes,
        max_pixels=args.max_pixels,
        batch=args.batch,
        queue=args.queue,
        max_wait_ms=args.max_wait_ms,
        timeout=args.timeout,
    )
    bound = bind(args.host, args.port)
    try:
        networks = open_networks(args.checkpoints, args.device, trust=args.trust, optimize=args.optimize)
        examples = of_folder(args.examples) if args.examples else of_digits([network.spec for network in networks])
        app = create_app(networks, limits=limits, access=access, examples=examples)
        for network in networks:
            if network.prepared:
                note(f"{network.name}: {network.prepared}")
        names = ", ".join(network.name for network in networks)
        stopped_by = serve(app, bound, lambda: note(f"serving {names} at {url_of(bound)}"))
    finally:
        bound.close()
    return 130 if stopped_by == signal.SIGINT else 0
