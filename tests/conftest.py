"""Fixtures that several test files share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings

from vqlabel import LabelFile, _native

if TYPE_CHECKING:
    import torch
    from encoder_parts import Fitting

Run = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"

# Triton looks at this when it is imported, which torch's compiler does too; tests/interpret.py has the last word.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples in every run; no deadline, because a shared machine may stall.
settings.register_profile("vqlabel", derandomize=True, deadline=None, max_examples=200)
settings.load_profile("vqlabel")


def simd_paths() -> list[str]:
    """Every path that this processor can run, by asking for each."""
    best, found = _native.simd(), []
    for name in ("scalar", "ssse3", "avx2", "avx512", "neon"):
        try:
            _native.use_simd(name)
        except ValueError:
            continue
        found.append(name)
    _native.use_simd(best)
    return found


@pytest.fixture(params=simd_paths())
def simd(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on every SIMD path."""
    before = _native.simd()
    _native.use_simd(request.param)
    yield request.param
    _native.use_simd(before)


@pytest.fixture(scope="session")
def renderings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The glyphs of the benchmark, rendered once for all workers: it takes longer than most tests of them."""
    sys.path.insert(0, str(ROOT))  # examples are run from the repository
    from examples import shared
    from examples.glyphs import data

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "renderings"
    with shared.alone(folder / "all"):
        data.load(2, cache=folder)
    (made,) = folder.glob("*.npz")
    return made


@pytest.fixture(scope="module")
def glyphs_cache(tmp_path_factory: pytest.TempPathFactory, renderings: Path) -> Iterator[Path]:
    """A cache of the examples' own that holds the renderings already."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        (folder / "glyphs").mkdir()
        shutil.copy(renderings, folder / "glyphs")
        patch.setenv("VQLABEL_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Work as small as a test's only loses by threads of torch that wait for each other."""
    import torch  # not at the top: most tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ticks_inside(call: Callable[[], Any]) -> bool:
    """Whether this thread goes on while another makes a long call: its clock ticks in the middle of one of five."""
    spans: list[tuple[float, float]] = []

    def work() -> None:
        for _ in range(5):
            begin = time.perf_counter()
            call()
            spans.append((begin, time.perf_counter()))

    worker, ticks = threading.Thread(target=work), []
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0002)
    # With the lock held, a tick could fall between two calls, never in the middle of one.
    middle = [(begin + (end - begin) * 0.25, begin + (end - begin) * 0.75) for begin, end in spans]
    return any(begin < tick < end for begin, end in middle for tick in ticks)


def script(path: Path) -> ModuleType:
    """A file that is run and not installed, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden() -> ModuleType:
    """tests/golden/make.py as a module."""
    return script(GOLDEN / "make.py")


@pytest.fixture
def golden_copy(tmp_path: Path) -> Path:
    """A copy, to be damaged, of the golden file that has everything."""
    return Path(shutil.copy(GOLDEN / "v1_vq_g3x11.safetensors", tmp_path / "golden.safetensors"))


@pytest.fixture
def fitting(monkeypatch: pytest.MonkeyPatch) -> Fitting:
    """Fit in no time, and make files with such codecs readable."""
    from encoder_parts import Fitting

    import vqlabel.codecs  # not at the top: most tests need none

    fitting = Fitting()
    monkeypatch.setitem(sys.modules, "vqlabel.codecs.fitting", fitting)
    monkeypatch.setitem(vqlabel.codecs.CODECS, "nearest", ("encoder_parts", "Nearest"))
    return fitting


def largest(x: torch.Tensor, k: int) -> np.ndarray[Any, Any]:
    """Classes of the k largest logits of each row, slow and obvious: by falling logit, then by rising class."""
    return np.array([sorted(sorted(range(len(row)), key=lambda c: (-row[c], c))[:k]) for row in x.tolist()])


def exit_status(*arguments: Any) -> int:
    """Call the command line; get its exit status."""
    from vqlabel.cli import main

    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return int(str(ended.value.code))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command line; get its exit status, output and error output."""
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: Any) -> tuple[int, str, str]:
        ended = exit_status(*arguments)
        output = capsys.readouterr()
        return ended, output.out, output.err

    return call


def interrupted(*arguments: Any) -> None:
    """A command that is killed when it is about to write the first row."""
    from vqlabel.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vqlabel.encoder.write_rows", lambda *arguments, **options: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([str(argument) for argument in arguments])


def random_rows(rows: int, row_bytes: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rows of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, row_bytes)).astype(np.uint8)


@pytest.fixture
def make_file(tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray[Any, Any]]]:
    """Get make(rows, row_bytes, **metadata), which writes a file of random rows and returns its path and the rows."""

    def make(rows: int, row_bytes: int, **metadata: Any) -> tuple[Path, np.ndarray[Any, Any]]:
        path = tmp_path / f"{rows}x{row_bytes}.safetensors"
        data = random_rows(rows, row_bytes)
        settings = {"codec": {"id": "raw"}, **metadata}
        tensors = {"books": np.arange(12, dtype=np.float32)}
        with LabelFile.create(path, rows=rows, row_bytes=row_bytes, tensors=tensors, metadata=settings) as writer:
            writer.write(0, data)
        return path, data

    return make


@pytest.fixture
def sre2l(tmp_path: Path) -> Path:
    """A set of 40 images and 8 epochs as SRe2L writes them."""
    from foreign import write_sre2l

    write_sre2l(tmp_path / "set", images=40, batch=16, epochs=8)
    return tmp_path / "set"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of 40 images of 10 classes."""
    from foreign import folder_of

    return folder_of(tmp_path / "images", *(f"class{number % 10}/{number:03}.jpg" for number in range(40)))
