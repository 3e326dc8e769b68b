"""LabelEncoder: logits in, a label file out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vqlabel.codecs import load_codec
from vqlabel.codecs.base import Codec
from vqlabel.codecs.options import FitOptions
from vqlabel.creation import checked_tensors
from vqlabel.encoding import Blocks, Plan, begin, write_rows
from vqlabel.file import LabelFile, PathLike
from vqlabel.known import Information
from vqlabel.measure import measure
from vqlabel.ranks import Ranks
from vqlabel.sampling import draw
from vqlabel.scene import check_prior, check_stored, joined, with_images
from vqlabel.side import Views
from vqlabel.sources import open_source
from vqlabel.storage import full_path
from vqlabel.text import information_of
from vqlabel.tokens import TokenInformation
from vqlabel.torch_state import as_torch_starts

MOST_MEMORY = 2**20  # GiB that a sample may be allowed


class LabelEncoder:
    """A codec, what it knows of the rows beforehand, and how good it was found to be.

    Fitted with `fit`, or made of a codec that needs no fitting. Under torch.distributed every rank makes the same
    calls: fitting and encoding are shared out among them.

    >>> import numpy as np, tempfile
    >>> from vqlabel.codecs.raw import Raw
    >>> logits = np.random.default_rng(0).standard_normal((1000, 10)).astype(np.float32)
    >>> LabelEncoder(Raw(classes=10)).encode(logits, tempfile.mkdtemp() + "/labels.safetensors")
    LabelFile('labels.safetensors', codec='raw', rows=1000, row_bytes=20)
    """

    def __init__(self, codec: Codec, side: Information | None = None, measured: dict[str, Any] | None = None) -> None:
        if side is None and codec.tier != "none":
            raise ValueError(f"the prior of this codec is {codec.tier!r}: give side=, or a file that has it")
        if side is not None:
            _check_kind(side, codec.tier)
            side.check(codec.classes)
            _check_prior(side, codec)
        self.codec = codec
        self.side = side
        self.measured = measured
        self.temperatures: tuple[float, ...] = ()

    def __repr__(self) -> str:
        codec = self.codec
        return f"LabelEncoder({codec.id}, C={codec.classes}, row_bytes={codec.row_bytes}, prior={codec.tier!r})"

    @classmethod
    def fit(
        cls,
        source: Any,
        *,
        side: Information | None = None,
        rows: int = 100_000,
        held_out: int = 5_000,
        memory: float = 1.0,
        progress: bool | Callable[[str], None] = True,
        **options: Any,
    ) -> LabelEncoder:
        """Fit a `vq` codec on a random choice of rows, and measure it on others.

        source is what `open_source` takes, options are those of FitOptions. The rows are in memory, and may take
        `memory` GiB: of large vocabularies few do, and on few rows a codec learns what is only true of them. progress
        may be a function that is told what happens; True tells a terminal.
        """
        from vqlabel.codecs.fitting import fit

        asked = FitOptions(**options)
        opened = open_source(source)
        _check_fit(opened, side, asked, rows, held_out)
        if not 0 < memory <= MOST_MEMORY:
            raise ValueError(f"memory must be above 0 and at most {MOST_MEMORY} GiB, got {memory}")
        say = _speaker(progress)
        sizes: dict[str, Any] = {"rows": rows, "held_out": held_out, "seed": asked.seed, "memory": memory}
        sample, held = draw(opened, side, tier=asked.prior, say=say, **sizes)
        with as_torch_starts():
            codec = fit(sample, asked, held if held.total else sample, say)
            encoder = cls(codec, side, measure(codec, held) if held.total else None)
        encoder.temperatures = asked.temperatures
        return encoder

    def encode(
        self,
        source: Any,
        path: PathLike,
        *,
        metadata: Mapping[str, Any] | None = None,
        tensors: Mapping[str, NDArray[Any]] | None = None,
        progress: bool = True,
    ) -> LabelFile:
        """Label file of all rows of a source. What an interrupted run left at path.partial is gone on with.

        metadata are more keys of FORMAT.md, such as `teacher`, and yours, which begin with "x."; tensors are more of
        its tensors, and yours. Neither may contradict what the encoder itself writes.
        """
        self.codec.check_encodes()
        opened, ranks = open_source(source), Ranks.here()
        if opened.classes != self.codec.classes:
            raise ValueError(f"the codec is for {self.codec.classes} classes, but the logits have {opened.classes}")
        blocks = Blocks(self.codec, opened, self.side)
        plan = self._plan(path, opened.rows, metadata or {})
        plan.tensors.update(_more_tensors(plan, checked_tensors(tensors or {})))
        check_stored(plan.tensors, plan.metadata)
        writer = begin(plan, ranks)
        try:
            write_rows(writer, blocks, ranks, progress=progress)
            ranks.wait()
            if ranks.rank == 0:
                writer.close()
        finally:
            writer.detach()
        ranks.wait()
        return LabelFile(plan.path)

    @as_torch_starts()
    def save(self, path: PathLike, *, metadata: Mapping[str, Any] | None = None) -> None:
        """Keep a fitted codec: a label file without rows, with what only encoding needs. `load` takes it up again."""
        plan = self._plan(path, 0, metadata or {})
        tensors = {**plan.tensors, **self.codec.search_tensors()}
        sizes = {"rows": 0, "row_bytes": plan.row_bytes}
        LabelFile.create(plan.path, **sizes, tensors=tensors, metadata=plan.metadata).close()

    @classmethod
    def load(cls, path: PathLike, views: Views | None = None, *, side: Information | None = None) -> LabelEncoder:
        """Encoder that `save` kept. views makes the pixels for a prior that looks at them.

        side replaces the side information of the file, which holds no stored views: of a codec that was fitted with
        them, it is needed.
        """
        file = LabelFile(path)
        if side is None and len(file) == 0:
            check_stored(file.tensor_names, file.metadata)
        encoder = cls(load_codec(file), side or information_of(file, views), file.metadata.get("measured"))
        encoder.temperatures = tuple(file.metadata.get("temperatures", ()))
        return encoder

    def _plan(self, path: PathLike, rows: int, metadata: Mapping[str, Any]) -> Plan:
        codec = {"id": self.codec.id, **self.codec.config()}
        facts: dict[str, Any] = {"codec": codec, "classes": self.codec.classes}
        if self.temperatures:
            facts["temperatures"] = list(self.temperatures)
        if self.measured is not None:
            facts["measured"] = self.measured
        tensors = self.codec.tensors()
        if self.side is not None:
            facts |= self.side.facts(rows)
            tensors = {**tensors, **self.side.tensors(rows)}
        both = joined(facts, metadata, tier=self.codec.tier)
        return Plan(full_path(path), rows, self.codec.row_bytes, tensors, with_images(both, rows))


def _more_tensors(plan: Plan, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Those that are not the encoder's own; ValueError for one that is, with other numbers."""
    changed = [name for name in given if name in plan.tensors and not np.array_equal(given[name], plan.tensors[name])]
    if changed:
        raise ValueError(
            f"tensor {changed[0]!r} is what the encoder itself writes, and was given with other numbers: leave it out; "
            "yours begin with 'x.'"
        )
    return {name: tensor for name, tensor in given.items() if name not in plan.tensors}


def _check_fit(source: Any, side: Information | None, options: FitOptions, rows: int, held_out: int) -> None:
    if not source.any_order:
        raise ValueError(
            "an iterator gives its rows once, but fitting and encoding both need them: give an array, a path, a "
            "function of row numbers, or an object that can be iterated again"
        )
    if len(source) == 0:
        raise ValueError("the source has no rows to fit on")
    if rows < 1 or held_out < 0:
        raise ValueError(f"rows must be at least 1 and held_out at least 0, got {rows} and {held_out}")
    if side is None and options.prior != "none":
        what, told = ("text", "--text") if options.prior == "tokens" else ("images", "--like")
        raise ValueError(f"prior {options.prior!r} needs to know the {what} behind the rows: give side=, or {told}")
    if side is not None:
        _check_kind(side, options.prior)
        side.check(source.classes)
    if isinstance(side, TokenInformation):
        side.check_rows(len(source))


def _check_kind(side: Information, prior: str) -> None:
    """ValueError if the prior looks at images and this is a text, or the other way round."""
    if prior != "none" and isinstance(side, TokenInformation) != (prior == "tokens"):
        raise ValueError(
            f"prior {prior!r} does not go with a {type(side).__name__}: 'tokens' takes a TokenInformation, all others "
            "a SideInformation"
        )


def _check_prior(side: Information, codec: Codec) -> None:
    """ValueError if the codec was fitted for other images than the side information is of: nobody could decode it."""
    try:
        check_prior(side, getattr(codec, "shape", None))
    except ValueError as error:
        raise ValueError(f"the codec was fitted with other side information: {error}") from None


def _speaker(progress: bool | Callable[[str], None]) -> Callable[[str], None]:
    if Ranks.here().rank or not progress:
        return lambda words: None
    if callable(progress):
        return progress
    return lambda words: print(words, file=sys.stderr) if sys.stderr.isatty() else None
