"""The teacher: trained now unless it was before, and its labels, which are made when they are asked for."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from examples import shared
from examples.language import tokens, training
from examples.language.model import GPT
from examples.language.settings import Settings, key
from examples.language.tokens import Windows

SAVE_EVERY = 100  # steps
TAUGHT = 1  # counts changes of the training after which older teachers are others
SHARPNESS = {"flat": 1.0, "sharp": 2.0}  # what the logits of each condition are multiplied by
AT_ONCE = 16  # sequences


def facts(settings: Settings, text: tokens.Text) -> list[Any]:
    """What the teacher follows from."""
    ours = settings.teacher_layers, settings.teacher_width, settings.teacher_steps, settings.teacher_batch
    split = settings.context, settings.sequences, settings.seed  # sequences with labels are not learned from
    return [TAUGHT, text.fingerprint, *ours, *split]


def train(settings: Settings, text: tokens.Text) -> GPT:
    """The finished teacher; a training that was interrupted goes on."""
    path = settings.path("teacher", facts(settings, text), ".pt")
    torch.manual_seed(settings.seed)
    net = GPT(settings.vocabulary, settings.teacher_layers, settings.teacher_width)
    with shared.alone(path):
        finished = shared.load(path)
        if finished is None:
            _train(net, settings, tokens.split(settings, text)[0], path)
        else:
            net.load_state_dict(finished)
    return net.eval().requires_grad_(False)


def _train(net: GPT, settings: Settings, own: Windows, path: Any) -> None:
    optimiser, running, first = training.Optimiser(net), path.with_suffix(".running"), 0
    state = shared.load(running)
    if state is not None:
        net.load_state_dict(state["net"])
        optimiser.load(state["optimiser"])
        first = state["step"]
    begin, losses = time.perf_counter(), []
    for step in range(first, settings.teacher_steps):
        places = (np.arange(settings.teacher_batch) + step * settings.teacher_batch) % len(own)
        batch = own.part(places)
        loss = training.mean_loss(net, batch.tokens, batch.following)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step(training.factor_at(step, settings.teacher_steps))
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"the teacher's loss was {losses[-1]} in step {step}")
        if (step + 1) % SAVE_EVERY == 0:
            shared.save({"net": net.state_dict(), "optimiser": optimiser.state(), "step": step + 1}, running)
            passed = time.perf_counter() - begin
            print(f"teacher: step {step + 1}, loss {np.mean(losses[-SAVE_EVERY:]):.3f}, {passed:.0f} s", flush=True)
    shared.save(net.state_dict(), path)
    running.unlink(missing_ok=True)


@dataclass(eq=False)
class Teacher:
    """What the teacher says of some sequences, as a function of row numbers: no logits are ever kept.

    The states before its head are, in memory and in the cache: `width` halves a row instead of C.
    """

    windows: Windows
    states: torch.Tensor  # float16 [N, width]
    head: torch.Tensor  # [C, width], times the sharpness
    name: str

    def __call__(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Centred logits float16 [B, C] of rows, as a label set would store them."""
        logits = self.states[torch.from_numpy(rows)].float() @ self.head.T
        return (logits - logits.mean(1, keepdim=True)).half()

    def __len__(self) -> int:
        return len(self.states)

    @property
    def classes(self) -> int:
        """C."""
        return len(self.head)


def speaking(settings: Settings, condition: str) -> tuple[Teacher, Teacher]:
    """The teacher of a condition on the sequences that get labels, and on those that judge."""
    text = tokens.load(settings)
    net = train(settings, text)
    _, labelled, held = tokens.split(settings, text)
    head = net.head.weight * SHARPNESS[condition]
    name = f"{condition}-{fingerprint(net)}"
    return tuple(Teacher(part, _states(net, part, settings), head, name) for part in (labelled, held))  # type: ignore[return-value]


def fingerprint(net: GPT) -> str:
    """Hash of all parameters, for the metadata of the labels."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _states(net: GPT, part: Windows, settings: Settings) -> torch.Tensor:
    path = settings.path("states", [fingerprint(net), part.fingerprint()], ".safetensors")
    with shared.alone(path):
        if not path.exists():
            save_file({"states": hidden(net, part)}, path)
    return load_file(path)["states"]


@torch.no_grad()
def hidden(net: GPT, part: Windows) -> torch.Tensor:
    """What the head sees at each position of all sequences, float16 [S * L, width]."""
    blocks = [net.hidden(some).flatten(0, 1).half() for some in torch.split(part.tokens, AT_ONCE)]
    return torch.cat(blocks)


def described(teacher: Teacher, rows: int = 4096) -> dict[str, float]:
    """How sharp the labels are: entropy in nats, largest chance, mass of the 8 and 50 largest; perplexity."""
    numbers: NDArray[np.int64] = np.linspace(0, len(teacher) - 1, min(rows, len(teacher))).astype(np.int64)
    log = torch.log_softmax(teacher(numbers).float(), 1)
    chances = log.exp().sort(dim=1, descending=True).values
    next_ones = teacher.windows.following.flatten()[torch.from_numpy(numbers)]
    return {
        "entropy": float(-(log.exp() * log).sum(1).mean()),
        "top1": float(chances[:, 0].mean()),
        "top8": float(chances[:, :8].sum(1).mean()),
        "top50": float(chances[:, :50].sum(1).mean()),
        "cross_entropy": float(-log.gather(1, next_ones[:, None]).mean()),
    }


def unigrams(settings: Settings) -> torch.Tensor:
    """How often each token comes in the text to learn from, float32 [C], none of them never."""
    stream = tokens.load(settings).train
    counts = torch.from_numpy(np.bincount(stream, minlength=settings.vocabulary)).float() + 0.5
    return counts / counts.sum()


def row_key(teacher: Teacher) -> str:
    """Name of the rows that get labels and of who labels them."""
    return key([teacher.name, teacher.windows.fingerprint()])
