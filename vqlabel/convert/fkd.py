"""FKD: a folder `train` of class folders, with one file for each image and all its crops: fkd_files.py.

Row = crop * images + image, with images as an ImageFolder has them: sorted by class folder, then by name.
"""

from __future__ import annotations

import json
import os

import numpy as np

from vqlabel.arguments import check_word
from vqlabel.codecs.topk import TAILS, TopK
from vqlabel.convert.fkd_files import HALF_IDS, SLACK, Crops, Kind, read_crops
from vqlabel.convert.fkd_listing import SUFFIX, Listing, knows, listing_of
from vqlabel.convert.fkd_spool import Spool
from vqlabel.convert.imported import Imported, Options, check_faults, check_options
from vqlabel.convert.spooled import SpooledLabels
from vqlabel.convert.torch_files import Contradiction, UnreadableFile
from vqlabel.progress import bar
from vqlabel.side import CLASSES, NAMES
from vqlabel.stored import ROWS

__all__ = ["knows", "open_set"]


def open_set(path: str, options: Options) -> Imported:
    """The labels of all crops, put in the order of rows."""
    if options.tail is not None:
        check_word("tail", options.tail, TAILS)
    listing = listing_of(path)
    images = sum(listing.counts)
    if options.images not in (None, images):
        raise ValueError(f"{listing.root} has labels of {images} images, not of {options.images}")
    look = _Look(listing, options, images)
    look.at_all()
    check_options(look.against, images)
    check_faults(look.faults, options.keep_going)
    if look.kind is None:
        raise ValueError(f"{listing.root}: none of the {images} files can be read, the first: {look.faults[0]}")
    return _imported(look, look.kind, options)


def _imported(look: _Look, kind: Kind, options: Options) -> Imported:
    spool, folders = look.spool, len(look.listing.names)
    missing = spool.finish()
    tail = options.tail or ("drop" if look.whole else "uniform")
    _tell(look, kind, tail, options)
    codec = TopK(look.classes, kind.k, tail=tail, values="P16", as_given=kind.values == "F16")
    about = {
        "set": "fkd",
        "labels": kind.labels,
        "dtype": kind.dtype,
        "crops": spool.crops,
        "folders": folders,
        "temperature": None,  # the author's --temp, 1.0 unless given
    }
    numbers = np.arange(folders, dtype=np.uint16 if folders <= 2**16 else np.uint32)
    names = b"\n".join(part for part in look.listing.names if part)
    return Imported(
        kind="fkd",
        source=SpooledLabels(look.classes, *spool.labels, tail=tail),
        images=spool.images,
        codec=codec,
        exact=look.exact,
        tensors={
            CLASSES: np.repeat(numbers, look.listing.counts),
            NAMES: np.frombuffer(names, np.uint8),
            ROWS: spool.views,
        },
        metadata={"replay": {"stored": spool.layout.to_json()}, "x.source": json.dumps(about)},
        missing=missing,
        faults=look.faults,
        labels_bytes=look.size,
    )


def _tell(look: _Look, kind: Kind, tail: str, options: Options) -> None:
    say = options.say
    say(f"{kind}; {look.spool.crops} crops of {look.spool.images} images, {look.classes} classes")
    if options.tail is None and kind.labels != "hard":
        others = {
            "drop": "have no probability, because all that is told adds up to 1",
            "uniform": "share what is missing to 1; labels of marginal_renorm look the same: give --tail drop",
        }
        say(f"tail {tail!r}: the other classes {others[tail]}")
    if not look.exact:
        say("probabilities are float32 and will be rounded to fp16")
    folders = len(look.listing.names)
    if folders < look.classes:
        say(f"images.class numbers the {folders} folders, which are not all {look.classes} classes")


class _Look:
    """One look at every file: what is told goes into the spool, what is wrong into the faults."""

    def __init__(self, listing: Listing, options: Options, images: int) -> None:
        self.listing, self.options, self.images = listing, options, images
        folders = len(listing.names)
        self.classes = folders if options.classes is None else options.classes
        if self.classes < max(folders, 2):
            raise ValueError(f"{listing.root} has {folders} class folders: say --classes, at least {max(folders, 2)}")
        self.kind: Kind | None = None
        self.faults: list[str] = []
        self.against: list[str] = []  # those of them that contradict what the user says
        self.size = 0
        self.whole = self.exact = True
        self.spool: Spool

    def at_all(self) -> None:
        """Look at every file."""
        with bar("looking into files", self.images, shown=True) as advance:
            for image, name in enumerate(self.listing):
                crops = self._at(os.path.join(self.listing.root, name) + SUFFIX)
                if crops is not None:
                    self.spool.put(image, crops)
                advance(1)

    def _at(self, path: str) -> Crops | None:
        try:
            self.size += os.path.getsize(path)
            crops = read_crops(path)
            self._check_classes(crops, path)
            self._check_kind(crops.kind)
        except FileNotFoundError:
            self.faults.append(f"{path}: it is not there")
        except UnreadableFile as error:
            self.faults.append(f"{path}: {error}")
            self.against += self.faults[-1:] if isinstance(error, Contradiction) else []
        else:
            self._sum_up(crops)
            return crops
        return None

    def _check_classes(self, crops: Crops, path: str) -> None:
        """ValueError where all files are in question, UnreadableFile where this one is."""
        highest, halves = int(crops.ids.max()), crops.kind.dtype == "float16"
        given = self.options.classes is not None
        if halves and (self.classes > HALF_IDS or (highest >= HALF_IDS and not given)):
            raise ValueError(
                f"{path} tells class numbers as fp16 (--use_fp16), which rounds those above {HALF_IDS}, but there are "
                f"{max(self.classes, highest + 1)} classes: nobody can tell any more which were meant; make the labels "
                "again as float32"
            )
        if highest < self.classes:
            return
        if given:
            raise Contradiction(f"it tells of class {highest}, but --classes says {self.classes}")
        raise ValueError(f"{path} tells of class {highest}, but there are {self.classes} class folders: say --classes")

    def _check_kind(self, kind: Kind) -> None:
        if self.kind is None:
            self.kind = kind
            self.spool = Spool(self.options, kind, self.images, self.classes)
        if kind != self.kind:
            raise UnreadableFile(f"it has {kind}, but the files before it {self.kind}")

    def _sum_up(self, crops: Crops) -> None:
        rest = 1 - crops.values.sum(1, dtype=np.float64)
        self.whole &= bool((np.abs(rest) <= SLACK[crops.kind.values]).all())
        self.exact &= bool((crops.values == crops.values.astype(np.float16)).all())
