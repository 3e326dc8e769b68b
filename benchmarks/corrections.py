"""`python -m benchmarks.corrections`: what the choices behind codec `vq+top` are worth; CODECS.md quotes it.

The rows are drawn: a few directions and the frequencies of the classes, at temperatures that differ. They are as peaky
as a language model's next tokens, and nothing else of theirs. A minute on one core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from vqlabel.codecs import corrections
from vqlabel.codecs.fitting import finish
from vqlabel.codecs.foundation import build
from vqlabel.codecs.options import FitOptions
from vqlabel.codecs.sample import Sample
from vqlabel.codecs.vq import VQ
from vqlabel.measure import kl
from vqlabel.paths import PlainPath
from vqlabel.wanted import Wanted

CLASSES, WIDTH, TOPICS = 4000, 128, 64
FITTED, HELD_OUT, TOP = 9000, 1500, 4
TEMPERATURES = (1.0, 2.0, 4.0, 20.0)
OPTIONS = FitOptions(bytes_per_label=16, form="product", effort=0.15, temperatures=(1.0,))
Values = Callable[[torch.Tensor], torch.Tensor]  # log-odds as they are stored


class Halves(PlainPath):
    """With the tables that a GPU has."""

    width = torch.float16


def drawn(rows: int, seed: int) -> torch.Tensor:
    """Logits [rows, CLASSES]."""
    fixed, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(seed)
    directions = torch.randn(CLASSES, WIDTH, generator=fixed) / (1 + torch.arange(WIDTH) / 5) * 0.15
    common = -1.2 * (1 + torch.randperm(CLASSES, generator=fixed)).log()
    topics = torch.randn(TOPICS, WIDTH, generator=fixed)[torch.randint(0, TOPICS, (rows,), generator=own)]
    sure = 0.9 + 2.2 * torch.rand(rows, 1, generator=own)
    found = ((topics + 0.9 * torch.randn(rows, WIDTH, generator=own)) @ directions.T * 2.6 + common) * sure
    return found - found.mean(1, keepdim=True)


def at_once(teacher: torch.Tensor, decoded: torch.Tensor, top: int) -> torch.Tensor:
    """Classes that would each lower the KL most if it were the only one."""
    found = corrections.gains(teacher.log_softmax(1), decoded.log_softmax(1)).topk(top, dim=1).indices
    return found.sort(dim=1).values


def most_probable(teacher: torch.Tensor, decoded: torch.Tensor, top: int) -> torch.Tensor:
    """Classes that the teacher finds most probable."""
    return teacher.topk(top, dim=1).indices.sort(dim=1).values


def odds(teacher: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-odds float64 [B, m] of classes [B, m], each against what follows it."""
    named, rest = teacher.double().gather(1, ids), teacher.double().scatter_(1, ids, -torch.inf)
    after = torch.cat([rest.logsumexp(1, keepdim=True), named.flip(1)], 1).logcumsumexp(1).flip(1)[:, 1:]
    return named - after


def stored(exact: torch.Tensor) -> torch.Tensor:
    """Log-odds as bytes hold them."""
    n = ((exact.abs() * corrections.STEPS).sqrt() * exact.sign()).round().clamp(-128, 127)
    return n * n.abs() / corrections.STEPS


def made_up(exact: torch.Tensor) -> torch.Tensor:
    """The same, each rounded so that it makes up for the rounding of those before it."""
    share = torch.nn.functional.logsigmoid(exact)
    left = torch.nn.functional.logsigmoid(-exact)
    wanted = share + left.cumsum(1) - left  # logarithms of probabilities
    found, given = [], torch.zeros_like(exact[:, :1])
    for i in range(exact.shape[1]):
        part = (wanted[:, i : i + 1] - given).clamp(max=-1e-14)
        found.append(stored(part - torch.log(-torch.expm1(part))))
        given = given + torch.nn.functional.logsigmoid(-found[-1])
    return torch.cat(found, 1)


def decoded_with(decoded: torch.Tensor, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Logits of rows whose classes have these log-odds."""
    found, rest = decoded.double(), decoded.double().scatter_(1, ids, -torch.inf).logsumexp(1, keepdim=True)
    for i in reversed(range(ids.shape[1])):
        found.scatter_(1, ids[:, i : i + 1], rest + values[:, i : i + 1])
        rest = torch.logaddexp(rest, rest + values[:, i : i + 1])
    return found


def ranks(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Ranks [B, m] of classes [B, m]."""
    return (logits.gather(1, ids)[:, :, None] < logits[:, None]).sum(2)


def entropy(numbers: torch.Tensor) -> float:
    """Bits of one of them with an ideal entropy coder."""
    shares = torch.bincount(numbers.flatten()).double() / numbers.numel()
    return float(-(shares * shares.clamp_min(1e-300).log2()).sum())


def lines(vq: VQ, teacher: torch.Tensor) -> Iterator[str]:
    """What is measured, in words."""
    p, codes = teacher.softmax(1), vq.encode(teacher)
    decoded = vq.decode(codes)
    yield f"mean entropy {float(-(p * p.log()).nan_to_num(0).sum(1).mean()):.2f}, largest {float(p.amax(1).mean()):.2f}"
    yield "mean KL at T = " + ", ".join(f"{t:g}" for t in TEMPERATURES)

    def line(name: str, found: torch.Tensor) -> str:
        return f"{name:50}" + " ".join(f"{float(kl(teacher.double(), found, t).mean()):.4f}" for t in TEMPERATURES)

    yield line("codes alone", decoded.double())
    ways: list[tuple[str, Values]] = [("exact", lambda x: x), ("rounded", stored), ("rounded, made up for", made_up)]
    for top in (TOP, 16):
        for choose in (corrections.choose, at_once, most_probable):
            ids = choose(teacher, decoded, top)
            for way, values in ways if choose is corrections.choose else ways[1:2]:
                name = f"{top} classes, {choose.__name__}, {way}"
                yield line(name, decoded_with(decoded, ids, values(odds(teacher, ids))))
    ids = corrections.choose(teacher, decoded, TOP)
    own = ranks(decoded, ids)
    gaps = own.sort(dim=1).values.diff(dim=1, prepend=torch.zeros(len(own), 1, dtype=torch.int64))
    bits = sum(entropy(gaps[:, i]) for i in range(TOP)) / TOP
    yield f"ranks: largest {int(own.max())}; {bits:.2f} bits each with ideal entropy coding"
    other = ranks(Halves(vq, torch.device("cpu"))(torch.from_numpy(codes), None, Wanted("logits")), ids)
    yield f"rows with another rank where tables are fp16: {float((own != other).any(1).double().mean()):.2%}"


def main() -> None:
    """Fit on some rows, print what others say."""
    sample = Sample(drawn(FITTED, 1), None, FITTED)
    for text in lines(finish(build(sample, OPTIONS, print), OPTIONS, print), drawn(HELD_OUT, 2)):
        print(text)


if __name__ == "__main__":
    main()
