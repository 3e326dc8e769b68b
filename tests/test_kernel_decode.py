"""Decoding kernels: what reference.py says, as exactly as torch at the same dtype, on every path."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from compiled import count, reports
from interpret import DEVICE
from kernel_models import Case, Drawn, budget, error
from torch.nn import functional
from vqlabel.kernels import _launch, plain
from vqlabel.kernels import decode as kernels
from vqlabel.kernels.tables import largest, make_tables, two_powers

from vqlabel import reference

# Interpreted, a kernel casts its padding, which no compiled one stores, where NumPy can complain of it.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
CASES = [
    Case(),
    Case(form="residual"),
    Case(C=1, B=1),
    Case(C=2, G=1, nbits=1, R=1, prior=False),
    Case(G=0, B=5),
    Case(G=0, B=2, prior=False),
    Case(form="residual", G=1, nbits=16, C=3, R=9),
    Case(form="residual", nbits=11, G=9, B=2),
    Case(nbits=8, G=4, R=23, C=130, B=17),
    Case(nbits=13, G=2, R=19, owner=(1,) * 18 + (0,)),
    Case(nbits=10, G=5, R=24, prior=False),
    Case(nbits=5, G=16, R=48, C=100, prior=False),
    Case(hidden=9, R=17),
    Case(hidden=70, R=33, form="residual", C=20),
    Case(hidden=6, linear=False, prior=False),
    Case(hidden=3, linear=False, R=17),
    Case(hidden=40, linear=False, form="residual", G=2, nbits=14, B=1),
    Case(G=0, hidden=3, C=5),
    Case(R=150, G=24, nbits=2, C=9, B=2),
    Case(R=130, G=2, nbits=2, form="residual", hidden=200, C=9, B=2),
    Case(C=1000, nbits=8, G=4, R=48),
    Case(C=1100, nbits=8, G=2, R=20),
]
FLOATS = [torch.float32, torch.float16]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=["fp32", "fp16"])
OUTPUTS = {
    "probs": lambda logits, T: torch.softmax(logits / T, 1),
    "log_probs": lambda logits, T: torch.log_softmax(logits / T, 1),
    "logits": lambda logits, T: logits,
}


def tables_of(drawn: Drawn, dtype: torch.dtype) -> Any:
    """Tables for a kernel; where float32 ones are too wide for it, the test has nothing to run."""
    tables = drawn.tables(dtype)
    if not plain_only(tables):
        return tables
    with pytest.raises(ValueError, match="columns of torch.float32 are more than the 128"):
        kernels.decode(drawn.rows, tables, **drawn.given)
    return None


def plain_only(tables: Any) -> bool:
    return max(tables.width, tables.latent_width) > (128 if tables.weight.dtype == torch.float32 else 512)


@EVERY
def test_plain_torch_is_the_reference(case: Case) -> None:
    drawn = Drawn(case, DEVICE)
    truth = drawn.truth()
    found = plain.logits(drawn.rows, drawn.tables(torch.float64), **drawn.given)
    assert found.dtype == torch.float64
    assert error(found, truth) <= 1e-13 * max(1, float(truth.abs().max()))


@pytest.mark.parametrize("nbits", range(1, 17))
def test_codes_are_unpacked_at_every_width(nbits: int) -> None:
    for G in (1, 3, 9):
        drawn = Drawn(Case(form="residual", G=G, nbits=nbits, R=1), DEVICE)
        codes = plain.unpack(drawn.rows, drawn.tables(torch.float32)).cpu().numpy()
        np.testing.assert_array_equal(codes, reference.unpack(drawn.rows.cpu().numpy(), nbits, G))
        truth = drawn.truth()
        found = kernels.decode(drawn.rows, drawn.tables(torch.float32), **drawn.given, output="logits")
        assert error(found, truth) <= budget(drawn.of_torch(torch.float32), truth, torch.float32)


@DTYPES
@EVERY
def test_labels_are_as_exact_as_those_of_torch(case: Case, dtype: torch.dtype) -> None:
    drawn, T = Drawn(case, DEVICE), 1.5
    tables = tables_of(drawn, dtype)
    if tables is None:
        return
    for output, function in OUTPUTS.items():
        truth, own = function(drawn.truth(), T), function(drawn.of_torch(dtype), T)
        for label_dtype in FLOATS:
            found = kernels.decode(drawn.rows, tables, **drawn.given, temperature=T, output=output, dtype=label_dtype)
            assert found.shape == (case.B, case.C)
            assert found.dtype == label_dtype
            least = max((dtype, label_dtype), key=lambda d: torch.finfo(d).eps)
            assert error(found, truth) <= budget(own, truth, least, float(drawn.truth().abs().max()) / T)


@DTYPES
@pytest.mark.parametrize("case", [Case(C=1, B=1), Case(C=130, B=33), Case(C=1000, R=40), Case(C=9, hidden=9)], ids=str)
def test_rows_that_fit_come_out_the_same_in_two_passes(
    case: Case, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Drawn(case, DEVICE)
    tables, taken = drawn.tables(dtype), []
    for name in ("row_kernel", "stats_kernel", "write_kernel"):
        monkeypatch.setattr(kernels, name, Spy(getattr(kernels, name), name, taken))
    assert kernels.path(tables, "probs", None) == "row"
    for output in ("probs", "log_probs"):
        rows = kernels.decode(drawn.rows, tables, **drawn.given, output=output)
        with monkeypatch.context() as forced:
            forced.setattr(kernels, "path", lambda *_: "twice")
            twice = kernels.decode(drawn.rows, tables, **drawn.given, output=output)
        torch.testing.assert_close(rows, twice, rtol=2e-6, atol=2e-6)
    assert taken == ["row_kernel", "stats_kernel", "write_kernel"] * 2


class Spy:
    """A kernel that notes its launches."""

    def __init__(self, kernel: Any, name: str, taken: list[str]) -> None:
        self.kernel, self.name, self.taken = kernel, name, taken

    def __getitem__(self, grid: Any) -> Any:
        self.taken.append(self.name)
        return self.kernel[grid]


@pytest.mark.parametrize("C", [1, 7, 1000, 1100])
def test_with_the_logsumexp_at_hand_one_pass_is_enough(C: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, T, taken = Drawn(Case(C=C), DEVICE), 2.0, []
    lse = torch.logsumexp(drawn.truth() / T, 1).float().to(DEVICE)
    for name in ("row_kernel", "stats_kernel", "write_kernel"):
        monkeypatch.setattr(kernels, name, Spy(getattr(kernels, name), name, taken))
    tables = drawn.tables(torch.float32)
    found = kernels.decode(drawn.rows, tables, **drawn.given, temperature=T, lse=lse)
    assert taken == ["write_kernel"]
    assert error(found, torch.softmax(drawn.truth() / T, 1)) <= 1e-6
    torch.testing.assert_close(found, plain.decode(drawn.rows, tables, **drawn.given, temperature=T, lse=lse))


def test_the_logsumexp_need_not_lie_in_one_piece() -> None:
    drawn = Drawn(Case(), DEVICE)
    arguments, known = (drawn.rows, drawn.tables(torch.float32)), torch.tensor([3.0, 4.0, 5.0], device=DEVICE)
    column = torch.stack([known, known + 9], 1)[:, 0]
    assert torch.equal(kernels.decode(*arguments, lse=column), kernels.decode(*arguments, lse=known))
    same = known[:1].expand(3)
    assert torch.equal(kernels.decode(*arguments, lse=same), kernels.decode(*arguments, lse=same.clone()))


@pytest.mark.parametrize("C", [7, 1100])
@pytest.mark.parametrize("hot", [1e-15, 1e15])
def test_labels_at_extreme_temperatures_are_those_of_torch(C: int, hot: float) -> None:
    drawn = Drawn(Case(C=C), DEVICE)
    arguments = drawn.rows, drawn.tables(torch.float32)
    found = kernels.decode(*arguments, **drawn.given, temperature=hot)
    torch.testing.assert_close(found, plain.decode(*arguments, **drawn.given, temperature=hot))
    torch.testing.assert_close(found.sum(1).cpu(), torch.ones(3))


@pytest.mark.parametrize("four", [torch.tensor(4), torch.tensor([4.0]), torch.tensor([[4.0]], dtype=torch.float64)])
def test_a_temperature_may_be_a_tensor_of_one_number(four: torch.Tensor) -> None:
    drawn = Drawn(Case(), DEVICE)
    arguments = drawn.rows, drawn.tables(torch.float32)
    found = kernels.decode(*arguments, **drawn.given, temperature=four)
    assert torch.equal(found, kernels.decode(*arguments, **drawn.given, temperature=4.0))


def test_many_classes_are_split_and_put_together() -> None:
    drawn = Drawn(Case(C=1100, R=20, B=2), DEVICE)
    tables = drawn.tables(torch.float16)
    assert kernels.path(tables, "probs", None) == "twice"
    config = kernels.tiles_of(tables.width, torch.float16, torch.float16)
    assert _launch.cut(2, tables, config).splits > 1
    found = kernels.decode(drawn.rows, tables, **drawn.given)
    torch.testing.assert_close(found.sum(1).cpu(), torch.ones(2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("B", [0, 1, 129, 300])
def test_any_number_of_rows(B: int) -> None:
    drawn = Drawn(Case(B=B), DEVICE)
    for output, function in OUTPUTS.items():
        found = kernels.decode(drawn.rows, drawn.tables(torch.float32), **drawn.given, output=output)
        assert found.shape == (B, 7)
        assert error(found, function(drawn.truth(), 1)) <= 1e-5


def test_rows_and_priors_need_not_lie_in_one_piece() -> None:
    drawn = Drawn(Case(nbits=11, B=5), DEVICE)
    tables = drawn.tables(torch.float32)
    whole = kernels.decode(drawn.rows[::2], tables, h0=drawn.given["h0"][::2], spread=drawn.given["spread"][::2])
    wide = torch.cat([drawn.rows, drawn.rows], 1)[::2, : tables.row_bytes]
    turned = drawn.given["h0"].T.contiguous().T[::2]
    assert torch.equal(kernels.decode(wide, tables, h0=turned, spread=drawn.given["spread"][::2]), whole)


@pytest.mark.parametrize("output", OUTPUTS)
def test_labels_can_be_written_where_the_caller_wants(output: str) -> None:
    drawn = Drawn(Case(C=11, B=4), DEVICE)
    tables = drawn.tables(torch.float16)
    memory = torch.full((4, 13), 7.0, dtype=torch.float16, device=DEVICE)
    found = kernels.decode(drawn.rows, tables, **drawn.given, output=output, out=memory[:, :11])
    assert found.data_ptr() == memory.data_ptr()
    assert torch.equal(found, kernels.decode(drawn.rows, tables, **drawn.given, output=output, dtype=torch.float16))
    assert (memory[:, 11:] == 7).all()  # nothing beyond the classes is touched


def test_rows_of_labels_begin_at_16_bytes() -> None:
    drawn = Drawn(Case(C=11), DEVICE)
    for dtype, stride in ((torch.float32, 12), (torch.float16, 16)):
        for output in OUTPUTS:
            found = kernels.decode(drawn.rows, drawn.tables(torch.float16), output=output, dtype=dtype)
            assert found.stride() == (stride, 1)
            assert (found.as_strided((3, stride), (stride, 1))[:, 11:] == 0).all()


def test_wrong_arguments_are_refused_with_their_shapes() -> None:
    drawn = Drawn(Case(B=2), DEVICE)
    tables, rows, h0 = drawn.tables(torch.float16), drawn.rows, drawn.given["h0"]
    elsewhere = dataclasses.replace(tables, weight=tables.weight.to("meta"))
    wrong: list[tuple[str, Any]] = [
        (r"rows must be uint8 \[B, 2\], got torch.uint8 \[2, 1\]", {"rows": rows[:, :1]}),
        (r"rows must be uint8 \[B, 2\], got torch.int64", {"rows": rows.long()}),
        (r"h0 must be floats \[2, 5\], got torch.float32 \[2, 4\]", {"h0": h0[:, :4]}),
        (r"spread must be floats \[2\], got torch.float32 \[2, 5\]", {"spread": h0}),
        (r"lse must be floats \[2\], got torch.int64 \[2\]", {"lse": torch.zeros(2, dtype=torch.int64, device=DEVICE)}),
        ("rows are on .*, but the tables are on meta", {"tables": elsewhere}),
        ("temperature must be a finite number above 0, got 0", {"temperature": 0.0}),
        ("temperature must be a finite number above 0, got nan", {"temperature": float("nan")}),
        ("temperature must be 1e-15 to 1e15, got 1e-16", {"temperature": 1e-16}),
        (r"temperature must be 1e-15 to 1e15, got 2e\+16", {"temperature": 2e16}),
        ("output must be one of probs, log_probs, logits, got 'p'", {"output": "p"}),
        ("labels can be float32, float16 or bfloat16, not torch.int8", {"dtype": torch.int8}),
        (r"out must be torch.float32 \[2, 7\] on .*, got torch.float32 \[2, 5\]", {"out": h0.float()}),
        ("each row of out must be in one piece", {"out": torch.zeros(7, 2, device=DEVICE).T}),
        ("columns of torch.float64 are more than the 0", {"tables": drawn.tables(torch.float64)}),
    ]
    for words, change in wrong:
        arguments = {"rows": rows, "tables": tables, **change}
        with pytest.raises(ValueError, match=words):
            kernels.decode(arguments.pop("rows"), arguments.pop("tables"), **arguments)


def test_tables_must_fit_their_layout() -> None:
    drawn = Drawn(Case(hidden=4), DEVICE)
    for name, words in (
        ("books", r"\(5, 8\)"),
        ("bias", r"\(7,\)"),
        ("inner_bias", r"\(4,\)"),
        ("weight", r"\(7, 9\)"),
    ):
        weights = {**drawn.weights, name: drawn.weights[name][..., :-1]}
        with pytest.raises(ValueError, match=f"'{name}' is .* need {words}"):
            make_tables(weights, drawn.layout)
    with pytest.raises(ValueError, match="not torch.int8"):
        make_tables(drawn.weights, drawn.layout, dtype=torch.int8)


def test_widths_are_padded_to_two_powers() -> None:
    for width in range(1, 600):
        a, b = two_powers(width)
        assert a + b >= width
        assert all(part & (part - 1) == 0 for part in (a, b))
        assert a >= 16
        assert b == 0 or 16 <= b <= a
        assert (a + b) <= max(16, width * 4 / 3 + 15)


@EVERY
def test_nothing_that_a_kernel_holds_is_beyond_the_bound(case: Case) -> None:
    drawn = Drawn(case, DEVICE)
    tables = drawn.tables(torch.float64)
    h = plain.latent(drawn.rows, tables, **drawn.given)
    held = [tables.weight, tables.inner, h]
    if tables.hidden:
        held.append(functional.gelu(functional.linear(h, tables.inner, tables.inner_bias)))
    found = largest(tables, **{name: float(value.abs().max()) for name, value in drawn.given.items()})
    assert max(float(part.abs().max()) for part in held if part.numel()) <= found * (1 + 1e-12)


def test_a_table_that_is_not_finite_has_no_bound() -> None:
    for name in ("books", "weight", "inner"):
        drawn = Drawn(Case(hidden=4), DEVICE)
        drawn.weights[name] = drawn.weights[name] * 1e6
        assert not largest(drawn.tables(torch.float16)) <= 65504


def test_slices_are_as_wide_as_a_load() -> None:
    for owner, slices, D in (((0, 1, 0, 0, 1), 4, 4), ((0,) * 17 + (1,), 4, 8), ((1, 0), 16, 1)):
        tables = Drawn(Case(G=2, R=len(owner), owner=owner), DEVICE).tables(torch.float16)
        assert tables.D == D
        assert tables.books.shape == (slices, 8, D)


def test_tables_survive_being_taken_apart() -> None:
    tables = Drawn(Case(hidden=4), DEVICE).tables(torch.float16)
    again = type(tables).from_parts(*tables.parts())
    assert again.parts()[1:] == tables.parts()[1:]
    assert all(a is b for a, b in zip(again.parts()[0], tables.parts()[0], strict=True))


def test_labels_are_stored_16_bytes_at_a_time() -> None:
    cases = [case for case in reports("decode") if case["name"].startswith(("row", "write"))]
    assert len(cases) > 20
    for case in cases:
        assert count(case["opcodes"], "STG") == count(case["opcodes"], "STG.E.128") > 0, case["name"]


def test_slices_of_8_halves_are_loaded_16_bytes_at_a_time() -> None:
    cases = [case for case in reports("decode") if "product" in case["name"]]
    assert cases
    for case in cases:
        assert count(case["opcodes"], "LDG.E.128") > 0, case["name"]


@pytest.mark.parametrize("file", ["decode", "loss"])
def test_two_programs_fit_on_a_hopper_and_one_on_any_gpu(file: str) -> None:
    for case in reports(file):
        assert case["shared"] <= {80: 99, 90: 113}[case["arch"]] * 1024, case["name"]
