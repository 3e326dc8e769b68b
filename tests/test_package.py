"""The package: what a wheel and an sdist install, what an import loads, who may import whom."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT

import vqlabel

CHECK = """
import importlib.util, pathlib, sys
import vqlabel, vqlabel.codecs, vqlabel.kernels, vqlabel._native, vqlabel.cli
import numpy as np
folder = pathlib.Path(vqlabel.__file__).parent
assert folder.is_relative_to(sys.prefix), folder
assert (folder / "py.typed").exists() and (folder / "_native.pyi").exists()
for name in ("kernels", "tests", "benchmarks", "csrc", "examples"):
    assert importlib.util.find_spec(name) is None, name
assert vqlabel._native.unpack(np.array([[33, 3]], np.uint8), 4, 3).tolist() == [[1, 2, 3]]
print(vqlabel.__version__)
"""


def build(kind: str, source: Path, target: Path) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(target), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (made,) = target.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: a build leaves files behind."""
    copy = tmp_path_factory.mktemp("tree") / "vqlabel"
    kept = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "*.so", "results")
    return Path(shutil.copytree(ROOT, copy, ignore=kept))


@pytest.fixture(scope="module")
def wheels(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel made from the sdist, and one made from the tree with what the first compiled: that takes a minute."""
    folder = tmp_path_factory.mktemp("dist")
    archive = build("sdist", tree, folder / "sdist")
    shutil.unpack_archive(archive, folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    from_sdist = build("wheel", unpacked, folder / "from_sdist")
    (compiled,) = unpacked.glob("build/lib*/vqlabel/_native.c*")
    there = tree / compiled.relative_to(unpacked)
    there.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(compiled, there)
    return {"wheel": build("wheel", tree, folder / "wheel"), "sdist": from_sdist}


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_package_works_and_leaves_nothing_beside_it(
    kind: str, wheels: dict[str, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python)]
    command = [*pip, "install", "-q", "--no-index", "--no-deps", str(wheels[kind])]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    tops = {path.name for path in site.iterdir()} - {"__pycache__"}
    assert tops == {"vqlabel", f"vqlabel-{vqlabel.__version__}.dist-info"}
    # What it depends on comes from here; a path in a .pth file brings no editable install along.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run = subprocess.run([python, "-c", CHECK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == vqlabel.__version__


def test_wheel_and_sdist_hold_the_same_package(wheels: dict[str, Path]) -> None:
    assert wheels["wheel"].name == wheels["sdist"].name


def fresh(code: str, cwd: Path) -> str:
    """Output of a new interpreter somewhere else."""
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout


def test_editable_install_leaves_no_top_level_names(tmp_path: Path) -> None:
    code = (
        "from importlib.util import find_spec as f; import vqlabel.kernels; print(f('kernels'), f('tests'), f('csrc'))"
    )
    assert fresh(code, tmp_path) == "None None None\n"


def test_kernels_cannot_be_imported_by_the_wrong_name(tmp_path: Path) -> None:
    code = "try:\n import kernels\nexcept ImportError as error:\n print(error)"
    assert "installed as vqlabel.kernels" in fresh(code, ROOT)


def test_import_is_cheap(tmp_path: Path) -> None:
    code = "import vqlabel, sys; print(sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = ast.literal_eval(fresh(code, tmp_path))
    assert "vqlabel" in loaded
    assert not {"torch", "triton", "rich", "matplotlib", "argparse", "safetensors", "multiprocessing"} & set(loaded)


NEW_IN_NUMPY_2 = (
    "acos acosh asin asinh astype atan atan2 atanh bitwise_count bitwise_invert bitwise_left_shift bitwise_right_shift "
    "bool concat cumulative_prod cumulative_sum isdtype long matrix_norm matrix_transpose matvec permute_dims pow "
    "strings trapezoid ulong unique_all unique_counts unique_inverse unique_values unstack vecdot vecmat vector_norm"
)


def test_numpy_1_26_has_every_name_that_is_used() -> None:
    new = re.compile(rf"\bnp\.(?:{NEW_IN_NUMPY_2.replace(' ', '|')})\b|copy=None")
    folders = [ROOT / "vqlabel", *(ROOT / "vqlabel" / name for name in ("budget", "codecs", "convert"))]
    found = {path.name: new.findall(path.read_text()) for folder in folders for path in folder.glob("*.py")}
    assert {name: names for name, names in found.items() if names} == {}


def test_versions_agree() -> None:
    assert importlib.metadata.version("vqlabel") == vqlabel.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = re.search(r"^## (\S+)", changelog, flags=re.M)
    assert newest is not None
    assert newest[1] == vqlabel.__version__


def test_public_names_are_these() -> None:
    errors = ["Corrupt", "FormatError", "NewerVersion", "NotALabelFile", "Truncated", "Unfinished"]
    assert sorted(vqlabel.__all__) == sorted([*errors, "LabelDecoder", "LabelEncoder", "LabelFile", "__version__"])
    assert all(hasattr(vqlabel, name) for name in vqlabel.__all__)


# Each module may import the ones above it, at the top of the file; a function may import later what it needs.
LAYERS = [
    ("_version", "errors", "_native", "reference", "kernels._checks"),
    (
        "arguments",
        "blocks",
        "eager",
        "fields",
        "known",
        "tables",
        "ranks",
        "images",
        "logits",
        "progress",
        "reference_top",
        "terminal",
        "torch_state",
        "sources",
    ),
    ("kept",),
    ("sequences",),
    ("censored", "huggingface", "joined", "sequence_source"),
    ("tokens",),
    ("pruning", "replay"),
    ("view_layout", "views"),
    ("stored",),
    ("gaps", "side"),
    ("codecs.base", "codecs.layout", "codecs.options", "codecs.sample", "codecs.values"),
    ("codecs.checks", "codecs.descend", "codecs.kmeans", "codecs.spectrum", "codecs.stored"),
    ("codecs.priors",),
    ("codecs.additive", "codecs.model", "codecs.raw", "codecs.topk"),
    ("codecs.closest", "codecs.corrections", "codecs.foundation", "codecs.search"),
    ("codecs.vq",),
    ("codecs.hybrid",),
    ("codecs",),
    ("measure",),
    ("codecs.refit",),
    ("codecs.vqae",),
    ("codecs.choose",),
    ("codecs.fitting",),
    ("metadata",),
    ("format",),
    ("storage",),
    ("outputs", "rows", "stored_rows", "verify"),
    ("dumps",),
    ("remote",),
    ("file",),
    ("writer",),
    ("creation",),
    ("budget.ask",),
    ("budget.file", "budget.stores"),
    ("budget",),
    ("budget.published", "budget.report"),
    ("inspection", "sampling", "scene", "streams"),
    ("law", "native_decode", "text", "wanted"),
    ("plain_loss",),
    ("linear_loss",),
    ("alignment", "keys", "originals", "paths", "sampler"),
    ("packed", "schedules", "text_keys"),
    ("decoder", "losses"),
    ("data",),
    ("encoding", "label_source"),
    ("source_files",),
    ("told",),
    ("compare", "encoder"),
    ("fit_once",),
    ("commands",),
    ("convert.folder", "convert.imported", "convert.order", "convert.spooled", "convert.torch_files"),
    ("convert.asked",),
    ("convert.batch_files", "convert.fkd_files", "convert.fkd_listing", "convert.tinyvit_keys"),
    ("convert.batches", "convert.fkd_spool", "convert.tinyvit_files"),
    ("convert.fkd", "convert.tinyvit_index", "convert.view_columns"),
    ("convert.scan",),
    ("convert.distillkit_config", "convert.sre2l", "convert.tinyvit"),
    ("convert.distillkit_bytes", "convert.lpqld"),
    ("convert.distillkit_files",),
    ("convert.distillkit_records",),
    ("convert.distillkit",),
    ("convert", "convert.agreement", "convert.check"),
    ("convert.command", "export"),
    ("card_views",),
    ("card",),
    ("hub",),
    ("cli",),
    ("__main__",),
]


def source(name: str) -> Path:
    """Where a module of ours lies."""
    path = ROOT / "vqlabel" / name.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of ours that a file imports when it is itself imported."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "vqlabel":
            package = node.module.split(".")[1:]
            for alias in node.names:
                inner = ".".join([*package, alias.name])
                names.add(inner if not package or source(inner).exists() else ".".join(package))
    return names


def test_imports_point_one_way() -> None:
    allowed: set[str] = set()
    for layer in LAYERS:
        for name in layer:
            if source(name).exists():
                assert imported(source(name)) <= allowed, f"{name} imports {imported(source(name)) - allowed}"
        allowed |= set(layer)
    modules = {path.stem for path in (ROOT / "vqlabel").glob("*.py")}
    for folder in ("budget", "codecs", "convert"):
        modules |= {folder, *(f"{folder}.{path.stem}" for path in (ROOT / "vqlabel" / folder).glob("[!_]*.py"))}
    assert modules == allowed - {"_native", "kernels._checks"} | {"__init__"}
    for path in (ROOT / "kernels").glob("*.py"):
        assert imported(path) == set()
