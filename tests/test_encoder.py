"""LabelEncoder: the same bytes whoever encodes, whatever interrupts it; nothing lost, and clear words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_parts import CLASSES, Nearest, logits, ranks

from vqlabel import LabelEncoder, LabelFile
from vqlabel.codecs import load_codec
from vqlabel.codecs.base import Codec
from vqlabel.codecs.raw import Int8, Raw
from vqlabel.codecs.sample import BLOCK
from vqlabel.codecs.topk import TopK
from vqlabel.encoding import block_rows
from vqlabel.replay import ReplayRecipe
from vqlabel.scene import side_of
from vqlabel.side import SideInformation
from vqlabel.sources import open_source

ROWS = 3 * BLOCK + 1000
RECIPE = ReplayRecipe(seed=7, images=50, height=48, width=48, size=32, cutmix=0.5)
SIDE = SideInformation(np.arange(50) % CLASSES, RECIPE, draws=[[65536, 0]])
pytestmark = pytest.mark.usefixtures("fitting")


def table(seed: int = 0) -> Nearest:
    return Nearest(torch.from_numpy(logits(16, seed=seed)))


def undisturbed(folder: Path, codec: Codec, data: Any = None) -> bytes:
    file = LabelEncoder(codec).encode(logits(ROWS) if data is None else data, folder / "undisturbed")
    return Path(file.path).read_bytes()


@pytest.mark.parametrize("codec", [Raw(CLASSES), Int8(CLASSES), TopK(CLASSES, 3), table()], ids=lambda codec: codec.id)
def test_every_row_is_the_codec_s_own(tmp_path: Path, codec: Codec) -> None:
    data = logits(ROWS)
    file = LabelEncoder(codec).encode(data, tmp_path / "labels", metadata={"teacher": "t", "x.mine": "1"})
    np.testing.assert_array_equal(file.gather(np.arange(ROWS)), codec.encode(torch.from_numpy(data)))
    assert file.verify()
    assert {"classes": CLASSES, "teacher": "t", "x.mine": "1"}.items() <= file.metadata.items()
    assert load_codec(file).config() == codec.config()
    assert os.listdir(tmp_path) == ["labels"]


def loader(sizes: int) -> Iterator[Any]:
    data = logits(ROWS)
    return (data[start : start + sizes] for start in range(0, ROWS, sizes))


def test_bytes_do_not_depend_on_how_the_rows_come(tmp_path: Path) -> None:
    data = logits(ROWS)
    expected = undisturbed(tmp_path, table(), data)
    np.save(tmp_path / "logits.npy", data)
    sources = (
        tmp_path / "logits.npy",
        torch.from_numpy(data),
        open_source(lambda rows: data[rows], rows=ROWS),
        open_source(loader(97), rows=ROWS),
        open_source(loader(ROWS), rows=ROWS),
    )
    for index, source in enumerate(sources):
        file = LabelEncoder(table()).encode(source, tmp_path / f"{index}")
        assert Path(file.path).read_bytes() == expected


def test_a_block_is_always_computed_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    plain = Nearest.encode
    monkeypatch.setattr(Nearest, "encode", lambda self, x, side=None: sizes.append(len(x)) or plain(self, x, side))
    for rows in (1, BLOCK, BLOCK + 1):
        LabelEncoder(table()).encode(logits(rows), tmp_path / f"{rows}")
    assert sizes == [BLOCK] * 4


@pytest.mark.parametrize("classes", [2, 1000, 4096, 4097, 50_257, 2**24])
def test_a_block_has_a_bounded_size(classes: int) -> None:
    rows = block_rows(Raw(classes), None)
    assert rows & (rows - 1) == 0
    assert 1 <= rows <= BLOCK
    assert rows * classes * 4 <= 2**26
    assert rows == BLOCK or rows * classes * 8 > 2**26


def test_two_ranks_write_what_one_writes(tmp_path: Path) -> None:
    np.save(tmp_path / "logits.npy", logits(ROWS))
    script = """
    from vqlabel import LabelEncoder
    from vqlabel.codecs.topk import TopK
    import vqlabel.encoding as encoding
    plain, count = encoding.Blocks.encoded, []
    encoding.Blocks.encoded = lambda self, index: count.append(index) or plain(self, index)
    LabelEncoder(TopK(10, 3)).encode(folder + "/logits.npy", folder + "/labels")
    open(f"{folder}/blocks{rank}", "w").write(str(count))
    distributed.destroy_process_group()
    """
    assert ranks(script, tmp_path) == [0, 0]
    assert (tmp_path / "labels").read_bytes() == undisturbed(tmp_path, TopK(CLASSES, 3))
    # chunks of 8,192 rows: two blocks to a group
    assert [(tmp_path / f"blocks{rank}").read_text() for rank in (0, 1)] == ["[0, 1]", "[2, 3]"]


def test_a_killed_rank_ends_the_others_and_a_rerun_completes_the_file(tmp_path: Path) -> None:
    script = """
    from encoder_parts import logits
    from vqlabel import LabelEncoder
    from vqlabel.codecs.raw import Raw
    from vqlabel.sources import open_source
    data = logits(13288)
    def teacher(rows):
        if rank == 1 and rows[0] == 3 * 4096:
            os.kill(os.getpid(), signal.SIGKILL)
        return data[rows]
    LabelEncoder(Raw(10)).encode(open_source(teacher, rows=len(data)), folder + "/labels")
    """
    statuses = ranks(script, tmp_path)
    assert statuses[1] == -signal.SIGKILL
    assert statuses[0] != 0
    assert not (tmp_path / "labels").exists()
    assert LabelFile.resume(tmp_path / "labels").missing() == [range(3 * BLOCK, ROWS)]
    file = LabelEncoder(Raw(CLASSES)).encode(logits(ROWS), tmp_path / "labels")
    assert Path(file.path).read_bytes() == undisturbed(tmp_path, Raw(CLASSES))


def test_a_process_killed_in_a_block_loses_only_that_block(tmp_path: Path) -> None:
    code = """if True:
    import os, signal, sys, numpy as np, vqlabel.creation as creation, vqlabel.writer as writer
    from encoder_parts import logits
    from vqlabel import LabelEncoder
    from vqlabel.codecs.raw import Raw
    plain, calls = writer.put, []
    def put(fd, offset, array, path):
        calls.append(1)
        if len(calls) > 14:
            plain(fd, offset, np.asarray(array).reshape(-1)[:3], path)  # in the middle of a chunk
            os.kill(os.getpid(), signal.SIGKILL)
        plain(fd, offset, array, path)
    writer.put = creation.put = put
    LabelEncoder(Raw(10)).encode(logits(13288), sys.argv[1])
    """
    paths = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "labels")], env=paths, check=False)
    assert killed.returncode == -signal.SIGKILL
    writer = LabelFile.resume(tmp_path / "labels")
    (missing,) = writer.missing()
    writer.detach()
    assert 0 < missing.start < ROWS
    asked = []
    source = open_source(lambda rows: asked.append(rows[0]) or logits(ROWS)[rows], rows=ROWS)
    asked.clear()
    file = LabelEncoder(Raw(CLASSES)).encode(source, tmp_path / "labels")
    first = missing.start - missing.start % BLOCK
    assert asked == [*dict.fromkeys((0, (missing.start - 1) // BLOCK * BLOCK)), *range(first, ROWS, BLOCK)]
    assert Path(file.path).read_bytes() == undisturbed(tmp_path, Raw(CLASSES))


def interrupted(path: Path, codec: Codec, **metadata: str) -> None:
    """Leave what a failing teacher leaves behind: all but the last block."""

    def teacher(rows: Any) -> Any:
        if rows[-1] == ROWS - 1:
            raise RuntimeError("the teacher is tired")
        return logits(ROWS)[rows]

    with pytest.raises(RuntimeError, match="tired"):
        LabelEncoder(codec).encode(open_source(teacher, rows=ROWS), path, metadata=metadata)


@pytest.mark.parametrize(
    ("codec", "rows", "metadata", "words"),
    [
        (table(1), ROWS, {"teacher": "a"}, r"\(tensor books\)"),
        (table(), ROWS + 1, {"teacher": "a"}, rf"\(rows {ROWS} instead of {ROWS + 1}\)"),
        (table(), ROWS, {"teacher": "b"}, r"\(teacher\)"),
        (table(), ROWS, {}, r"\(teacher\)"),
        (Raw(CLASSES), ROWS, {"teacher": "a"}, r"\(row_bytes 1 instead of 20, codec, names of tensors\)"),
    ],
)
def test_only_the_same_encoding_is_resumed(
    tmp_path: Path, codec: Codec, rows: int, metadata: dict[str, str], words: str
) -> None:
    interrupted(tmp_path / "labels", table(), teacher="a")
    before = (tmp_path / "labels.partial").read_bytes()
    with pytest.raises(ValueError, match=f"begun with other settings {words}; encode with those to finish it, or del"):
        LabelEncoder(codec).encode(logits(rows), tmp_path / "labels", metadata=metadata)
    assert (tmp_path / "labels.partial").read_bytes() == before
    LabelEncoder(table()).encode(logits(ROWS), tmp_path / "labels", metadata={"teacher": "a"})


def test_a_finished_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="labels exists; delete it or choose another name"):
        LabelEncoder(table()).encode(logits(5), tmp_path / "labels")
    assert (tmp_path / "labels").read_bytes() == b"mine"


def test_sets_of_no_rows_and_of_one_are_encoded(tmp_path: Path) -> None:
    for rows in (0, 1):
        assert len(LabelEncoder(table()).encode(logits(rows), tmp_path / f"{rows}")) == rows


def test_bad_logits_are_named_and_nothing_is_lost(tmp_path: Path) -> None:
    data = logits(ROWS)
    data[BLOCK + 7, 3] = np.nan
    with pytest.raises(ValueError, match=f"row {BLOCK + 7} holds NaN"):
        LabelEncoder(table()).encode(data, tmp_path / "labels")
    data[BLOCK + 7, 3] = logits(ROWS)[BLOCK + 7, 3]
    file = LabelEncoder(table()).encode(data, tmp_path / "labels")
    assert Path(file.path).read_bytes() == undisturbed(tmp_path, table())
    with pytest.raises(ValueError, match="these look like probabilities"):
        LabelEncoder(table()).encode(torch.softmax(torch.from_numpy(data), 1), tmp_path / "soft")
    with pytest.raises(ValueError, match="the codec is for 10 classes, but the logits have 11"):
        LabelEncoder(table()).encode(logits(5, 11), tmp_path / "wide")


def test_side_information_travels_in_the_file(tmp_path: Path) -> None:
    codec = Nearest(table().table, tier="replay")
    file = LabelEncoder(codec, SIDE).encode(logits(200), tmp_path / "a", metadata={"replay": {"views": ["00"]}})
    assert (file.metadata["epochs"], file.metadata["images"]) == (4, 50)
    assert file.metadata["replay"]["views"] == ["00"]
    assert file.tensor("images.class").dtype == np.uint16
    side = side_of(file)
    assert side is not None
    assert (side.recipe, side.draws, side.classes.tolist()) == (RECIPE, [[65536, 0]], SIDE.classes.tolist())
    rows = np.array([3, 70, 199])
    assert torch.equal(side.of(rows).features, SIDE.of(rows).features)
    file = LabelEncoder(codec, SIDE).encode(logits(120), tmp_path / "b")
    assert "epochs" not in file.metadata  # the last one is not whole
    assert side_of(LabelEncoder(table()).encode(logits(9), tmp_path / "c")) is None
    with pytest.raises(ValueError, match="the replay recipe in the metadata is not that of the side information"):
        LabelEncoder(codec, SIDE).encode(logits(5), tmp_path / "d", metadata={"replay": {"recipe": {}}})
    with pytest.raises(ValueError, match="metadata 'codec' is what the encoder itself says"):
        LabelEncoder(codec, SIDE).encode(logits(5), tmp_path / "d", metadata={"codec": {}})


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"images": 25, "epochs": 8}, "'images' is 25, but the side information says 50"),
        ({"epochs": 2}, "'epochs' is 2, but the side information says 4"),
        (
            {"replay": {"recipe": RECIPE.to_json(), "draws": [[65536, 1]]}},
            "replay list of draws in the metadata is not",
        ),
        ({"replay": {"stored": {}}}, "replay recipe in the metadata is not that of the side information"),
        ({"replay": RECIPE}, "'replay' is a dict, such as"),
    ],
)
@pytest.mark.parametrize("tier", ["none", "classes"])
def test_metadata_may_not_contradict_the_side_information(
    tmp_path: Path, metadata: dict[str, Any], words: str, tier: str
) -> None:
    encoder = LabelEncoder(Nearest(table().table, tier=tier), SIDE)
    with pytest.raises(ValueError, match=words):
        encoder.encode(logits(200), tmp_path / "labels", metadata=metadata)
    assert os.listdir(tmp_path) == []
    same = {"images": 50, "epochs": 4, "replay": {"recipe": RECIPE.to_json(), "draws": [[65536, 0]]}}
    encoder.encode(logits(200), tmp_path / "labels", metadata=same)


def test_a_prior_that_was_told_of_no_recipe_is_read_without_one(tmp_path: Path) -> None:
    side, told = SideInformation(SIDE.classes), {"replay": {"recipe": RECIPE.to_json()}}
    with pytest.raises(ValueError, match="the replay recipe in the metadata is not that of the side information"):
        LabelEncoder(Nearest(table().table, tier="classes"), side).encode(logits(50), tmp_path / "a", metadata=told)
    assert "replay" in LabelEncoder(table(), side).encode(logits(50), tmp_path / "b", metadata=told).metadata


@pytest.mark.parametrize(
    ("name", "tensor"),
    [("books", logits(16, seed=1)), ("books", logits(15)), ("images.class", np.zeros(50, np.uint16))],
)
def test_tensors_of_the_encoder_itself_are_not_replaced(tmp_path: Path, name: str, tensor: Any) -> None:
    encoder = LabelEncoder(table(), SIDE)
    with pytest.raises(ValueError, match=f"tensor '{name}' is what the encoder itself writes, and was given with"):
        encoder.encode(logits(100), tmp_path / "labels", tensors={name: tensor})
    assert os.listdir(tmp_path) == []
    same = {"books": table().table, "images.class": SIDE.classes, "x.mine": np.zeros(3)}
    file = encoder.encode(logits(100), tmp_path / "labels", tensors=same)
    assert file.tensor_names == ["images.class", "books", "x.mine"]


def test_epochs_are_of_images(tmp_path: Path) -> None:
    file = LabelEncoder(table()).encode(logits(200), tmp_path / "labels", metadata={"epochs": 20})
    assert file.metadata["images"] == 10
    with pytest.raises(ValueError, match="30 epochs of 6 images are not 200 rows"):
        LabelEncoder(table()).encode(logits(200), tmp_path / "other", metadata={"epochs": 30})
    with pytest.raises(ValueError, match="metadata 'epochs' must be a whole number from 1"):
        LabelEncoder(table()).encode(logits(200), tmp_path / "other", metadata={"epochs": "20"})


def test_an_empty_path_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="the path of a label file is empty"):
        LabelEncoder(table()).encode(logits(5), "")
    with pytest.raises(ValueError, match="the path of a label file is empty"):
        LabelFile.create("", rows=1, row_bytes=1, metadata={"codec": {"id": "raw"}})


def test_missing_or_wrong_side_information_is_told() -> None:
    with pytest.raises(ValueError, match="the prior of this codec is 'classes': give side="):
        LabelEncoder(Nearest(table().table, tier="classes"))
    with pytest.raises(ValueError, match="image 1 is of class 10, but the logits have 10 classes"):
        LabelEncoder(table(), SideInformation([0, 10]))
    with pytest.raises(ValueError, match="prior 'classes' needs to know the images behind the rows: give side="):
        LabelEncoder.fit(logits(50), prior="classes")


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(ValueError, match="an iterator gives its rows once, but fitting and encoding both need them"):
        LabelEncoder.fit(open_source(loader(100), rows=ROWS))
    with pytest.raises(ValueError, match="no rows to fit on"):
        LabelEncoder.fit(logits(0))
    with pytest.raises(ValueError, match="rows must be at least 1 and held_out at least 0, got 0 and 5000"):
        LabelEncoder.fit(logits(9), rows=0)
    with pytest.raises(ValueError, match="these look like probabilities"):
        LabelEncoder.fit(torch.softmax(torch.from_numpy(logits(50)), 1))
    bad = logits(50)
    bad[3, 3] = np.inf
    with pytest.raises(ValueError, match="row 3 holds inf"):
        LabelEncoder.fit(bad)


def test_a_fit_is_kept_and_taken_up_again(tmp_path: Path) -> None:
    encoder = LabelEncoder.fit(logits(ROWS), side=SIDE, prior="classes", temperatures=(4.0, 20.0), progress=False)
    encoder.save(tmp_path / "codec")
    again = LabelEncoder.load(tmp_path / "codec")
    assert (again.measured, again.temperatures) == (encoder.measured, (4.0, 20.0))
    files = [each.encode(logits(ROWS), tmp_path / f"{i}") for i, each in enumerate((encoder, again))]
    assert Path(files[0].path).read_bytes() == Path(files[1].path).read_bytes()
    assert files[0].metadata["temperatures"] == [4, 20]
    assert files[0].metadata["measured"] == encoder.measured
    assert not [name for name in files[0].tensor_names if name.startswith("search.")]
    # a label file decodes, and says that it cannot encode
    with pytest.raises(ValueError, match="comes from a label file"):
        LabelEncoder.load(tmp_path / "0").encode(logits(5), tmp_path / "more")
    with pytest.raises(FileExistsError):
        encoder.save(tmp_path / "codec")


def test_encoding_a_sparse_file_takes_little_memory(tmp_path: Path) -> None:
    # 480 MB of zeros, also as a map, whose pages would count as ours; benchmarks/bench_encode.py has 20 GB
    array = np.lib.format.open_memmap(tmp_path / "zeros.npy", "w+", np.float32, (60_000, 2000))
    del array
    code = """if True:
    import resource, sys, numpy as np, torch
    from encoder_parts import Nearest
    from vqlabel import LabelEncoder
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder, encoder = sys.argv[1], LabelEncoder(Nearest(torch.zeros(16, 2000)))
    encoder.encode(np.zeros((4096, 2000), np.float32), folder + "/one block")
    before = peak()
    encoder.encode(folder + "/zeros.npy", folder + "/file")
    encoder.encode(np.load(folder + "/zeros.npy", mmap_mode="r"), folder + "/map")
    print(peak() - before)
    """
    paths = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    run = subprocess.run(command, env=paths, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 250_000, "KiB more than for one block"
    assert (tmp_path / "map").read_bytes() == (tmp_path / "file").read_bytes()
