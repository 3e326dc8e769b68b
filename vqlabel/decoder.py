"""LabelDecoder: rows of a label file to labels, on the CPU or a GPU."""

from __future__ import annotations

import os
import secrets
import threading
from functools import cached_property
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from vqlabel.arguments import check_word
from vqlabel.codecs import Codec, load_codec
from vqlabel.eager import eager
from vqlabel.errors import Corrupt, about
from vqlabel.file import LabelFile, PathLike
from vqlabel.keys import Keys, tier_of
from vqlabel.known import Side
from vqlabel.packed import PackedLabels
from vqlabel.paths import BACKENDS, Path, choose_path
from vqlabel.replay import ReplayRecipe
from vqlabel.scene import recipe_of
from vqlabel.sequences import TOKENS, Sequences
from vqlabel.stored import StoredViews
from vqlabel.text import given_text, sequences_of, text_of
from vqlabel.text_keys import TextKeys
from vqlabel.wanted import Terms, Wanted

_OPEN: WeakValueDictionary[str, LabelDecoder] = WeakValueDictionary()  # by what tells them apart in all processes
_OPENING = threading.Lock()


class LabelDecoder:
    """Labels of a label file, by row.

    >>> decoder = LabelDecoder(path)                                      # doctest: +SKIP
    >>> decoder(decoder.rows(epoch=3, images=[17, 4]), temperature=20)    # doctest: +SKIP
    tensor([[...]])                                                       # probabilities [2, C]

    In a training script let the loader's workers `read` packed rows, a few bytes each, and decode them where the
    student is: `decoder.read(rows).to("cuda").probs(20)`; `vqlabel.data` has the pieces for a DataLoader.

    `device` is where a call of the decoder itself decodes; nothing touches a GPU before. Each device takes its quickest
    path: for codec `vq` C++ on the CPU and Triton on CUDA, for the others torch on the CPU; backend="reference" takes
    the slow one that all others are tested against. A decoder pickles as the path of its file, so workers of any kind
    can have it.
    """

    def __init__(
        self,
        path: PathLike,
        device: torch.device | str | None = None,
        *,
        backend: str = "auto",
        load: str = "auto",
        tokens: ArrayLike | None = None,
    ) -> None:
        check_word("backend", backend, BACKENDS)
        place = torch.device("cpu" if device is None else device)  # device 0 is the first GPU
        self._open(LabelFile(path, load=load), place, backend, secrets.token_hex(8), tokens)
        self._codec_here()  # a file that cannot be decoded says so now

    def _open(self, file: LabelFile, device: torch.device, backend: str, token: str, tokens: ArrayLike | None) -> None:
        self.file, self.device, self.backend, self._token = file, device, backend, token
        self._codec: Codec | None = None
        self._paths: dict[torch.device, Path] = {}
        self._lock = threading.Lock()
        self._tokens = None if tokens is None else given_text(file, self.sequences, tokens)
        reads = tier_of(file) == "tokens"
        self._keys = TextKeys(text_of(file, self._tokens), len(file)) if reads else Keys.of_file(file)
        _OPEN[token] = self

    @property
    def name(self) -> tuple[Any, ...]:
        """What another process needs to have this decoder, and this one to know it again."""
        return self.file.__reduce__()[1], str(self.device), self.backend, self._token

    @property
    def classes(self) -> int:
        """C."""
        return int(self.file.metadata["classes"])

    @property
    def images(self) -> int:
        """Images of the set, and so rows of an epoch."""
        return int(self.file.metadata.get("images", len(self)))

    @property
    def epochs(self) -> int:
        """Whole epochs in the file."""
        return len(self) // max(self.images, 1)

    @cached_property
    def recipe(self) -> ReplayRecipe | StoredViews | None:
        """How the views of the set are drawn, or what the file remembers of them; None if it does not say."""
        try:
            return recipe_of(self.file)
        except (TypeError, ValueError) as error:
            raise Corrupt(f"{self.file.path}: {error}") from None

    @cached_property
    def sequences(self) -> Sequences | None:
        """The sequences that the rows are positions of; None for labels of images."""
        return sequences_of(self.file)

    @property
    def tokens(self) -> NDArray[Any] | None:
        """Tokens of all positions, one sequence after the other; None if neither file nor reader has told them."""
        return self.file.column(TOKENS) if TOKENS in self.file.tensor_names else self._tokens

    @property
    def bytes_per_label(self) -> float:
        """Bytes of the whole file over its rows."""
        return self.file.header.file_bytes / max(len(self), 1)

    def __len__(self) -> int:
        return len(self.file)

    def __repr__(self) -> str:
        codec = self.file.metadata["codec"]
        words = [codec["id"]]
        if codec["id"] in ("vq", "vq+top"):
            layout = codec.get("vq", codec)
            words += [layout["form"], f"G={layout['G']}", f"nbits={layout['nbits']}"]
            words += [f"top={codec['top']}"] if "top" in codec else []
            words += [f"prior={self._keys.tier}"]
        size = f"{self.file.row_bytes} bytes/label ({self.bytes_per_label:.3g} all-in)"
        return f"LabelDecoder({' '.join(words)}, C={self.classes}, {len(self):,} rows, {size}, {self.device})"

    def rows(self, epoch: ArrayLike, images: ArrayLike) -> NDArray[np.int64]:
        """Rows of these images [B] in an epoch (a number, or one for each image)."""
        numbers, epochs = np.asarray(images), np.asarray(epoch)
        for what, values, count in (("image", numbers, self.images), ("epoch", epochs, self.epochs)):
            if values.size and values.dtype.kind not in "iu":
                raise TypeError(f"{what} numbers must be whole, got {values.dtype}")
            if values.size and not 0 <= values.min() <= values.max() < count:
                raise IndexError(
                    f"{what} {values.max() if values.max() >= count else values.min()} is not in "
                    f"{os.path.basename(self.file.path)}, which has {count} {what}s: 0 to {count - 1}"
                )
        return epochs.astype(np.int64) * self.images + numbers.astype(np.int64)

    def load(self) -> None:
        """Load the rows now: of a file that is copied, forked workers then share them instead of loading their own."""
        self.file.gather([])

    @eager
    def read(self, rows: ArrayLike | torch.Tensor) -> PackedLabels:
        """Packed labels of rows [B], on the CPU."""
        numbers = np.asarray(rows)
        codes = self.file.gather(numbers)
        data = np.concatenate([codes, self._keys.of(numbers)], axis=1) if self._keys.size else codes
        return PackedLabels(self, torch.from_numpy(data))

    def of_sequences(self, numbers: ArrayLike, length: int | None = None) -> tuple[PackedLabels, torch.Tensor]:
        """Packed labels of all rows of these sequences [B], one after the other, and a mask bool [B, length].

        The mask says where they belong in tensors of the sequences that begin at column 0: `logits[mask]` are the
        student's for the same rows. length is that of the longest, unless given; what lies beyond it is left out.
        """
        if self.sequences is None:
            raise ValueError(f"{self.file.path} is not of sequences: read(rows) gives its labels")
        rows, mask = self.sequences.batch(numbers, length)
        return self.read(rows), torch.from_numpy(mask)

    def __call__(
        self,
        rows: ArrayLike | torch.Tensor,
        temperature: float = 1.0,
        output: str = "probs",
        *,
        dtype: torch.dtype = torch.float32,
        out: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Labels [B, C] of rows [B]: "probs" or "log_probs" of logits / temperature, or "logits"."""
        packed = self.read(rows).to(self.device)
        return self.decode(packed, Wanted(output, temperature, dtype), out=out, images=images)

    @eager
    def decode(
        self,
        packed: PackedLabels,
        wanted: Wanted,
        *,
        out: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What is wanted of packed labels, where they lie; `out` [B, C] is filled and returned if it is given."""
        if out is not None:
            wanted.check_out(out, (len(packed), self.classes), packed.device)
        path = self.path(packed.device)
        labels = path(*self.parts(packed, images), wanted)
        return labels if out is None else out.copy_(labels)

    def loss(
        self, student: torch.Tensor, packed: PackedLabels, terms: Terms, *, images: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Losses [B] of student logits [B, C] against packed labels; `vqlabel.losses` is the way in."""
        path = self.path(packed.device)
        path.check(terms)
        return path.loss(student, *self.parts(packed, images), terms)

    def parts(self, packed: PackedLabels, images: torch.Tensor | None = None) -> tuple[torch.Tensor, Side | None]:
        """Codes uint8 [B, row_bytes] of packed labels, and their side information."""
        row_bytes = self.file.row_bytes
        if self._keys.tier == "image" and images is None:
            raise ValueError("this prior looks at the images: pass images=, the views before they are normalised")
        if images is not None and len(images) != len(packed):
            raise ValueError(f"{len(images)} images were given for {len(packed)} labels")
        views = images.to(packed.device, torch.float32) if images is not None and self._keys.tier == "image" else None
        side = self._keys.side(packed.data[:, row_bytes:], views, by_kernel=self.path(packed.device).replays)
        return packed.data[:, :row_bytes], side

    def path(self, device: torch.device) -> Path:
        """The way to labels on this device, prepared on first use."""
        with self._lock:
            if device not in self._paths:
                self._paths[device] = choose_path(self._codec_here(), device, self.backend)
            return self._paths[device]

    def collate(self, collate: Any, row: Any) -> Any:
        """For a loader of your own data set: `collate_fn=decoder.collate(default_collate, row=...)`."""
        from vqlabel.data import Collate

        return Collate(self, collate, row)

    def _codec_here(self) -> Codec:
        if self._codec is None:
            self._codec = load_codec(self.file)
            with about(self.file.path):
                self._keys.check(self._codec)
        return self._codec

    def __reduce__(self) -> Any:
        return decoder_named, (self.name, self._tokens)


def decoder_named(name: tuple[Any, ...], tokens: ArrayLike | None = None) -> LabelDecoder:
    """The decoder of this name: the one that is open in this process, else a new one."""
    from vqlabel.file import _reopen

    opened, device, backend, token = name
    with _OPENING:
        found = _OPEN.get(token)
        if found is None:
            found = LabelDecoder.__new__(LabelDecoder)
            found._open(_reopen(*opened), torch.device(device), backend, token, tokens)
    return found
