"""A causal language model in plain torch: rotary positions, squared ReLU, a head of its own."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

HEAD = 32  # dimensions of an attention head, or all that there are
BASE = 10_000.0  # of the wavelengths of rotary positions


class GPT(nn.Module):
    """Tokens int64 [S, L] to logits of the next token [S, L, C]."""

    def __init__(self, vocabulary: int, layers: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.head.weight, std=0.02)

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the head sees [S, L, width]: the logits are a linear map of it."""
        x = normed(self.embedding(tokens))
        for block in self.blocks:
            x = block(x)
        return normed(x)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits [S, L, C]."""
        found: torch.Tensor = self.head(self.hidden(tokens))
        return found


class Block(nn.Module):
    """Attention, then two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.inward = nn.Linear(width, 3 * width, bias=False)
        self.outward = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        for layer in (self.outward, self.down):
            nn.init.zeros_(layer.weight)  # each block begins as nothing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[S, L, width] to the same."""
        S, L, width = x.shape
        parts = self.inward(normed(x)).view(S, L, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, keys, values = rotated(normed(parts[0])), rotated(normed(parts[1])), parts[2]
        x = x + self.outward(attended(query, keys, values).transpose(1, 2).reshape(S, L, width))
        added: torch.Tensor = self.down(functional.relu(self.up(normed(x))).square())
        return x + added


def attended(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention to the past [S, heads, L, d]; on short sequences quicker on a CPU than the fused one."""
    L = query.shape[-2]
    future = torch.ones(L, L, dtype=torch.bool, device=query.device).triu(1)
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    shares: torch.Tensor = scores.masked_fill(future, -torch.inf).softmax(-1).to(values.dtype)
    return shares @ values


def normed(x: torch.Tensor) -> torch.Tensor:
    """Of unit mean square in the last dimension."""
    return functional.rms_norm(x, x.shape[-1:])


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Halves of [S, heads, L, d] turned by angles that grow with the position."""
    half = x.shape[-1] // 2
    speeds = BASE ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]], dim=-1)
