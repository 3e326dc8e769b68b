"""The command `vqlabel`: make label files, look into them, check and compare them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from vqlabel._version import __version__
from vqlabel.errors import FormatError
from vqlabel.terminal import one_line, say

LOGITS = ".npy or .safetensors of logits [rows, classes], a label file, or a folder of these"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 if all is well, 1 if the file is not, 2 if the command makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(options.run(options))
    except (FormatError, OSError, ValueError, EOFError) as error:
        say(f"error: {one_line(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vqlabel", description="Soft labels in a few bytes each.")
    parser.add_argument("--version", action="version", version=f"vqlabel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_makers(commands)
    _add_readers(commands)
    return parser


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command, imported when it runs: --help must not wait for torch."""
    return lambda options: int(getattr(import_module(f"vqlabel.{module}"), name)(options))


def _add_makers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fit = commands.add_parser("fit", help="fit a codec to logits")
    fit.add_argument("logits", help=LOGITS)
    fit.add_argument("-o", "--out", required=True, metavar="CODEC", help="where the codec is kept")
    _add_fit_options(fit)
    fit.set_defaults(run=_later("commands", "fit"))
    encode = commands.add_parser("encode", help="make a label file from logits; goes on where it was interrupted")
    encode.add_argument("logits", help=LOGITS)
    encode.add_argument("-o", "--out", required=True, metavar="LABELS", help="the label file")
    encode.add_argument("--codec", help="what `vqlabel fit` made; without it a codec is fitted first")
    encode.add_argument("--format", choices=("vq", "raw", "int8", "topk"), default="vq", help="how to store a label")
    encode.add_argument("--k", type=int, default=10, help="logits that topk keeps (10)")
    encode.add_argument("--teacher", metavar="NAME", help="which model made the logits, for the metadata")
    _add_fit_options(encode)
    encode.set_defaults(run=_later("commands", "encode"))


def _add_fit_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("fitting")
    rate = group.add_mutually_exclusive_group()
    rate.add_argument("--bytes", type=float, metavar="B", help="bytes of codes for each label (4)")
    rate.add_argument("--max-kl", type=float, metavar="KL", help="as few bytes as keep the mean KL below this")
    group.add_argument("--prior", choices=("none", "classes", "replay"), help="what the reader knows beforehand")
    group.add_argument("--like", metavar="FILE", help="label file whose recipe and image classes hold here too")
    group.add_argument("--temperatures", type=_numbers, metavar="T,T", help="temperatures of the students (20)")
    group.add_argument("--form", choices=("auto", "product", "residual", "vqae"), help="layout of the books")
    group.add_argument("--beam", type=int, help="codes weighed for a label, 1 to 64: fewer are quicker and worse (64)")
    group.add_argument("--effort", type=float, help="time to spend, against the usual 1")
    group.add_argument("--seed", type=int, help="of everything random (0)")
    group.add_argument("--rows", type=int, help="rows to fit on (100000)")


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    decode = commands.add_parser("decode", help="write labels as a .npy file of float32")
    decode.add_argument("file")
    decode.add_argument("-o", "--out", required=True, metavar="NPY")
    decode.add_argument("--rows", metavar="A:B", default=":", help="rows A to B - 1")
    decode.add_argument("--temperature", type=float, metavar="T", help="probabilities at T instead of logits")
    decode.set_defaults(run=_later("commands", "decode"))
    inspect = commands.add_parser("inspect", help="say what a label file holds")
    inspect.add_argument("file")
    inspect.add_argument("--json", action="store_true", help="for programs")
    inspect.set_defaults(run=_later("inspection", "inspect"))
    verify = commands.add_parser("verify", help="compare everything in a label file with its checksums")
    verify.add_argument("file")
    verify.add_argument("--images", help=".npy of all images [N, c, H, W], to compare with the stored reference views")
    verify.set_defaults(run=_later("inspection", "verify"))
    compare = commands.add_parser("compare", help="put label files of one teacher side by side")
    compare.add_argument("files", nargs="+", metavar="FILE")
    compare.add_argument("--teacher", required=True, metavar="LOGITS", help=LOGITS)
    compare.add_argument("--rows", type=int, default=20_000, help="rows to compare on, drawn at random (20000)")
    compare.add_argument("--json", action="store_true", help="for programs")
    compare.add_argument("--plot", metavar="PNG", help="draw bytes against KL")
    compare.set_defaults(run=_later("compare", "compare"))


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
