"""`vqlabel inspect` and `vqlabel verify`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from vqlabel.file import LabelFile
from vqlabel.format import CODES
from vqlabel.sequences import KEY, STARTS
from vqlabel.terminal import one_line, safe, say


def inspect(options: argparse.Namespace) -> int:
    """Print what a label file holds and what a label costs."""
    file = LabelFile(options.file)
    if options.json:
        print(json.dumps(_summary(file), indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    sizes = Table("what", "type", "shape", "bytes", title=safe(os.path.basename(file.path)), title_justify="left")
    for name, tensor in file.header.tensors.items():
        shape = " x ".join(map(str, tensor.shape))
        sizes.add_row(safe(name), str(tensor.dtype), shape, f"{tensor.nbytes:,}")
    sizes.add_row("header", "", "", f"{len(file.header.raw):,}")
    sizes.add_row("file", "", "", f"{file.header.file_bytes:,}", end_section=True)
    facts = Table("key", "value", show_header=False, title="metadata", title_justify="left")
    for key, value in file.metadata.items():
        facts.add_row(safe(key), safe(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)))
    costs = Table("what", "value", show_header=False, title="labels", title_justify="left")
    for what, text in label_facts(file):
        costs.add_row(what, safe(text))
    console = Console()
    for table in (sizes, facts, costs):
        console.print(table)
    return 0


def label_facts(file: LabelFile) -> Iterator[tuple[str, str]]:
    """What a label is, what it costs and how good it was measured to be, in words."""
    yield "codec", in_words(file.metadata["codec"])
    yield "bytes a label, codes", f"{file.row_bytes:,}"
    all_in = file.header.file_bytes / len(file) if len(file) else 0
    yield "bytes a label, all in", f"{all_in:.3f}" if len(file) else "-"
    if len(file) and "classes" in file.metadata:
        yield "times smaller than fp16", f"{2 * file.metadata['classes'] / all_in:,.1f}"
    starts = file.header.tensors.get(STARTS)
    if starts is not None and len(starts.shape) == 1:
        keep = file.metadata.get(KEY, {}).get("keep")
        which = "those of a mask" if keep == "mask" else one_line(f"{json.dumps(keep):.80}")
        rule = f", of whose positions these are kept: {which}" if keep else ""
        yield "sequences", f"{max(starts.shape[0] - 1, 0):,}{rule}"
    measured = file.metadata.get("measured", {})
    found = measured.get("kl", {})
    for temperature, value in found.items() if isinstance(found, dict) else ():
        yield f"mean KL at T = {one_line(temperature)}", _number(value, ".3e")
    if "top1" in measured:
        yield "same first class as the teacher", _number(measured["top1"], ".2%")
    if "used" in measured:
        yield "codewords in use", _number(measured["used"], ".1%")
    if "entropy" in measured:
        yield "entropy of a code, bits", _number(measured["entropy"], ".2f")
    if "rows" in measured:
        yield "measured on held-out rows", _number(measured["rows"], ",")


def _number(value: Any, form: str) -> str:
    sound = isinstance(value, (int, float)) and abs(value) < 2**63  # a file may claim anything
    return format(value, form) if sound else one_line(f"{json.dumps(value)!s:.80}")


def in_words(codec: Mapping[str, Any]) -> str:
    """One line about a codec's settings."""
    words = {
        "raw": f"every logit as {'float32' if codec.get('dtype') == 'F32' else 'float16'}",
        "int8": "every logit in 8 bits, with a scale for each label",
        "topk": f"the {codec.get('k', '?')} largest logits",
    }
    if codec["id"] == "vq" and codec.get("G") == 0:
        return f"no codes: each label comes from its prior, {_prior(codec)}"
    if codec["id"] == "vq":
        form = f" from {codec['form']} books" if isinstance(codec.get("form"), str) else ""
        codes = f"{codec.get('G', '?')} codes of {codec.get('nbits', '?')} bits"
        return f"{codes}{form}, prior: {_prior(codec)}"
    if codec["id"] == "vq+top" and isinstance(codec.get("vq"), dict):
        codes = in_words({**codec["vq"], "id": "vq", "prior": codec.get("prior")})
        return f"{codes}; then {codec.get('top', '?')} corrected classes"
    return words.get(codec["id"], f"{codec['id']!r}, which this vqlabel does not know")


def _prior(codec: Mapping[str, Any]) -> str:
    prior = codec.get("prior") or {"tier": "none"}
    return str(prior.get("tier", "unnamed") if isinstance(prior, dict) else prior)


def _summary(file: LabelFile) -> dict[str, Any]:
    tensors = {
        name: {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "bytes": tensor.nbytes}
        for name, tensor in file.header.tensors.items()
    }
    return {
        "path": file.path,
        "rows": len(file),
        "row_bytes": file.row_bytes,
        "file_bytes": file.header.file_bytes,
        "metadata": file.metadata,
        "tensors": tensors,
    }


def verify(options: argparse.Namespace) -> int:
    """Compare a label file with its checksums, and images with its reference views."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    file, images, console = LabelFile(options.file), _images(options.images), Console(stderr=True)
    columns = TextColumn("checking"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=file.header.tensors[CODES].nbytes)
        verdict = file.verify(lambda count: progress.advance(task, count), images=images)
    if verdict:
        views = ", and the images are the ones" if options.images else ""
        print(f"{one_line(file.path)}: {verdict}{views} ({len(file):,} rows, {len(file.tensor_names)} tensors)")
        return 0
    say(f"{one_line(file.path)}: {one_line(verdict)}" + ("" if verdict.bad_views else "; fetch the file again"))
    return 1


def _images(path: str | None) -> Any:
    if path is None:
        return None
    import numpy as np
    import torch

    what = f"{path}: --images is a .npy file of pixels [N, c, H, W], uint8 or floats"
    try:
        images = np.lib.format.open_memmap(path, mode="c")  # a few of them are looked at
    except (ValueError, EOFError) as error:
        raise ValueError(f"{what}: {error}") from None
    if images.dtype != np.uint8 and (images.dtype.kind != "f" or images.dtype.itemsize > 8):
        raise ValueError(f"{what}, got {images.dtype} {list(images.shape)}")
    return torch.from_numpy(images.astype(images.dtype.newbyteorder("="), copy=False))
