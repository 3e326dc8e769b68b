"""Where kernels run in tests: on the GPU if there is one, else on the CPU in Triton's interpreter. Never nowhere.

A test module of a kernel begins with

    from interpret import DEVICE
    from vqlabel.kernels import search

in this order, which is alphabetical: Triton looks at TRITON_INTERPRET when a kernel is defined, its own library's
kernels included. conftest.py sets the variable where there is clearly no GPU, because torch's compiler imports Triton
too; if it was not set in time, the error says so.

The interpreter runs kernels with NumPy. It knows no layouts, no shared memory and no TF32, and its bfloat16 products
are wrong, so tests of kernels use float32 and float16; test_compile.py looks at the compiled code.
"""

from __future__ import annotations

import os
import sys

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"

if INTERPRETED:
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError("triton was imported before tests/interpret.py could switch its interpreter on")
    os.environ["TRITON_INTERPRET"] = "1"

pytest.importorskip("triton", reason="Triton is made for Linux only; elsewhere no kernel runs")
