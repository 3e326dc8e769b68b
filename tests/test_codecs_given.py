"""Codecs that keep what a foreign set says to the last bit: raw floats, logits and probabilities of a few classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from numpy.typing import NDArray

from vqlabel import LabelDecoder, LabelEncoder
from vqlabel.codecs.raw import Raw
from vqlabel.codecs.topk import DROPPED, TAILS, TopK
from vqlabel.sources import SparseSource


def logits(rows: int, classes: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)) * scale + 5


def test_the_bytes_of_probabilities_are_these_for_ever() -> None:
    rows = TopK(5, 2, tail="uniform", values="P16").encode(torch.tensor([[0.0, 3.0, -1.0, 2.0, 1.0]]))
    assert rows.tobytes().hex() == "17397e3319"
    assert "`1739 7e33 19`" in (ROOT / "CODECS.md").read_text()


@pytest.mark.parametrize(("dtype", "kind"), [("F16", torch.float16), ("F32", torch.float32)])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_raw_gives_back_what_it_was_given(dtype: str, kind: torch.dtype, rows: int) -> None:
    codec, x = Raw(7, dtype=dtype, as_given=True), logits(rows, 7).to(kind)
    packed = codec.encode(x)
    assert packed.shape == (rows, codec.row_bytes) == (rows, 7 * kind.itemsize)
    assert torch.equal(codec.decode(packed).to(kind), x)


def test_raw_float32_is_centred_unless_it_keeps_what_is_given() -> None:
    x = logits(5, 7)
    found = Raw(7, dtype="F32").decode(Raw(7, dtype="F32").encode(x))
    torch.testing.assert_close(found, x - x.mean(1, keepdim=True), atol=2**-12, rtol=0)
    torch.testing.assert_close(found.softmax(1), x.softmax(1))


def test_what_would_be_rounded_is_refused() -> None:
    with pytest.raises(ValueError, match="to keep torch.float32 as it is takes another dtype than F16"):
        Raw(7, as_given=True).encode(logits(1, 7))
    with pytest.raises(ValueError, match="to keep torch.float32 as it is takes more than fp16"):
        TopK(7, 2, as_given=True).encode_kept(torch.tensor([[0, 1]]), torch.ones(1, 2))
    with pytest.raises(ValueError, match="values 'U8' with tail 'drop' are always measured from the largest"):
        TopK(7, 2, values="U8", as_given=True)


def test_a_logit_that_is_not_finite_is_refused_as_given_too() -> None:
    x = logits(3, 7).half()
    x[1, 2] = torch.nan
    with pytest.raises(ValueError, match="row 1 holds NaN"):
        Raw(7, as_given=True).encode(x)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("k", [1, 3, 9])
def test_probabilities_come_back_as_they_were(tail: str, k: int) -> None:
    told = torch.rand(50, k, generator=torch.Generator().manual_seed(1)).half() / k
    told[0, 0] = 0
    ids = torch.rand(50, 9, generator=torch.Generator().manual_seed(2)).argsort(1)[:, :k]
    codec = TopK(9, k, tail=tail, values="P16")
    assert codec.row_bytes == 2 * k + (4 * k + 7) // 8
    found = codec.decode(codec.encode_kept(ids, told)).exp()
    kept = found.gather(1, ids)
    assert torch.equal(kept.half(), told)
    rest = found.scatter(1, ids, 0.0).sum(1)
    wanted = 1 - told.float().sum(1) if tail == "uniform" and k < 9 else torch.zeros(50)
    torch.testing.assert_close(rest, wanted, atol=1e-6, rtol=1e-5)


def test_probabilities_of_logits_are_those_at_temperature_one() -> None:
    x = logits(20, 30)
    codec = TopK(30, 4, tail="uniform", values="P16")
    found, wanted = codec.decode(codec.encode(x)).exp(), x.softmax(1)
    ids = x.topk(4, dim=1).indices
    torch.testing.assert_close(found.gather(1, ids), wanted.gather(1, ids), rtol=2**-10, atol=1e-7)
    torch.testing.assert_close(found.sum(1), torch.ones(20))


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match=r"row 1 has \[1.5\] for probabilities, but they are 0 to 1"):
        TopK(3, 1, values="P16").encode_kept(torch.tensor([[0], [1]]), torch.tensor([[0.5], [1.5]]))


class Told(SparseSource):
    """Rows of which a few classes are told."""

    def __init__(self, ids: torch.Tensor, values: torch.Tensor, classes: int, **facts: Any) -> None:
        super().__init__(len(ids), classes, ids.shape[1], **facts)
        self._ids, self._values = ids, values

    def _kept(self, indices: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        return self._ids[indices], self._values[indices]


def test_a_sparse_source_is_stored_without_ever_being_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, values = torch.tensor([[4, 0], [1, 2]]), torch.tensor([[3.0, 1.5], [9.0, -2.0]]).half()
    source = Told(ids, values, 5, tail="drop", probabilities=False)
    monkeypatch.setattr(SparseSource, "_dense", None)
    LabelEncoder(TopK(5, 2, as_given=True)).encode(source, tmp_path / "a.safetensors")
    found = LabelDecoder(tmp_path / "a.safetensors")([0, 1], output="logits")
    assert found.tolist() == [[1.5, DROPPED, DROPPED, DROPPED, 3.0], [DROPPED, 9.0, -2.0, DROPPED, DROPPED]]


def test_a_tail_that_is_told_makes_a_sparse_source_dense(tmp_path: Path) -> None:
    source = Told(torch.tensor([[4, 0]]), torch.tensor([[0.5, 0.2]]), 5, tail="uniform", probabilities=True)
    wanted = torch.tensor([[0.2, 0.1, 0.1, 0.1, 0.5]])
    torch.testing.assert_close(source.read(range(1)).exp(), wanted)
    torch.testing.assert_close(source.take(np.array([0])).exp(), wanted)
    LabelEncoder(Raw(5)).encode(source, tmp_path / "a.safetensors")
    torch.testing.assert_close(LabelDecoder(tmp_path / "a.safetensors")([0]), wanted, rtol=1e-3, atol=1e-3)


def test_what_nobody_knows_is_not_made_up() -> None:
    source = Told(torch.tensor([[4, 0]]), torch.tensor([[0.5, 0.2]]), 5, tail="drop", probabilities=False)
    with pytest.raises(
        ValueError, match="tell of 2 of 5 classes, and nothing of the others: they can be stored as topk"
    ):
        source.read(range(1))


@pytest.mark.parametrize("ids", [[5, 0], [-1, 0], [2, 2]])
def test_classes_that_cannot_be_are_named_with_their_row(ids: list[int]) -> None:
    source = Told(torch.tensor([[0, 1], ids]), torch.ones(2, 2), 5, tail="drop", probabilities=False)
    with pytest.raises(ValueError, match="row 1 tells of classes .* they must be 2 different ones of 5"):
        source.kept(range(2))
