"""Images of each method: what they are made from, what they teach, and that a run goes on where it stopped."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.glyphs import distill, perturb, run, student, synthesize, teacher
from examples.glyphs.retention import Cell
from examples.glyphs.retention_sources import Source
from examples.glyphs.settings import Settings
from examples.glyphs.synthesis import cda, lpld, optimise, rded, sets, sheet, sre2l, statistics
from examples.glyphs.synthesis.options import METHODS, Optimised, Patches

TINY = Settings(classes=20, ipc=2, epochs=6, batch=20, teacher_steps=40)
OPTIMISED = [name for name, options in METHODS.items() if isinstance(options, Optimised) and options.steps]


def of(method: str, steps: int = 0, **more: Any) -> Settings:
    return dataclasses.replace(TINY, method=method, steps=steps, **more)


def options_of(settings: Settings) -> Optimised:
    assert isinstance(settings.synthesis, Optimised)
    return settings.synthesis


@pytest.fixture(scope="module", autouse=True)
def few_views(one_thread: None, glyphs_cache: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "VIEWS", 10)
        yield


@pytest.fixture(scope="module")
def net() -> torch.nn.Module:
    return teacher.train(TINY)[0]


@pytest.mark.parametrize("number", [0, -1])
def test_results_of_real_images_keep_their_keys(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = json.loads((ROOT / "examples/glyphs/results/retention.json").read_text())["cells"]
    known, stored = list(cells.items())[number]
    found = Cell(
        Source("fp16"), stored["temperature"], stored["seed"], Settings(**stored["settings"]), stored["effort"]
    )
    assert found.facts()["settings"] == stored["settings"]
    facts = {**found.facts(), "source": stored["source"], "name": stored["name"]}  # what is tested are the settings
    monkeypatch.setattr(Cell, "facts", lambda _: facts)
    assert found.key(stored["teacher"]) == known


def test_real_images_keep_their_names_and_others_have_their_own() -> None:
    fields = "classes=20, family='all', ipc=2, epochs=6, mixing=0.5, batch=20, teacher_steps=40, seed=0"
    assert str(TINY) == f"Settings({fields})"
    assert str(of("lpld", 7)) == f"Settings({fields}, method='lpld', steps=7)"
    facts = [TINY._teacher_facts(), TINY.ipc, TINY.epochs, TINY.distilled_recipe.to_json()]
    assert TINY.labels_path().name == f"labels-{TINY._key(facts)}.safetensors"
    every = [TINY, of("rded"), of("sre2l"), of("sre2l", 7), of("lpld"), of("lpld", ipc=3), of("lpld", seed=1)]
    for paths in ({s.labels_path() for s in every}, {s.images_path() for s in every}):
        assert len(paths) == len(every)
    keys = {Cell(Source("fp16"), 20.0, 0, s).key("teacher") for s in every}
    assert len(keys) == len(every)


def test_real_images_are_those_of_the_faces() -> None:
    np.testing.assert_array_equal(distill.images(TINY), TINY.teacher_images[:40])
    with_file = sets.stored(TINY)
    assert "teacher" not in sets.provenance(with_file)  # they do not depend on it


@pytest.mark.parametrize("name", ["lpdl", "", "vqae"])
def test_wrong_methods_are_one_line(name: str) -> None:
    with pytest.raises(ValueError, match="method must be one of random, rded, rded1, sre2l, cda, lpld, noise, got "):
        of(name)
    with pytest.raises(SystemExit, match="error: method must be one of random"):
        synthesize.main([name, "--quick"])


def test_what_does_not_fit_a_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method 'rded' takes no steps, got 5"):
        of("rded", 5)
    with pytest.raises(SystemExit, match="error: the baseline is of real images, not of method 'lpld'"):
        run.main(["baseline", "--quick", "--method", "lpld"])


def test_statistics_of_a_batch_are_those_of_a_batch_norm() -> None:
    x = torch.randn(12, 5, 4, 4, dtype=torch.float64, requires_grad=True)
    for groups in (1, 3, 12):
        parts = x.unflatten(0, (groups, -1))
        expected = parts.mean((1, 3, 4)), parts.var((1, 3, 4), correction=0)
        torch.testing.assert_close(statistics.moments(x, groups), expected)
        torch.testing.assert_close(statistics.moments(x[:, :, 0, 0], groups)[1], parts[..., 0, 0].var(1, correction=0))
    assert torch.autograd.gradcheck(lambda z: statistics.moments(z, 3), x)
    assert torch.autograd.gradcheck(lambda z: statistics.moments(z[:, :, 0, 0], 3), x)


def test_statistics_of_classes_equal_a_slow_loop(net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", 7)  # not a divisor of 20
    found, images = statistics.by_class(net, TINY), TINY.teacher_images
    layer = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)][2]
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for y in (0, 13, 19):
        mean, variance = torch.zeros(128), torch.ones(128)
        for view in range(statistics.VIEWS):
            ids = np.array([face * 20 + y for face in range(8)])
            parameters = TINY.teacher_recipe.parameters(view, ids)
            with torch.inference_mode():
                net(perturb.views(images, TINY.teacher_recipe, parameters, perturb.TRAINING))
            x = seen.pop()
            mean = 0.9 * mean + 0.1 * x.mean((0, 2, 3))
            variance = 0.9 * variance + 0.1 * x.var((0, 2, 3), correction=0)
        torch.testing.assert_close(found[2][0][y], mean, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[2][1][y], variance, atol=1e-4, rtol=1e-4)
    handle.remove()


def test_the_distance_is_a_norm_per_layer_and_the_first_counts_more(net: torch.nn.Module) -> None:
    target = statistics.of_all(net)
    assert len(target) == 5
    with torch.inference_mode():
        _, found = statistics.seen(net, torch.randn(6, 1, 32, 32), 2)
    zero = torch.zeros(2, dtype=torch.int64)
    expected = [
        sum(
            (10 if layer == 0 else 1) * float((mine[group] - wanted[0]).norm())
            for layer, pair in enumerate(zip(found, target, strict=True))
            for mine, wanted in zip(*pair, strict=True)
        )
        for group in range(2)
    ]
    distances = statistics.distance(found, target, zero, 10.0)
    assert distances.tolist() == pytest.approx(expected, rel=1e-4)
    assert float(statistics.distance(target, target, zero[:1], 10.0)) == 0


def test_lpld_differs_from_sre2l_in_statistics_and_batches_only(net: torch.nn.Module) -> None:
    assert METHODS["lpld"] == METHODS["sre2l"] == METHODS["cda"]
    options = options_of(of("sre2l"))
    one, two = sre2l.plan(TINY, net, options), lpld.plan(TINY, net, options)
    assert {field.name for field in dataclasses.fields(one)} == {"batches", "target", "area"}
    assert [one.area(done) for done in (0, 0.5, 1)] == [two.area(done) for done in (0, 0.5, 1)] == [options.area] * 3
    assert [batch.tolist() for batch in one.batches] == [[[*range(20)]], [[*range(20, 40)]]]
    assert [group.tolist() for batch in two.batches for group in batch] == [[y, y + 20] for y in range(20)]
    assert [len(mean) for mean, _ in one.target + two.target] == [1] * 5 + [20] * 5
    ids = np.array([3, 23])  # the first pixels and the views of an image are the same in both
    batches = [
        optimise._Batch(TINY, plan, options, each) for plan, each in ((one, np.arange(40)[None]), (two, ids[None]))
    ]
    for step in (0, 5):
        torch.testing.assert_close(batches[0]._views(step, 0.35)[ids], batches[1]._views(step, 0.35))


def test_a_class_of_many_images_is_a_batch_by_itself(net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sre2l, "SIZE", 2)
    many = of("lpld", ipc=3)
    found = lpld.plan(many, net, options_of(many)).batches
    assert [batch.tolist() for batch in found] == [[[y, y + 20, y + 40]] for y in range(20)]


def test_groups_side_by_side_change_nothing(net: torch.nn.Module) -> None:
    options = dataclasses.replace(options_of(of("lpld")), steps=4)
    plan = lpld.plan(TINY, net, options)
    together = optimise._Batch(TINY, plan, options, np.array([[3, 23], [4, 24]]))
    alone = optimise._Batch(TINY, plan, options, np.array([[4, 24]]))
    net.requires_grad_(False)
    for step in range(4):
        together.take_step(net, step)
        alone.take_step(net, step)
    torch.testing.assert_close(together.pixels[2:], alone.pixels, atol=1e-3, rtol=1e-3)


def test_the_curriculum_goes_from_whole_images_to_small_crops(net: torch.nn.Module) -> None:
    options = options_of(of("cda"))
    area = cda.plan(TINY, net, options).area
    assert [area(0), area(1)] == pytest.approx([1.0, options.area])
    assert area(0.5) == pytest.approx((1 + options.area) / 2)
    assert area(0.25) - area(0.0) > area(0.5) - area(0.25)  # slow at first


@pytest.mark.parametrize("method", OPTIMISED)
def test_an_interrupted_run_makes_the_same_bytes(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimise, "SAVE_EVERY", 2)
    monkeypatch.setattr(sre2l, "SIZE", 20)
    settings = of(method, 5)
    path = sets.stored(settings)
    whole = path.read_bytes()
    path.unlink()
    for stop_at in (4, 8):  # in the first batch, and in the second
        with monkeypatch.context() as patch:
            calls: list[int] = []
            patch.setattr(optimise._Batch, "take_step", stopping(stop_at, calls))
            with pytest.raises(KeyboardInterrupt):
                sets.stored(settings)
        assert not path.exists()
    assert sets.stored(settings).read_bytes() == whole
    assert not path.with_suffix(".running").exists()
    assert len(calls) == 8


def stopping(at: int, calls: list[int]) -> Any:
    """Steps, of which this one is never taken."""
    take_step = optimise._Batch.take_step

    def stop(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return take_step(*arguments)

    return stop


def test_what_another_teacher_began_is_not_gone_on_with(net: torch.nn.Module, tmp_path: Path) -> None:
    running = tmp_path / "x.running"
    torch.save({"teacher": "another", "batch": 7}, running)
    assert optimise._begun(TINY, net, running)["batch"] == 0


def test_a_file_says_where_its_images_are_from(net: torch.nn.Module) -> None:
    settings = of("lpld", 3, seed=0)
    told = sets.provenance(sets.stored(settings))
    assert told["method"] == "lpld"
    assert told["settings"] == settings.facts()
    assert told["synthesis"] == {**dataclasses.asdict(METHODS["lpld"]), "steps": 3}
    assert told["teacher"] == teacher.fingerprint(net)
    assert told["seed"] == 0
    assert set(told["versions"]) == {"vqlabel", "torch", "numpy", "data"}
    assert {name: len(pair) for name, pair in told["losses"].items()} == {"ce": 2, "bn": 2}


def test_a_damaged_file_is_made_again(capsys: pytest.CaptureFixture[str]) -> None:
    path = sets.stored(of("noise"))
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", whole[:-1]):
        path.write_bytes(damaged)
        assert distill.images(of("noise")).shape == (40, 1, 32, 32)
        assert path.read_bytes() == whole
    assert "is damaged" in capsys.readouterr().out


def test_patches_are_the_best_of_a_slow_search(net: torch.nn.Module) -> None:
    options, ipc, classes = Patches(views=2, crops=3), 2, np.array([4, 11])
    patches, losses = rded.candidates(TINY, net, options, classes)
    assert patches.shape == (2, 16, 3, 16, 16)
    made = rded.stitched(rded.chosen(patches, losses, ipc * 4), 2)
    for row, y in enumerate(classes):
        best = []
        for image in range(16):
            wide = torch.zeros(3, 1, 32, 32)
            wide[:, 0, 8:24, 8:24] = patches[row, image]
            with torch.inference_mode():
                each = [float(functional.cross_entropy(net((p[None] - 0.5) * 2), torch.tensor([y]))) for p in wide]
            best.append((min(each), patches[row, image, int(np.argmin(each))]))
        best.sort(key=lambda pair: pair[0])
        for image in range(ipc):
            four = [patch for _, patch in best[4 * image : 4 * image + 4]]
            expected = torch.cat([torch.cat(four[:2], 1), torch.cat(four[2:], 1)], 0)
            torch.testing.assert_close(made[row, image, 0].float() / 255, expected, atol=0.003, rtol=0)


def test_stitched_images_stand_with_their_classes(net: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    options = Patches(views=1, crops=2)
    whole = rded.images(TINY, net, options)
    monkeypatch.setattr(rded, "CHUNK", 3)
    torch.testing.assert_close(rded.images(TINY, net, options), whole)
    patches, losses = rded.candidates(TINY, net, options, np.array([5]))
    torch.testing.assert_close(whole[[5, 25]], rded.stitched(rded.chosen(patches, losses, 8), 2)[0])


def test_many_images_a_class_find_enough_patches(net: torch.nn.Module) -> None:
    many = of("rded", ipc=5)
    patches, losses = rded.candidates(many, net, Patches(views=1, crops=1), np.array([0]))
    assert rded.chosen(patches, losses, 20).shape == (1, 20, 16, 16)


@pytest.mark.parametrize("steps", [1, 2])
def test_losses_are_means_over_groups_at_the_first_step_and_the_last(steps: int, net: torch.nn.Module) -> None:
    settings, options = of("lpld"), dataclasses.replace(options_of(of("lpld")), steps=steps)
    plan = lpld.plan(settings, net, options)
    plan = dataclasses.replace(plan, batches=[plan.batches[0][:3], plan.batches[0][3:8]])
    _, found = optimise.images(settings, net, plan, options, settings.folder() / "none.running")
    batches = [optimise._Batch(settings, plan, options, ids) for ids in plan.batches]
    steps_taken = [[batch.take_step(net, step) for step in range(steps)] for batch in batches]
    for column, name in enumerate(("ce", "bn")):
        expected = [sum(taken[at][column] for taken in steps_taken) / 8 for at in (0, -1)]
        assert found[name] == pytest.approx(expected, rel=1e-5)
    (settings.folder() / "none.running").unlink()


@pytest.fixture(scope="module")
def taught_by_noise(net: torch.nn.Module) -> float:
    settings = of("noise", epochs=40)
    return student.train(settings, student.soft(distill.labels(settings), 20.0), seed=0).whole


@pytest.mark.parametrize("method", OPTIMISED)
def test_images_come_closer_to_the_statistics_and_teach_more_than_noise(
    method: str, taught_by_noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statistics, "VIEWS", 40)
    settings = of(method, 60, epochs=40)
    reached = student.train(settings, student.soft(distill.labels(settings), 20.0), seed=0).whole
    losses = sets.provenance(of(method, 60).images_path())["losses"]
    least = 3 if method == "lpld" else 5  # two images of a class differ more from step to step than twenty of all
    assert losses["bn"][1] < losses["bn"][0] / least
    assert losses["ce"][1] < losses["ce"][0] / 3
    assert reached > 2 * taught_by_noise


def test_sheets_and_lists_show_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--classes", "20", "--ipc", "3", "--teacher-steps", "40"]
    synthesize.main(["rded", *arguments])
    synthesize.main(["cda", *arguments, "--steps", "2"])
    synthesize.main(["list", *arguments, "--steps", "2"])
    out = tmp_path / "sheet.png"
    synthesize.main(["sheet", *arguments, "--steps", "2", "--out", str(out)])
    said = capsys.readouterr().out
    assert "rded    60 images, 0.1 MB" in said
    assert "lpld    missing" in said
    assert "sheet.png: random, rded, cda; not made yet: rded1, sre2l, lpld, noise" in said
    assert out.read_bytes().startswith(b"\x89PNG")
    images = torch.arange(40, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 32, 32)
    block = sheet.mosaic(images, 20)
    assert block.shape == (64, 640)
    assert block[::32, ::32].tolist() == [[*range(20)], [*range(20, 40)]]
