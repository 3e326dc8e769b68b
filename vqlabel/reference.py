"""Slow, obvious twins of every fast path: the truth in tests. Same names, same arguments."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def code_dtype(nbits: int) -> type[np.unsignedinteger[Any]]:
    """The dtype that holds codes of this width."""
    return np.uint8 if nbits <= 8 else np.uint16 if nbits <= 16 else np.uint32


def pack(codes: NDArray[Any], nbits: int) -> NDArray[np.uint8]:
    """Codes [N, count] to rows [N, ceil(count * nbits / 8)], least significant bit first.

    >>> pack(np.array([[1, 2, 3]], np.uint8), 4)
    array([[33,  3]], dtype=uint8)
    """
    bits = codes[:, :, None].astype(np.uint32) >> np.arange(nbits, dtype=np.uint32) & 1
    return np.packbits(bits.reshape(len(codes), codes.shape[1] * nbits).astype(np.uint8), axis=1, bitorder="little")


def unpack(packed: NDArray[np.uint8], nbits: int, count: int) -> NDArray[Any]:
    """Rows [N, ceil(count * nbits / 8)] to codes [N, count].

    >>> unpack(np.array([[33, 3]], np.uint8), 4, 3)
    array([[1, 2, 3]], dtype=uint8)
    """
    bits = np.unpackbits(packed, axis=1, count=count * nbits, bitorder="little").reshape(len(packed), count, nbits)
    codes: NDArray[Any] = (bits.astype(np.uint32) << np.arange(nbits, dtype=np.uint32)).sum(2)
    return codes.astype(code_dtype(nbits))


def gather_unpack(buffer: Any, row_bytes: int, indices: NDArray[np.int64], nbits: int, count: int) -> NDArray[Any]:
    """Codes [B, count] of the rows of these indices in a buffer of packed rows."""
    rows = np.frombuffer(buffer, np.uint8).reshape(-1, row_bytes)
    return unpack(rows[indices, : (count * nbits + 7) // 8], nbits, count)


def nearest(h: NDArray[np.float32], books: NDArray[np.float32], sizes: Any) -> NDArray[Any]:
    """Codes [N, G]: the lowest of the nearest words in the sizes[g] columns of each group.

    >>> nearest(np.array([[3, 1]], np.float32), np.array([[0, 0], [4, 0], [4, 1]], np.float32), [1, 1])
    array([[1, 2]], dtype=uint8)
    """
    codes, start = np.zeros((len(h), len(sizes)), code_dtype((len(books) - 1).bit_length())), 0
    for g, size in enumerate(sizes):
        distances = np.zeros((len(h), len(books)), np.float32)
        for r in range(start, start + size):
            distances += (h[:, r, None] - books[:, r]) ** 2
        codes[:, g] = np.where(distances < np.inf, distances, np.inf).argmin(1)
        start += size
    return codes


def additive_search(dots: NDArray[np.float32], gram: NDArray[np.float32], beam: int) -> NDArray[Any]:
    """Codes [N, beam, M]: what a beam finds of score(c) = sum dots[m, c_m] - sum over i < j of gram[i, j, c_i, c_j].

    >>> additive_search(np.array([[[1, 0], [1, 0]]], np.float32), np.full((2, 2, 2, 2), [1, 0], np.float32), 2)
    array([[[0, 0],
            [0, 1]]], dtype=uint8)
    """
    N, M, K = dots.shape
    codes = np.zeros((N, beam, M), code_dtype((K - 1).bit_length()))
    for row in range(N):
        scores, chosen = np.zeros(1, np.float32), np.zeros((1, 0), np.int64)
        for m in range(M):
            totals = scores[:, None] + dots[row, m]
            for i in range(m):
                totals -= gram[i, m, chosen[:, i]]
            totals = np.where(totals > -np.inf, totals, -np.inf).ravel()
            best = np.argsort(-totals, kind="stable")[: min(beam, max(1, (totals > -np.inf).sum()))]
            scores, chosen = totals[best], np.concatenate([chosen[best // K], best[:, None] % K], axis=1)
        codes[row] = chosen[np.minimum(np.arange(beam), len(chosen) - 1)]
    return codes


def class_prior(own: Any, other: Any, regime: Any, tables: Any) -> NDArray[np.float32]:
    """Expected latents [N, R] = ga[regime] * A[own] + gb[regime] * B[other] + g0[regime]."""
    A, B, ga, gb, g0 = tables
    h0: NDArray[np.float32] = ga[regime, None] * A[own] + gb[regime, None] * B[other] + g0[regime]
    return h0


def decode(rows: NDArray[np.uint8], config: Any, tensors: Any, h0: Any = 0.0, spread: Any = 1.0) -> NDArray[Any]:
    """Logits float64 [B, C] of rows of codec `vq`; a prior gives h0 [B, R] and spread [B, 1]."""

    def weight(name: str) -> NDArray[Any]:
        numbers, scale = tensors[name].astype(np.float64), tensors.get(name + ".scale", np.ones(1))
        return numbers * scale.astype(np.float64).reshape(-1, *[1] * (numbers.ndim - 1))  # type: ignore[no-any-return]

    codes = unpack(rows, config["nbits"], config["G"])
    total = np.zeros((len(rows), config["width"]))
    for g in range(config["G"]):
        if config["form"] == "residual":
            total += weight("books")[g * 2 ** config["nbits"] + codes[:, g].astype(int)]
        else:
            own = np.array(config["owner"]) == g
            total[:, own] = weight("books")[own][:, codes[:, g]].T
    h = h0 + spread * total
    parts = [h] if config["linear"] else []
    if config["hidden"]:
        x = h @ weight("inner").T + weight("inner_bias")
        parts.append(x / 2 * (1 + np.vectorize(math.erf, otypes=[float])(x / np.sqrt(2))))
    logits: NDArray[Any] = np.concatenate(parts, axis=1) @ weight("weight").T + weight("bias")
    return logits


def philox(counters: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """Philox4x32-10: four draws [B, 4] for each counter [B, 4]."""
    c = [counters[:, i].astype(np.uint64) for i in range(4)]
    low, high, mask = key & 0xFFFFFFFF, key >> 32, np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [
            b >> np.uint64(32) ^ c[1] ^ np.uint64(low),
            b & mask,
            a >> np.uint64(32) ^ c[3] ^ np.uint64(high),
            a & mask,
        ]
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


def _unit(draws: NDArray[np.uint32]) -> NDArray[np.float64]:
    return np.multiply(draws, 1 / 2**32, dtype=np.float64)


def _below(draws: NDArray[np.uint32], n: Any) -> NDArray[np.int64]:
    return (draws.astype(np.uint64) * np.asarray(n).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def _quantile(table: NDArray[np.float64], u: NDArray[np.float64]) -> NDArray[np.float64]:
    position = u * (len(table) - 1)
    step = position.astype(np.int64)
    quantiles: NDArray[np.float64] = table[step] + (position - step) * (table[step + 1] - table[step])
    return quantiles


def _draws(law: Any, ids: NDArray[np.int64], epochs: NDArray[np.int64], stream: int, block: int) -> NDArray[np.uint32]:
    fixed = np.full(len(ids), stream), np.full(len(ids), block)
    return philox(np.stack([ids, epochs, *fixed], axis=1).astype(np.uint32), law.seed)


def replay_crops(law: Any, epochs: Any, images: Any, sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Crops [B, 4]: top, left, height, width. The first of ten random ones that fits, else the middle."""
    crops = np.zeros((len(images), 4), np.int32)
    open_rows = np.arange(len(images))
    for attempt in range(10):
        draws = _draws(law, images[open_rows], epochs[open_rows], 0, attempt)
        height, width = sizes[open_rows, 0].astype(np.int64), sizes[open_rows, 1].astype(np.int64)
        low, high = law.scale
        target = height.astype(float) * width * (low + _unit(draws[:, 0]) * (high - low))
        ratio = _quantile(law.tables[0], _unit(draws[:, 1]))
        w, h = np.floor(np.sqrt(target * ratio) + 0.5), np.floor(np.sqrt(target / ratio) + 0.5)
        fits = (w >= 1) & (h >= 1) & (w <= width) & (h <= height)
        w, h = w.astype(np.int64), h.astype(np.int64)
        top = _below(draws[:, 2], np.where(fits, height - h + 1, 0))
        left = _below(draws[:, 3], np.where(fits, width - w + 1, 0))
        crops[open_rows[fits]] = np.stack([top, left, h, w], axis=1)[fits]
        open_rows = open_rows[~fits]
    for row in open_rows:
        height, width = (int(side) for side in sizes[row])
        nearest = min(max(width / height, law.tables[0][0]), law.tables[0][-1])
        w = np.floor(height * nearest + 0.5) if width / height > nearest else width
        h = np.floor(width / nearest + 0.5) if width / height < nearest else height
        h, w = int(max(h, 1)), int(max(w, 1))
        crops[row] = (height - h) // 2, (width - w) // 2, h, w
    return crops


def replay_parameters(
    law: Any, epochs: NDArray[np.int64], images: NDArray[np.int64], mixers: NDArray[np.int64], sizes: NDArray[np.int32]
) -> tuple[NDArray[Any], ...]:
    """Crops [B, 4], flips [B], kinds [B], partners [B], shares [B] and cuts [B, 4], as in csrc/replay.hpp."""
    flips = _unit(_draws(law, images, epochs, 1, 0)[:, 0]) < law.flip
    draws, centres = _draws(law, mixers, epochs, 2, 0), _draws(law, mixers, epochs, 2, 1)
    u = _unit(draws[:, 0])
    kinds = np.where(u < law.cutmix, 1, np.where(u < law.cutmix + law.mixup, 2, 0)).astype(np.uint8)
    partners = np.where(kinds > 0, _below(draws[:, 1], law.images), -1)
    cutmix, mixup = (_quantile(law.tables[i], _unit(draws[:, 2])) for i in (1, 2))
    sides = (law.size * np.sqrt(1 - cutmix)).astype(np.int64)
    centre = _below(centres[:, :2], law.size)
    corner = np.maximum(centre - sides[:, None] // 2, 0)
    extent = np.minimum(centre + sides[:, None] // 2, law.size) - corner
    cuts = np.where(kinds[:, None] == 1, np.concatenate([corner, extent], axis=1), 0).astype(np.int32)
    covered = cuts[:, 2].astype(float) * cuts[:, 3] / (float(law.size) * law.size)
    shares = np.where(kinds == 1, 1 - covered, np.where(kinds == 2, mixup, 1.0))
    return replay_crops(law, epochs, images, sizes), flips, kinds, partners, shares, cuts


def apply(images: Any, parameters: Any) -> Any:
    """Views [B, c, size, size] of the set `images` [N, c, H, W] of uint8: crop, resize and mix, each row alone."""
    import torch

    def view(image: Any, crop: Any, flip: Any) -> Any:
        top, left, height, width = crop.tolist()
        part = images[int(image), :, top : top + height, left : left + width].float() / 255
        size = parameters.size, parameters.size
        part = torch.nn.functional.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
        return part.flip(-1) if flip else part

    rows = []
    for i in range(len(parameters)):
        row = view(parameters.images[i], parameters.crops[i], parameters.flips[i])
        if parameters.kinds[i]:
            other = view(parameters.partners[i], parameters.partner_crops[i], parameters.partner_flips[i])
            share = float(parameters.shares[i])
            top, left, height, width = parameters.cuts[i].tolist()
            box = (slice(None), slice(top, top + height), slice(left, left + width))
            if parameters.kinds[i] == 2:
                row = share * row + (1 - share) * other
            else:
                row[box] = other[box]
        rows.append(row)
    return torch.stack(rows)
