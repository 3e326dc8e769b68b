"""What a user can say about a codec that is fitted."""

from __future__ import annotations

from dataclasses import dataclass

from vqlabel.arguments import check_word, keep_whole
from vqlabel.known import TIERS

FORMS = ("auto", "product", "residual", "vqae")
MOST_CORRECTED = 64  # classes of a row


@dataclass(frozen=True)
class FitOptions:
    """How a `vq` codec is fitted. Say bytes_per_label or max_kl, not both; G and nbits decide the rate otherwise.

    prior is a tier of side information; form the layout of the books (auto: residual up to 8 bytes, product above;
    vqae: product books trained with an encoder and a decoder that has no linear part; it takes no prior); hidden the
    width of the decoder's hidden layer (None: what the size of the tables allows, 0: none). The refit minimises the KL
    at `temperatures`. beam is how many rows of codes of additive books are weighed for a label: fewer encode quicker
    and are worse. top is how many classes of a row are corrected after the codes (codec `vq+top`, for labels with most
    of their mass in a few classes): 1 byte and ceil(log2 C) bits each, on top of bytes_per_label. The same seed and
    rows give the same codec.
    """

    bytes_per_label: float | None = None
    max_kl: float | None = None
    prior: str = "none"
    form: str = "auto"
    codebooks: int | None = None
    nbits: int = 8
    width: int = 64
    hidden: int | None = None
    temperatures: tuple[float, ...] = (20.0,)
    stored: str = "int8"
    beam: int = 64
    top: int = 0
    effort: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_word("prior", self.prior, TIERS)
        check_word("form", self.form, FORMS)
        check_word("stored", self.stored, ("int8", "fp16"))
        if sum(value is not None for value in (self.bytes_per_label, self.max_kl, self.codebooks)) > 1:
            raise ValueError("say one of bytes_per_label, max_kl and codebooks: each of them decides the rate")
        if self.form == "vqae" and self.prior != "none":
            raise ValueError(f"form 'vqae' takes prior 'none', got {self.prior!r}; priors go with the other forms")
        if self.bytes_per_label is not None and not 0 <= self.bytes_per_label <= 256:
            raise ValueError(f"bytes_per_label must be 0 to 256, got {self.bytes_per_label}")
        if self.max_kl is not None and not self.max_kl > 0:
            raise ValueError(f"max_kl must be above 0, got {self.max_kl}")
        keep_whole(self, "nbits", 1, 16)
        keep_whole(self, "width", 1, 4096)
        if self.hidden is not None:
            keep_whole(self, "hidden", 0, 4096)
        if self.codebooks is not None:
            keep_whole(self, "codebooks", 0, 4096)
        keep_whole(self, "beam", 1, 64)
        keep_whole(self, "top", 0, MOST_CORRECTED)
        keep_whole(self, "seed", 0, 2**63 - 1)
        if self.form == "vqae" and self.hidden == 0:
            raise ValueError("form 'vqae' decodes with its hidden layer alone, so hidden must be above 0")
        if not self.temperatures or not all(0 < t <= 1000 for t in self.temperatures):
            raise ValueError(f"temperatures must be above 0 and at most 1000, got {self.temperatures}")
        if not 0 <= self.effort <= 100:
            raise ValueError(f"effort must be 0 to 100, got {self.effort}")
