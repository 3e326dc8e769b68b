"""Top-k: what is kept, what the tails mean, ids in as few bits as there are, and none that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import largest

from vqlabel import Corrupt, reference
from vqlabel.codecs.topk import TopK
from vqlabel.measure import kl


def logits(rows: int, classes: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(0)) * scale + 5


@pytest.mark.parametrize("classes", [2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("k", [1, 2, 5, 1000])
def test_the_largest_are_kept_and_equal_ones_by_class(classes: int, k: int) -> None:
    k = min(k, classes)
    x = logits(8, classes)
    x[4:] = x[4:].round()  # hardly two of these differ
    x[7] = 1.0
    codec = TopK(classes, k)
    rows = codec.encode(x)
    ids = reference.unpack(np.ascontiguousarray(rows[:, 2 * k :]), codec.id_bits, k)
    np.testing.assert_array_equal(ids, largest(x, k))
    values = rows[:, : 2 * k].copy().view(np.float16)
    found = np.take_along_axis(x.numpy(), ids.astype(int), 1)
    np.testing.assert_allclose(values, found - found.max(1, keepdims=True), rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize(("classes", "bits"), [(2, 1), (3, 2), (8, 3), (9, 4), (65536, 16), (65537, 17), (2**24, 24)])
def test_ids_take_as_many_bits_as_they_need(classes: int, bits: int) -> None:
    codec = TopK(classes, 1, values="U8", tail="uniform")
    assert (codec.id_bits, codec.row_bits) == (bits, 16 + 32 + 8 + bits)
    rows = np.zeros((1, codec.row_bytes), np.uint8)
    rows[0, 7:] = reference.pack(np.array([[classes - 1]], reference.code_dtype(bits)), bits)[0]
    if classes < 2**24:
        assert int(codec.decode(rows).sub(1).argmax()) in (0, classes - 1)


def test_drop_is_the_softmax_of_what_is_kept_at_every_temperature() -> None:
    x, k = logits(6, 100), 7
    decoded = TopK(100, k).decode(TopK(100, k).encode(x))
    for temperature in (0.01, 1.0, 20.0, 1000.0):
        wanted = np.zeros((6, 100))
        for row, ids in enumerate(largest(x, k)):
            powers = np.exp((x[row, ids].double().numpy() - x[row].max().item()) / temperature)
            wanted[row, ids] = powers / powers.sum()
        found = (decoded / temperature).softmax(1)
        np.testing.assert_allclose(found, wanted, rtol=0.005 / min(temperature, 1), atol=1e-6)
        assert (found.gather(1, x.argsort(1)[:, : 100 - k]) == 0).all()
        assert kl(x, decoded, temperature).isfinite().all()
        assert kl(decoded, x, temperature).isfinite().all()


@pytest.mark.parametrize("values", ["F16", "U8"])
@pytest.mark.parametrize("k", [1, 10, 99, 100])
def test_uniform_keeps_the_mass_at_temperature_one(k: int, values: str) -> None:
    x, codec = logits(50, 100, scale=1.0), TopK(100, k, tail="uniform", values=values)
    decoded = codec.decode(codec.encode(x))
    ids = torch.from_numpy(largest(x, k))
    wanted, found = x.softmax(1), decoded.softmax(1)
    torch.testing.assert_close(found.gather(1, ids).sum(1), wanted.gather(1, ids).sum(1), rtol=2e-3, atol=2e-3)
    assert decoded.mean(1).abs().max() < 1e-5
    if k < 99:
        rest = found.scatter(1, ids, 0.0)
        assert (rest[rest > 0].reshape(50, -1).diff(dim=1) == 0).all()


def test_a_tail_of_no_mass_is_no_trouble() -> None:
    x = torch.full((1, 10), -30000.0)
    x[0, 3] = 30000.0
    codec = TopK(10, 1, tail="uniform")
    assert codec.decode(codec.encode(x)).softmax(1)[0, 3] == 1
    assert codec.decode(codec.encode(x * 2)).softmax(1)[0, 3] == 1, "the tail may lie lower than fp16 goes"


@pytest.mark.parametrize("ids", [[5, 6], [3, 3], [4, 1], [0, 7]])
def test_impossible_ids_are_corrupt(ids: list[int]) -> None:
    codec = TopK(5, 2)
    rows = codec.encode(logits(3, 5))
    rows[1, 4:] = reference.pack(np.array([ids], np.uint8), 3)[0]
    with pytest.raises(Corrupt, match="row 1 of these does not name 2 of 5 classes in rising order"):
        codec.decode(rows)
