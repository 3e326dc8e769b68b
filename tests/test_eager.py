"""Labels inside torch.compile: the same as outside, and nobody else waits for its import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from decoder_parts import CLASSES, file_of

from vqlabel import LabelDecoder

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # torch's, of what it compiles
]


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


USES: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "probs": lambda x, labels: torch.nn.functional.kl_div(x.log_softmax(1), labels.probs(4.0), reduction="sum"),
    "log_probs": lambda x, labels: (x - labels.log_probs(4.0)).sum(),
    "logits": lambda x, labels: (x - labels.logits()).square().sum(),
    "some": lambda x, labels: labels[1:].to("cpu").kl(x[1:], 4.0),
    "decoder": lambda x, labels: (x - labels.decoder([2, 1, 0], 4.0)).square().sum(),
    "read": lambda x, labels: labels.decoder.read(np.array([2, 1, 0])).kl(x, 4.0),
}


@pytest.mark.parametrize("kind", ["raw", "topk", "replay"])
@pytest.mark.parametrize("use", USES)
def test_labels_inside_a_compiled_step_are_those_outside(kind: str, use: str) -> None:
    decoder, step = LabelDecoder(file_of(kind)), USES[use]
    compiled = torch.compile(step, backend="eager")
    for rows in ([0, 1, 2], [7, 299, 8]):
        x = torch.randn(3, CLASSES, requires_grad=True)
        labels = decoder.read(rows)
        found, wanted = compiled(x, labels), step(x, labels)
        torch.testing.assert_close(found, wanted)
        assert torch.equal(torch.autograd.grad(found, x)[0], torch.autograd.grad(wanted, x)[0])


def test_decoding_does_not_import_the_compiler() -> None:
    lines = "import sys, vqlabel.data, vqlabel.decoder; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines], check=False).returncode == 0
