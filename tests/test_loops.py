"""The example loops run as they are written; those of accelerate and Lightning at least on stand-ins for them."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.loops import compiled, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")

COMMANDS = [
    ("examples.loops.plain",),
    ("examples.loops.sre2l",),
    ("examples.loops.lpqld",),
    ("examples.loops.compiled", "--backend", "aot_eager"),
    (*TORCHRUN, "examples.loops.ddp"),
]

# As much of the interfaces as the loops use. accelerate's loader says epochs to the sampler, by its own count.
ACCELERATE = """
import torch
class Loader(torch.utils.data.DataLoader):
    iteration = 0
    def set_epoch(self, epoch):
        self.iteration = epoch
        self.batch_sampler.sampler.set_epoch(epoch)
    def __iter__(self):
        self.set_epoch(self.iteration)
        yield from super().__iter__()
        self.iteration += 1
class Accelerator:
    def prepare(self, student, optimizer, loader):
        again = Loader(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)
        return student, optimizer, again
    def backward(self, loss):
        loss.backward()
    print = staticmethod(print)
"""
LIGHTNING = """
import torch
class LightningModule(torch.nn.Module):
    logged = {}
    def log(self, name, value, prog_bar, batch_size):
        self.logged[name] = value.detach()
class Trainer:
    def __init__(self, max_epochs, use_distributed_sampler, logger, enable_checkpointing):
        assert not use_distributed_sampler
        self.max_epochs = max_epochs
    def fit(self, module):
        loader, optimizer = module.train_dataloader(), module.configure_optimizers()
        for epoch in range(self.max_epochs):
            loader.sampler.set_epoch(epoch)
            for index, batch in enumerate(loader):
                optimizer.zero_grad()
                module.training_step(batch, index).backward()
                optimizer.step()
        self.callback_metrics = module.logged
"""
STAND_INS = {"accelerate": ACCELERATE, "lightning": LIGHTNING}


def loop_of(command: tuple[str, ...]) -> str:
    """The module that a command runs."""
    return next(word for word in command if word.startswith("examples."))


def run(*command: str) -> str:
    """What a loop prints."""
    options: dict[str, Any] = {"cwd": ROOT, "env": {**os.environ, "OMP_NUM_THREADS": "1"}, "timeout": 100}
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("command", COMMANDS, ids=loop_of)
def test_a_loop_runs_and_its_student_learns(command: tuple[str, ...]) -> None:
    printed = run(*command, "--quick")
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", printed)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    if TORCHRUN[0] in command:
        assert printed.count("over 100 rows") == 4  # both ranks together, none twice


@pytest.mark.parametrize("library", STAND_INS)
def test_a_loop_of_a_library_runs(library: str) -> None:
    pytest.importorskip(library, reason=f"{library} is not installed: its loop runs on a stand-in only")
    assert "loss" in run(f"examples.loops.{library}_loop", "--quick")


@pytest.mark.parametrize(("library", "first"), [("accelerate", 0), ("accelerate", 1), ("lightning", 0)])
def test_a_loop_of_a_library_reads_each_epoch_once_on_a_stand_in(
    library: str, first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in = ModuleType(library)
    exec(STAND_INS[library], stand_in.__dict__)
    monkeypatch.setitem(sys.modules, library, stand_in)
    loop = importlib.import_module(f"examples.loops.{library}_loop")
    monkeypatch.delitem(sys.modules, loop.__name__)
    images, decoder = tiny.made(tmp_path, 40, 3)
    read, seen = decoder.read, []

    def noted(rows: Any) -> Any:
        seen.extend(rows.tolist())
        return read(rows)

    monkeypatch.setattr(decoder, "read", noted)
    if library == "accelerate":
        loop.train(stand_in.Accelerator(), images, decoder, first=first)
    else:
        loop.train(images, decoder)
    assert re.search(r"loss \d\.\d+ in", capsys.readouterr().out)
    assert sorted(seen) == list(range(first * 40, 120))
    assert [row // 40 for row in seen] == [row // 40 for row in sorted(seen)]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
def test_a_compiled_step_computes_what_the_eager_one_does(tmp_path: Path) -> None:
    _, decoder = tiny.made(tmp_path, 20, 1)
    student, labels = tiny.student(), decoder.read(range(20))
    views = torch.rand(20, 3, tiny.VIEW, tiny.VIEW)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    loss = compiled.compiled(student, "eager")(views, labels)
    loss.backward()
    found = [weight.grad for weight in student.parameters()]
    wanted = torch.autograd.grad(labels.kl(student(views), 4), list(student.parameters()))
    torch.testing.assert_close(found, list(wanted))
    # The student is one graph; the loss, behind a break, is in none.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert all("distillation_loss" in reason for reason in torch._dynamo.utils.counters["graph_break"])
    assert torch._dynamo.utils.counters["graph_break"]


def test_every_loop_is_one_screen_and_tested() -> None:
    loops = {path.stem: path.read_text().splitlines() for path in (ROOT / "examples" / "loops").glob("[!_]*.py")}
    tested = {loop_of(command).rpartition(".")[2] for command in COMMANDS} | {f"{name}_loop" for name in STAND_INS}
    assert set(loops) == tested | {"tiny"}
    assert max(len(lines) for name, lines in loops.items() if name != "tiny") <= 70
