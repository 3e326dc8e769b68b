"""What every kernel keeps on every architecture, in every configuration of its table: read from compiled code."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
from compiled import ARCHITECTURES, SHARED_LIMIT, count, kernel_files, reports

# Not imported, because that is for tests/interpret.py to do first.
pytestmark = pytest.mark.skipif(not find_spec("triton"), reason="Triton is made for Linux only")


@pytest.fixture(params=kernel_files())
def cases(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """Reports of a kernel file."""
    return reports(request.param)


def test_every_configuration_compiles_for_every_architecture(cases: list[dict[str, Any]]) -> None:
    made = {(case["name"], case["arch"]) for case in cases}
    assert len(made) == len(cases) > 0
    assert made == {(name, arch) for name, _ in made for arch in ARCHITECTURES}


def test_nothing_spills_to_memory(cases: list[dict[str, Any]]) -> None:
    spilling = [(case["name"], case["arch"]) for case in cases if case["spills"] or case["stack"]]
    assert not spilling


def test_shared_memory_is_within_the_limits(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        assert case["shared"] <= SHARED_LIMIT[case["arch"]], (case["name"], case["arch"])


def test_products_are_made_by_tensor_cores(cases: list[dict[str, Any]]) -> None:
    without = [
        (case["name"], case["arch"])
        for case in cases
        if case["dots"] and not count(case["opcodes"], "HMMA", "HGMMA", "QGMMA")
    ]
    assert not without


# Instructions of the main loop for each pair of a row and a word, all of the loop's other work counted in.
PAIR_BUDGETS = {
    ("D=8 K=256", 90): 3.0,
    ("D=8 K=256", 80): 4.3,
    ("D=8 K=65536", 90): 3.0,
    ("D=8 K=65536", 80): 5.3,
    ("D=32 K=65536", 90): 3.5,
    ("D=32 K=65536", 80): 4.4,
}


@pytest.mark.parametrize(("name", "arch"), PAIR_BUDGETS)
def test_search_keeps_its_budget_of_instructions(name: str, arch: int) -> None:
    (case,) = [one for one in reports("search") if (one["name"], one["arch"]) == (name, arch)]
    pairs = case["constants"]["BM"] * case["constants"]["BK"] / (32 * case["warps"])  # of a lane
    assert sum(case["main"].values()) / pairs <= PAIR_BUDGETS[name, arch]
    assert count(case["main"], "HMMA", "HGMMA") > 0


def test_search_loads_16_bytes_at_a_time_where_rows_are_aligned() -> None:
    for case in reports("search"):
        if case["name"] == "D=8 K=256":
            assert count(case["main"], "LDG.E.128", "LDGSTS.E.BYPASS.128") > 0, case["arch"]


def test_exact_search_never_fuses_a_multiplication_and_an_addition() -> None:
    cases = [case for case in reports("search") if case["name"].startswith("exact D=")]
    assert cases
    for case in cases:
        assert count(case["opcodes"], "FFMA") == 0
        assert count(case["main"], "FADD") == 2 * count(case["main"], "FMUL") > 0
