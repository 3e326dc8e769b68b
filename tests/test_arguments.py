"""Plain arguments: whoever's integers and floats they are, they are kept as Python's, or refused in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_parts import marked

from vqlabel.arguments import check_number, check_whole, whole_numbers
from vqlabel.codecs.options import FitOptions
from vqlabel.data import ReplaySampler
from vqlabel.schedules import Reuse, StepTemperature, stored_rows


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.array])
def test_whole_numbers_come_back_as_int(kind: Any) -> None:
    assert type(check_whole("n", kind(7), 0, 9)) is int


@pytest.mark.parametrize("value", [True, np.True_, 7.0, np.float64(7), "7", None, [7], 10, -1, np.int8(-1)])
def test_what_is_no_whole_number_of_the_range_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="n must be a whole number from 0 to 9, got "):
        check_whole("n", value, 0, 9)


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), 1, np.uint8(1)])
def test_numbers_come_back_as_what_json_knows(value: Any) -> None:
    assert json.loads(json.dumps(check_number("p", value, 0, 1))) == value


@pytest.mark.parametrize("value", [True, np.True_, "0.5", None, float("nan"), 1.5, 10**400, 1j])
def test_what_is_no_number_of_the_range_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match="p must be 0 to 1, got "):
        check_number("p", value, 0, 1)


@pytest.mark.parametrize("values", [[1.0], [True], [[1]], ["1"]])
def test_several_whole_numbers_are_whole_and_in_one_line(values: Any) -> None:
    with pytest.raises(TypeError, match="rows must be whole numbers, got "):
        whole_numbers("rows", values, 9)
    assert whole_numbers("rows", [], 9).dtype == whole_numbers("rows", np.array([8], np.uint8), 9).dtype == np.int64


def test_integers_of_numpy_count_as_far_as_pythons(tmp_path: Path) -> None:
    assert StepTemperature(20, 0.7, every=np.uint8(30))(np.uint8(255)) == StepTemperature(20, 0.7, every=30)(255)
    assert Reuse(np.int64(2), seed=np.uint8(3)) == Reuse(2, seed=3)
    drawn, wanted = (Reuse(n, seed=3).epochs(1, np.arange(50), kept=7) for n in (np.int64(5), 5))
    assert (drawn == wanted).all()
    assert stored_rows(np.int16(5000), np.uint8(200), keep=0.5) == 500_000
    assert 2 ** FitOptions(codebooks=np.int64(2), nbits=np.uint8(8)).nbits == 256
    state = ReplaySampler(marked(tmp_path / "a", 7, 3), seed=np.int64(2)).state_dict(np.int64(1))
    assert json.loads(json.dumps(state)) == state
