"""The glyph benchmark, in its quick setting: the stages work, repeat themselves, go on, and say what is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import data, distill, models, perturb, run, student, teacher, training
from examples.glyphs.settings import Settings

# Of matplotlib 3.11.2, which constraints.txt pins: another version may draw another pixel.
FINGERPRINTS = {
    "all": (1281, "7b3e20fddd1c0249"),
    "all-close": (2068, "6949c5bc7f242c27"),
    "sans": (4471, "0bf318159c548bea"),
}
TINY = Settings(classes=20, ipc=2, epochs=4, batch=20, teacher_steps=24)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("VQLABEL_CACHE", str(folder))
        yield folder


@pytest.mark.parametrize("family", FINGERPRINTS)
def test_renderings_are_these(family: str) -> None:
    classes, fingerprint = FINGERPRINTS[family]
    glyphs = data.load(classes, family)
    assert glyphs.fingerprint() == fingerprint, f"rendered by {data.renderer()}"
    assert glyphs.train.shape[2:] == glyphs.test.shape[2:] == (32, 32)
    assert glyphs.train.any((2, 3)).all(), "an empty image"


def test_few_classes_are_the_first_of_many() -> None:
    few, many = data.load(100), data.load(1000)
    np.testing.assert_array_equal(few.train, many.train[:, :100])
    assert len(set(many.code_points.tolist())) == 1000


def test_damaged_cache_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = data.load(50, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        whole[: len(whole) // 2] + b"\xff" * 100 + whole[len(whole) // 2 + 100 :],
    ):
        path.write_bytes(damaged)
        assert data.load(50, cache=tmp_path).fingerprint() == good.fingerprint()
        assert path.read_bytes() == whole
    assert "is damaged" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path], "something half-written was left"


def test_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        data.load(50, cache=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["data", "--classes", "100000"], "error: classes must be 2 to 1281 in family 'all', got 100000"),
        (["data", "--classes", "1"], "error: classes must be at least 2, got 1"),
        (["data", "--family", "runes"], "error: family must be one of all, all-close, sans, got 'runes'"),
        (["labels", "--quick", "--mixing", "1.5"], "error: mixing must be 0 to 1, got 1.5"),
    ],
)
def test_wrong_settings_are_one_line(arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    assert caught.value.code == words


def test_missing_fonts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="DejaVuSans.ttf is missing: this matplotlib came without its fonts"):
        data.render(data.FAMILIES["all"])


def test_quick_setting_makes_everything(capsys: pytest.CaptureFixture[str]) -> None:
    hard, soft = "student from hard labels", "student from fp16 labels at T = 20"
    run.main(["all", "--quick", "--seeds", "1"])
    found = {line.split(":")[0]: line for line in capsys.readouterr().out.splitlines() if ": " in line}
    assert list(found) == ["data", "teacher", "labels", hard, soft]
    assert "83.0 % of the test in none to learn from" in found["data"]
    percent = {name: float(found[name].split(": ")[1].split(" %")[0]) for name in ("teacher", hard, soft)}
    assert percent["teacher"] > 85
    assert percent[soft] > percent[hard] + 2


def test_teacher_goes_on_where_it_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "SAVE_EVERY", 8)
    settings = dataclasses.replace(TINY, seed=5)
    undisturbed, accuracy = teacher.train(settings)
    path = settings.teacher_path()
    assert {path.name, *(f"{path.stem}-age-{age:g}.pt" for age in teacher.AGES)} <= {
        p.name for p in path.parent.iterdir()
    }
    path.unlink()
    steps = 0

    def stop(*arguments: Any, **options: Any) -> float:
        nonlocal steps
        steps += 1
        if steps == 12:
            raise KeyboardInterrupt
        return take_step(*arguments, **options)

    take_step = training.take_step
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            teacher.train(settings)
    resumed, again = teacher.train(settings)
    assert teacher.fingerprint(resumed) == teacher.fingerprint(undisturbed)
    assert again == accuracy
    assert teacher.fingerprint(teacher.at_age(settings, 1)) == teacher.fingerprint(undisturbed)
    assert teacher.fingerprint(teacher.at_age(settings, 1 / 8)) != teacher.fingerprint(undisturbed)
    with pytest.raises(FileNotFoundError, match="no teacher of age 0.3; after training there are 0.125, 0.25, 0.5, 1"):
        teacher.at_age(settings, 0.3)


def test_damaged_teacher_is_trained_again(capsys: pytest.CaptureFixture[str]) -> None:
    net, _ = teacher.train(TINY)
    TINY.teacher_path().write_bytes(TINY.teacher_path().read_bytes()[:5000])
    again, _ = teacher.train(TINY)
    assert teacher.fingerprint(again) == teacher.fingerprint(net)
    assert "is damaged" in capsys.readouterr().out


def test_labels_are_the_teachers_logits_of_replayed_views() -> None:
    file, (net, _) = distill.labels(TINY), teacher.train(TINY)
    assert len(file) == 4 * 40
    assert file.metadata["teacher"] == teacher.fingerprint(net)
    rows = np.array([0, 41, 159, 77])
    recipe = TINY.distilled_recipe
    source = distill.images(TINY)
    parameters = recipe.parameters(rows // 40, rows % 40)
    with torch.inference_mode():
        logits = net(perturb.views(source, recipe, parameters, perturb.TRAINING))
    torch.testing.assert_close(distill.logits(file, rows), logits - logits.mean(1, keepdim=True), atol=2e-2, rtol=2e-3)
    assert file.verify(images=source)
    assert not file.verify(images=source.flip(-1))
    np.testing.assert_array_equal(file.tensor("images.class"), np.arange(40) % 20)


def test_interrupted_labels_go_on_to_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "BATCH", 100)
    settings = dataclasses.replace(TINY, epochs=40)
    path = distill.labels(settings).path
    whole = Path(path).read_bytes()
    Path(path).unlink()
    made, calls = distill._rows, []

    def stop(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return made(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(distill, "_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            distill.labels(settings)
    assert not Path(path).exists()
    distill.labels(settings)
    assert Path(path).read_bytes() == whole


def test_same_seed_gives_the_same_student() -> None:
    source = student.soft(distill.labels(TINY), 4.0)
    first = [student.train(TINY, source, seed=seed) for seed in (0, 0, 1)]
    assert first[0] == first[1]
    assert student.train(TINY, student.hard(20), seed=0).whole >= 0


@pytest.mark.parametrize("name", models.STUDENTS)
def test_students_take_images_and_give_logits(name: str) -> None:
    net = models.student(name, 30)
    assert net(torch.zeros(3, 1, 32, 32)).shape == (3, 30)
    with pytest.raises(ValueError, match="student must be one of convnet, resnet, depthwise, got 'vit'"):
        models.student("vit", 30)


def test_hard_labels_share_the_loss_of_a_mix() -> None:
    recipe = dataclasses.replace(TINY.distilled_recipe, cutmix=1.0)
    parameters = recipe.parameters(0, np.arange(40))
    logits = torch.randn(40, 20)
    expected = -(
        torch.from_numpy(parameters.shares) * logits.log_softmax(1)[range(40), parameters.images % 20]
        + torch.from_numpy(1 - parameters.shares) * logits.log_softmax(1)[range(40), parameters.partners % 20]
    )
    assert float(student.hard(20)(logits, parameters, 0)) == pytest.approx(float(expected.mean()), rel=1e-4)


def test_more_images_than_renderings_are_perturbed_ones() -> None:
    settings = dataclasses.replace(TINY, ipc=10)
    images = distill.images(settings)
    assert images.shape == (200, 1, 32, 32)
    np.testing.assert_array_equal(images[:160], settings.teacher_images)
    assert not (images[160:] == images[:40]).flatten(1).all(1).any()
    torch.testing.assert_close(images, distill.images(settings))


def test_finished_cells_are_not_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["baseline", "--classes", "20", "--epochs", "4", "--batch", "20", "--teacher-steps", "24"]
    arguments += ["--seeds", "1", "--results", str(tmp_path)]
    run.main(arguments)
    results = json.loads((tmp_path / "baseline.json").read_text())
    assert len(results["cells"]) == 12
    assert "| 10 | " in capsys.readouterr().out
    assert (tmp_path / "spectrum.svg").exists()
    key = next(iter(results["cells"]))
    results["cells"][key] = 12.34
    (tmp_path / "baseline.json").write_text(json.dumps(results))
    run.main(arguments)
    assert json.loads((tmp_path / "baseline.json").read_text())["cells"][key] == 12.34


def test_command_line_runs_from_the_repository() -> None:
    command = [sys.executable, "-m", "examples.glyphs.run", "data", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("data: 100 classes, 8 + 4 faces, ")
