"""What published methods store beside their images; docs/budget.md has the arithmetic and where it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vqlabel.budget.ask import Ask, Store

# Bytes that torch.save adds to the tensors of one file, by what is stored of a view; SRe2L's are those of "cutmix".
# Taken from torch 2.13 and short names: a file's name is in it for each tensor, and may add some hundred.
LOGITS_ARCHIVE = {"cutmix": 2461, "cutout": 1953, "plain": 1953}
TOPK_ARCHIVE = {"cutmix": 3269, "cutout": 2141, "plain": 2141}
LOGITS_VIEW = {
    "cutmix": 16 + 1 + 8,  # box in fp32, flip, partner in int64
    "cutout": 16 + 28,  # box, and a cut of 7 numbers
    "plain": 16 + 1,
}
TOPK_VIEW = {"cutmix": 8 + 1 + 1, "cutout": 8 + 28, "plain": 8 + 1}  # box in fp16, partner in uint8
SRE2L_BATCH = 1024
# An archive of FKD pickles NumPy arrays as text: bytes from 128 up take two, about a quarter of all.
FKD_ARCHIVE, FKD_TEXT = 1500, 0.27
TINYVIT_KEY = 15  # an image's name and the end of its line
NPY_HEADER = 128
MAX_INT16 = 2**15 - 1


def sre2l(ask: Ask) -> Store:
    """Every batch of every epoch a file: raw logits, boxes, flips, partners."""
    files = _every_batch(ask, ask.batch or SRE2L_BATCH, ask.rounds)
    return _in_files(ask, files, (ask.width * ask.dataset.classes, LOGITS_VIEW["cutmix"], LOGITS_ARCHIVE["cutmix"]))


def lpld(ask: Ask) -> Store:
    """SRe2L's files, of which one in so many is kept, and a list of the images of each epoch."""
    view, batch = ask.dataset.view, min(ask.batch or ask.dataset.batch, ask.count)
    keep = 1 / 40 if ask.keep is None else ask.keep
    if keep == 1:
        files = _every_batch(ask, batch, ask.rounds + ask.as_written)
    else:
        each = ask.count // batch
        number = _batches_kept(ask, each, keep)
        # Its writer stops at the number of files, a test that is missed at the very end of an epoch.
        files = [(number + each * (ask.as_written and number % each == 0), batch)]
    store = _in_files(ask, files, (ask.width * ask.dataset.classes, LOGITS_VIEW[view], LOGITS_ARCHIVE[view]))
    return replace(store, index=_list_bytes(ask, store.rows))


def lpqld(ask: Ask) -> Store:
    """A file for each batch that is kept: k logits with their classes, views in half the bytes, a list of images."""
    view, batch = ask.dataset.view, min(ask.batch or ask.dataset.batch, ask.count)
    keep = 0.1 if ask.keep is None else ask.keep
    each, number = ask.count // batch, _batches_kept(ask, ask.count // batch, keep)
    if ask.as_written:  # the last file of each epoch is written over by the next epoch's first
        number = (number // each + 1) * max(each - 1, 1)
    boxes = 4 * (view == "cutmix")
    row = (ask.kept(50) * (ask.width + 2), TOPK_VIEW[view], TOPK_ARCHIVE[view] + boxes)
    store = _in_files(ask, [(number, batch)], row)
    keys = number * (len(str(number)) + len('"": [], '))
    notes = [_int16_note(ask)]
    if batch > 256 and view == "cutmix":
        notes.append(f"a partner is a uint8, so a batch of {batch} mixes with the wrong images")
    return replace(store, index=_list_bytes(ask, store.rows) + keys, note="; ".join(filter(None, notes)))


def fkd(ask: Ask) -> Store:
    """A file for each image: box, flip, k probabilities and their classes of each crop, all in one type."""
    k, crops = ask.kept(5), ask.rounds
    label, view = 2 * k * ask.width, 4 * ask.width + 1
    payload = crops * (label + view)
    each = ask.up(payload + FKD_ARCHIVE + round(FKD_TEXT * payload)) - payload
    rows = ask.count * crops
    lost = ask.dtype == "fp16" and ask.dataset.classes > 2**11
    note = "class numbers in fp16 are wrong beyond 2,048" if lost else ""
    return Store(rows, ask.count, rows * label, augmentation=rows * view, containers=ask.count * each, note=note)


def tinyvit(ask: Ask) -> Store:
    """Two files for each epoch: records of seed, k classes and probabilities; and a key for each record."""
    label, rows = ask.kept(100) * (2 + ask.width), ask.count * ask.rounds
    values, keys = ask.count * (4 + label), ask.count * TINYVIT_KEY
    slack = ask.rounds * (ask.up(values) - values + ask.up(keys) - keys)
    index = ask.rounds * keys
    return Store(rows, 2 * ask.rounds, rows * label, 0, 4 * rows, index, slack, _int16_note(ask))


def rded(ask: Ask) -> Store:
    """Nothing: the teacher makes the labels while the student trains."""
    return Store(0, 0, note="labels are made during training: the teacher must be there, and run on every view")


def one_label(ask: Ask) -> Store:
    """One array: a label for each image, whatever its view."""
    labels = ask.count * ask.width * ask.dataset.classes
    return Store(ask.count, 1, labels, containers=ask.up(labels + NPY_HEADER) - labels)


def _every_batch(ask: Ask, batch: int, epochs: int) -> list[tuple[int, int]]:
    """(files, rows in each) of whole epochs."""
    full, rest = divmod(ask.count, batch)
    return [(epochs * full, batch), (epochs * (rest > 0), rest)]


def _batches_kept(ask: Ask, each: int, keep: float) -> int:
    """Batches of all epochs, `each` in one, that pruning keeps."""
    if ask.as_written:  # in floating point: 0.1 of 23,400 are 2,339
        return int(ask.rounds * each * (1 - round(1 - keep, 9)))
    return max(1, round(ask.rounds * each * keep))


def _in_files(ask: Ask, files: Iterable[tuple[int, int]], row: tuple[int, int, int]) -> Store:
    """Store of (files, rows in each), for the bytes of a row's label, of its view, and of a file's archive."""
    label, view, archive = row
    sizes = [(number, rows, ask.up(rows * (label + view) + archive)) for number, rows in files if number]
    labels = sum(number * rows for number, rows, _ in sizes)
    disk = sum(number * size for number, _, size in sizes)
    count = sum(number for number, _, _ in sizes)
    held = labels * (label + view)
    return Store(labels, count, labels * label, augmentation=labels * view, containers=disk - held)


def _list_bytes(ask: Ask, rows: int) -> int:
    """Bytes of the numbers of these rows' images in a JSON list."""
    n = ask.count
    digits: int = n + sum(n - 10**power for power in range(1, len(str(n))))  # of all numbers below n
    return rows * (digits + 2 * n) // n


def _int16_note(ask: Ask) -> str:
    over = ask.dataset.classes > MAX_INT16
    return f"class numbers in int16 are wrong beyond {MAX_INT16:,}" if over else ""
