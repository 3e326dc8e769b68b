"""The kernels in plain torch: the truth of their tests, and what runs where no kernel does.

Any device, differentiable, computed in the type of the tables' bias: float32, or float64 for float64 tables.
A row of B x C numbers takes memory here; the kernels keep it in registers.
"""

from __future__ import annotations

import torch

from .tables import Tables

Optional = torch.Tensor | None


def unpack(rows: torch.Tensor, tables: Tables) -> torch.Tensor:
    """Codes int64 [B, G] of packed rows [B, row_bytes], least significant bit first."""
    first = torch.arange(tables.G, device=rows.device) * tables.nbits
    padded = torch.nn.functional.pad(rows, (0, 2)).long()  # a code lies in at most three bytes
    words = sum(padded[:, first // 8 + i] << 8 * i for i in range(3)) if tables.G else padded[:, :0]
    return words >> first % 8 & tables.K - 1


def latent(rows: torch.Tensor, tables: Tables, *, h0: Optional = None, spread: Optional = None) -> torch.Tensor:
    """Latent vectors h [B, R'], in the order of the tables."""
    codes, books = unpack(rows, tables), tables.books
    h = tables.bias.new_zeros(len(rows), tables.latent_width)
    if tables.form == "product":
        groups = tables.groups.long()
        h = books[torch.arange(len(groups), device=rows.device), codes[:, groups]].flatten(1).to(h.dtype)
    elif tables.form == "residual":
        for g in range(tables.G):
            h = h + books[g * tables.K + codes[:, g]].to(h.dtype)
    if spread is not None:
        h = h * spread.to(h.dtype)[:, None]
    if h0 is not None:
        h = h + h0.to(h.dtype)[:, tables.places.clamp_min(0).long()] * (tables.places >= 0)
    return h


def logits(rows: torch.Tensor, tables: Tables, *, h0: Optional = None, spread: Optional = None) -> torch.Tensor:
    """Logits [B, C]."""
    h = latent(rows, tables, h0=h0, spread=spread)
    parts = [h] if tables.linear else []
    if tables.hidden:
        inner = torch.nn.functional.linear(h, tables.inner.to(h.dtype), tables.inner_bias)
        parts.append(torch.nn.functional.gelu(inner))
    x = torch.nn.functional.pad(torch.cat(parts, 1), (0, tables.width - sum(part.shape[1] for part in parts)))
    return torch.nn.functional.linear(x, tables.weight[: tables.C].to(h.dtype), tables.bias[: tables.C])


def decode(
    rows: torch.Tensor,
    tables: Tables,
    *,
    h0: Optional = None,
    spread: Optional = None,
    temperature: float = 1.0,
    output: str = "probs",
    dtype: torch.dtype | None = None,
    lse: Optional = None,
) -> torch.Tensor:
    """Labels [B, C], as `decode.decode` makes them."""
    found = logits(rows, tables, h0=h0, spread=spread)
    if output != "logits":
        found = found / temperature
        found = torch.log_softmax(found, 1) if lse is None else found - lse.to(found.dtype)[:, None]
    if output == "probs":
        found = found.exp()
    return found.to(dtype or found.dtype)


def loss(
    student: torch.Tensor,
    rows: torch.Tensor,
    tables: Tables,
    *,
    h0: Optional = None,
    spread: Optional = None,
    temperature: float,
    student_temperature: float | None = None,
    kind: str = "kl",
) -> torch.Tensor:
    """Losses [B], as `loss.loss` makes them; differentiable in all that is a float."""
    t = logits(rows, tables, h0=h0, spread=spread)
    own = temperature if student_temperature is None else student_temperature
    return loss_of_logits(student.to(t.dtype), t, temperature=temperature, student_temperature=own, kind=kind)


def loss_of_logits(
    student: torch.Tensor, teacher: torch.Tensor, *, temperature: float, student_temperature: float, kind: str
) -> torch.Tensor:
    """Losses [B] of logits [B, C] of one type."""
    s, t = student / student_temperature, teacher / temperature
    if kind == "mse_logits":
        return (s - t).var(1, unbiased=False)
    log_p, log_q = torch.log_softmax(t, 1), torch.log_softmax(s, 1)
    p = log_p.exp()
    told = log_p - log_q if kind == "kl" else -log_q
    # A class without probability adds nothing, though it may be infinitely far: 0 times infinity is no number.
    return (p * told.masked_fill_(p == 0, 0)).sum(1)


def gradient(
    scale: torch.Tensor,
    student: torch.Tensor,
    rows: torch.Tensor,
    tables: Tables,
    *,
    h0: Optional = None,
    spread: Optional = None,
    temperature: float,
    student_temperature: float | None = None,
    kind: str = "kl",
) -> torch.Tensor:
    """Gradient [B, C] in the student's logits of the sum of scale [B] times the losses, without autograd."""
    t = logits(rows, tables, h0=h0, spread=spread)
    own = temperature if student_temperature is None else student_temperature
    found = gradient_of_logits(
        scale.to(t.dtype), student.to(t.dtype), t, temperature=temperature, student_temperature=own, kind=kind
    )
    return found.to(student.dtype)


def gradient_of_logits(
    scale: torch.Tensor,
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float,
    student_temperature: float,
    kind: str,
) -> torch.Tensor:
    """Gradient [B, C] in the student's logits of the sum of scale [B] times `loss_of_logits`, all of one type."""
    s, t = student / student_temperature, teacher / temperature
    if kind == "mse_logits":
        difference = (s - t) * (2 / s.shape[1])
        found = difference - difference.mean(1, keepdim=True)
    else:
        found = torch.softmax(s, 1) - torch.softmax(t, 1)
    return found * (scale / student_temperature)[:, None]
