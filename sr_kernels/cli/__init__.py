# Copyright (c) 2026 the sr_kernels authors.
# SPDX-License-Identifier: Apache-2.0
"""sr-kernels: enlarge pictures, look after the installation, train.

Exit status: 0 done, 1 something failed, 2 wrong usage, 130 interrupted. Errors go to stderr, one line each.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sr_kernels import __version__
from sr_kernels.cli import bench, doctor, models, optimize, train, tune, upscale

PROG = "sr-kernels"
COMMANDS: tuple[ModuleType, ...] = (
    upscale,
    models,
    optimize,
    bench,
    doctor,
    train,
    tune,
)  # each has add_parser and run


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        args = _parse(argv)
    except SystemExit as stop:  # argparse has printed the usage, the help or the version
        return stop.code if isinstance(stop.code, int) else 2
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            status: int = args.run(args)
            sys.stdout.flush()
            return status
        except KeyboardInterrupt:
            print(f"{PROG}: interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:
            # The reader of our output has left; Python must not complain again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if args.traceback:
                traceback.print_exc()
            print(f"{PROG}: error: {describe(error)}", file=sys.stderr)
            return 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """argparse fills an optional OUT only right behind IN; here it may stand behind the options too."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(args, "output", rest) is None:
        args.output = Path(rest[0])
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it imports no torch."""
    parser = argparse.ArgumentParser(PROG, description="Convolutional super-resolution, fast.")
    parser.add_argument("--version", action="version", version=f"{PROG} {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in COMMANDS:
        command = module.add_parser(commands)
        command.add_argument("--traceback", action="store_true", help="show where an error arose")
        command.set_defaults(run=module.run)
    return parser


def describe(error: BaseException) -> str:
    """One line for an exception: the path and the fault of an OSError, else its message."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    if (
        isinstance(error, (OSError, ValueError, TypeError, RuntimeError, MemoryError, ArithmeticError))
        and text
    ):
        return text
    return f"{type(error).__name__}: {text} (an unexpected fault; --traceback shows where)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    print(f"{PROG}: warning: {' '.join(str(message).split())}", file=sys.stderr)
