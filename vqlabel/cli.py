"""The command `vqlabel`: make label files, look into them, check and compare them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from vqlabel._version import __version__
from vqlabel.errors import FormatError
from vqlabel.terminal import one_line, piped, say

LOGITS = (
    ".npy or .safetensors of logits [rows, classes], .npz or .safetensors of ids and log_probs [rows, k], a label "
    "file, or a folder of these"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 if all is well, 1 if the file is not, 2 if the command makes no sense."""
    try:
        with piped():
            options = _parser().parse_args(arguments)
            sys.exit(options.run(options))
    except (FormatError, OSError, ValueError, IndexError, EOFError) as error:
        say(f"error: {one_line(error)}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("vqlabel", description="Soft labels in a few bytes each.")
    parser.add_argument("--version", action="version", version=f"vqlabel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_makers(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_readers(commands)
    _add_budget(commands)
    _add_hub(commands)
    return parser


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """The command, imported when it runs: --help must not wait for torch."""
    return lambda options: int(getattr(import_module(f"vqlabel.{module}"), name)(options))


def _add_makers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fit = commands.add_parser("fit", help="fit a codec to logits")
    fit.add_argument("logits", help=LOGITS)
    fit.add_argument("-o", "--out", required=True, metavar="CODEC", help="where the codec is kept")
    _add_fit_options(fit, like=True)
    fit.set_defaults(run=_later("commands", "fit"))
    encode = commands.add_parser("encode", help="make a label file from logits; goes on where it was interrupted")
    encode.add_argument("logits", help=LOGITS)
    encode.add_argument("-o", "--out", required=True, metavar="LABELS", help="the label file")
    encode.add_argument("--codec", help="what `vqlabel fit` made; without it a codec is fitted first")
    encode.add_argument("--format", choices=("vq", "raw", "int8", "topk"), help="how to store a label (vq)")
    encode.add_argument("--k", type=int, help="logits that topk keeps (10; of ids and log_probs, all)")
    encode.add_argument("--teacher", type=_name, metavar="NAME", help="which model made the logits, for the metadata")
    _add_fit_options(encode, like=True)
    encode.set_defaults(run=_later("commands", "encode"))


def _add_convert(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    convert = commands.add_parser("convert", help="make a label file of somebody else's set of labels")
    convert.add_argument("set", help="folder of SRe2L, CDA, LPLD, LPQLD, FKD, TinyViT or DistillKit")
    convert.add_argument("out", metavar="LABELS", help="the label file")
    kinds = "sre2l, cda, lpld, lpqld, fkd, tinyvit or distillkit; found out if it is not said"
    convert.add_argument("--from", dest="kind", metavar="KIND", help=kinds)
    convert.add_argument(
        "--codec", choices=("raw", "int8", "topk", "vq"), help="how to store a label; without it, as it is in the set"
    )
    convert.add_argument("--k", type=int, help="logits that topk keeps (10)")
    convert.add_argument("--images", metavar="DIR|N", help="folder of the images, which tells their classes; or number")
    convert.add_argument("--classes", type=int, metavar="C", help="where the set does not say how many there are")
    convert.add_argument("--image-size", metavar="H[xW]", help="pixels of the images (--size); 0 if they differ")
    convert.add_argument("--size", type=int, help="pixels of a side of the views (224)")
    convert.add_argument("--seed-of-order", type=int, default=42, help="that the order of the images was drawn by (42)")
    convert.add_argument("--tail", choices=("drop", "uniform"), help="what classes have that a sparse label leaves out")
    convert.add_argument("--teacher", type=_name, metavar="NAME", help="which model made the labels, for the metadata")
    convert.add_argument("--keep-going", action="store_true", help="pass over files that are damaged or not there")
    convert.add_argument("--check", action="store_true", help="compare both sides, afterwards or of a file that exists")
    _add_fit_options(convert, like=False)
    convert.set_defaults(run=_later("convert.command", "convert"), like=None)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser("export", help="make a set of somebody else's kind of a label file")
    export.add_argument("file")
    export.add_argument("out", metavar="OUT", help="the folder of the set")
    export.add_argument("--to", choices=("distillkit",), required=True, help="labels of a language model")
    export.add_argument("--k", type=int, help="tokens of each position (50; of codec topk, all that it has)")
    _add_text(export)
    export.set_defaults(run=_later("export", "export"))


def _add_fit_options(command: argparse.ArgumentParser, *, like: bool) -> None:
    group = command.add_argument_group("fitting")
    rate = group.add_mutually_exclusive_group()
    rate.add_argument("--bytes", type=float, metavar="B", help="bytes of codes for each label (4)")
    rate.add_argument("--max-kl", type=float, metavar="KL", help="as few bytes as keep the mean KL below this")
    priors = ("none", "classes", "replay", "tokens")
    group.add_argument("--prior", choices=priors, help="what the reader knows beforehand")
    if like:
        _add_classes(command)
        group.add_argument("--like", metavar="FILE", help="label file whose recipe, classes or text hold here too")
        _add_text(command)
        keep = command.add_argument("--keep-text", action=argparse.BooleanOptionalAction, default=True)
        keep.help = "whether the text lies in the label file too, 4 bytes a token (yes)"
    group.add_argument("--temperatures", type=_numbers, metavar="T,T", help="temperatures of the students (20)")
    group.add_argument("--form", choices=("auto", "product", "residual", "vqae"), help="layout of the books")
    group.add_argument("--beam", type=int, help="codes weighed for a label, 1 to 64: fewer are quicker and worse (64)")
    group.add_argument("--top", type=int, help="classes of a label that get their own probability, for T = 1 (0)")
    group.add_argument("--effort", type=float, help="time to spend, against the usual 1")
    group.add_argument("--seed", type=int, help="of everything random (0)")
    group.add_argument("--rows", type=int, help="rows to fit on (100000)")
    group.add_argument("--memory", type=float, metavar="GIB", help="that they may take: of many classes few do (1)")


def _add_classes(command: argparse.ArgumentParser) -> None:
    what = "how many there are, where only k of them are told"
    command.add_argument("--classes", type=int, metavar="C", help=what)


def _add_text(command: argparse.ArgumentParser) -> None:
    what = ".npz of tokens [positions] and lengths [documents], or a label file"
    command.add_argument("--text", metavar="FILE", help=f"that the rows are positions of: {what} that holds a text")


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    decode = commands.add_parser("decode", help="write labels as a .npy file of float32")
    decode.add_argument("file")
    decode.add_argument("-o", "--out", required=True, metavar="NPY")
    decode.add_argument("--rows", metavar="A:B", default=":", help="rows A to B - 1")
    decode.add_argument("--temperature", type=float, metavar="T", help="probabilities at T instead of logits")
    _add_text(decode)
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
    _add_classes(compare)
    compare.add_argument("--rows", type=int, default=20_000, help="rows to compare on, drawn at random (20000)")
    compare.add_argument("--json", action="store_true", help="for programs")
    compare.add_argument("--plot", metavar="PNG", help="draw bytes against KL")
    _add_text(compare)
    compare.set_defaults(run=_later("compare", "compare"))


def _add_budget(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    budget = commands.add_parser("budget", help="say where the bytes of a distilled data set are, in every method")
    budget.add_argument("dataset", nargs="?", help="imagenet-1k, imagenet-21k, tiny-imagenet, cifar-10 or cifar-100")
    budget.add_argument("--classes", type=int, metavar="C", help="classes of a data set of your own")
    budget.add_argument("--image-bytes", type=int, metavar="B", help="bytes of one of its images, where they count")
    budget.add_argument("--ipc", type=int, help="images per class")
    budget.add_argument("--images", type=int, metavar="N", help="images in all, instead of --ipc")
    budget.add_argument("--method", action="append", metavar="NAME", help="this one; may be repeated (all)")
    budget.add_argument("--epochs", type=int, help="of labels, before any pruning (300; tiny-imagenet 100)")
    budget.add_argument("--batch", type=int, help="rows in a file of sre2l, cda, lpld and lpqld")
    budget.add_argument("--keep", type=float, metavar="P", help="part of the labels stored by lpld, lpqld, vqlabel")
    budget.add_argument("--k", type=int, help="logits that lpqld (50), tinyvit (100) and fkd (5) keep")
    budget.add_argument("--bytes", type=float, default=8, metavar="B", help="of codes for each label of vqlabel (8)")
    budget.add_argument("--prior", default="replay", help="of vqlabel: none, classes, replay (the default), image")
    budget.add_argument("--dtype", default="fp16", help="of logits and probabilities: fp16 (the default), fp32")
    budget.add_argument("--block", type=int, default=4096, help="bytes of a disk block, of which files take whole ones")
    budget.add_argument("--as-written", action="store_true", help="as many files as the writers of lpld, lpqld leave")
    budget.add_argument("--json", action="store_true", help="for programs")
    budget.add_argument("--plot", metavar="SVG", help="draw the shares of all bytes")
    budget.set_defaults(run=_later("budget.report", "report"))


def _add_hub(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    push = commands.add_parser("push", help="put a label file on the Hugging Face hub")
    push.add_argument("labels", help="the label file; a damaged one is not sent")
    push.add_argument("--private", action="store_true", help="if the repository is made: for you alone")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--card", action=argparse.BooleanOptionalAction, default=True, help="describe it in README.md")
    push.add_argument("--name", default="labels.safetensors", help="of the file there (labels.safetensors)")
    push.set_defaults(run=_later("hub", "push"))
    pull = commands.add_parser("pull", help="get a label file from the Hugging Face hub")
    pull.add_argument("-o", "--out", metavar="FILE", help="copy it here; without it, it stays in the hub's cache")
    pull.add_argument("--revision", help="branch, tag or commit (main)")
    pull.set_defaults(run=_later("hub", "pull"))
    for command in (push, pull):
        command.add_argument("repo_id", metavar="REPO_ID", help="such as name/imagenet-labels")
        command.add_argument("--repo-type", choices=("dataset", "model"), default="dataset", help="(dataset)")
    pull.add_argument("name", metavar="NAME", nargs="?", default="labels.safetensors", help="(labels.safetensors)")
    card = commands.add_parser("card", help="print what README.md on the hub would say of a label file")
    card.add_argument("labels", help="the label file")
    card.set_defaults(run=_later("card", "show"))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between them, such as 4,20, not {text!r}") from None


def _name(text: str) -> str:
    """A name that can be kept in a file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8") from None
    return text
