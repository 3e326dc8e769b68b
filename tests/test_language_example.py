"""The language example: text, teacher, label sources, rivals, students and the table, all of them small."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT))  # examples are run from the repository

from examples.language import corpus, figure, labels, rivals, run, student, table, teacher, tokens, training
from examples.language.model import GPT
from examples.language.settings import Settings
from examples.language.sources import Source, decoders, sources
from vqlabel.convert.distillkit_bytes import Layout
from vqlabel.sources import open_source

TINY = Settings(
    texts="topics", vocabulary=300, context=8, teacher_layers=1, teacher_width=16, teacher_steps=6, teacher_batch=4,
    student_layers=1, student_width=8, sequences=12, passes=1, batch=4, held_out=6, fit_rows=60, effort=0.0, beam=1,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VQLABEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def bench(cache: None) -> labels.Bench:
    return labels.Bench.of(TINY, "sharp")


def of_logits(logits: torch.Tensor) -> teacher.Teacher:
    """A teacher that says these logits [N, C]."""
    N, C = logits.shape
    windows = tokens.Windows(torch.zeros(N, 1, dtype=torch.int64), torch.zeros(N, 1, dtype=torch.int64))
    return teacher.Teacher(windows, logits.half(), torch.eye(C), "made")


def test_prose_is_docstrings_long_arguments_and_comments_in_their_order() -> None:
    source = (
        '"""Of a file."""\n# first words\n# more of them\nx = 1  # not alone\ndef f():\n    """Of a function."""\n'
        '    y = "no docstring"\nadd(f, """one\n# not a comment\nthree\nfour""")\n'
    )
    assert corpus.prose(source) == (
        "Of a file.\n\nfirst words\nmore of them\n\nOf a function.\n\none\n# not a comment\nthree\nfour"
    )
    assert corpus.prose("def broken(") == ""
    assert corpus.prose("") == ""


def test_a_long_line_stands_in_one_document_only() -> None:
    long, short = "x" * corpus.LONG, "short"
    rest = "\n".join(f"line {n} of its own, which is as long as it needs to be" for n in range(5))
    kept = corpus.deduplicated({"a": f"{long}\n{short}\n{rest}", "b": f"{long}\n{short}\n{rest.upper()}", "c": short})
    assert kept["b"].splitlines()[0] == short
    assert long in kept["a"]
    assert "c" not in kept


def test_the_corpus_is_the_same_each_time_and_holds_whole_documents_out() -> None:
    first, again = corpus.load("topics"), corpus.load("topics")
    assert again.fingerprint() == first.fingerprint()
    assert all(corpus.is_held_out(name) for name in first.held_out)
    assert not any(corpus.is_held_out(name) for name in first.train)


def test_tokens_give_the_text_back() -> None:
    documents = ["Naïve text: 日本 \t\n  and  code(x)\n", "", "a"]
    coder = tokens.trained(documents, 300)
    coded = tokens.encoded(coder, documents)
    assert (coded == 0).sum() == len(documents)
    for part, document in zip(np.split(coded, np.flatnonzero(coded == 0))[1:], documents, strict=True):
        assert coder.decode(part[1:].tolist()) == document


def test_the_same_text_gives_the_same_vocabulary() -> None:
    found = corpus.load("topics")
    one, two = tokens.learned(found, 300), tokens.learned(found, 300)
    assert one.fingerprint == two.fingerprint == tokens.load(TINY).fingerprint
    np.testing.assert_array_equal(one.train, tokens.load(TINY).train)


@pytest.mark.parametrize(("length", "sequences"), [(1, 0), (4, 0), (5, 1), (9, 2)])
def test_each_position_knows_the_token_that_follows(length: int, sequences: int) -> None:
    found = tokens.windows(np.arange(length, dtype=np.int32), 4)
    assert found.tokens.shape == (sequences, 4)
    assert torch.equal(found.following, found.tokens + 1)


def test_the_teacher_never_learns_from_what_gets_labels() -> None:
    text = tokens.load(TINY)
    others, own, held = tokens.split(TINY, text)
    assert len(own) == TINY.sequences
    assert len(held) == TINY.held_out
    assert len(others) + len(own) == len(tokens.windows(text.train, TINY.context))
    with pytest.raises(ValueError, match="ask for fewer"):
        tokens.split(dataclasses.replace(TINY, held_out=10**6), text)


@torch.no_grad()
def test_a_position_does_not_see_those_after_it() -> None:
    net = GPT(50, 2, 64)
    for block in net.blocks.parameters():
        block.normal_(std=0.1)
    text = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    changed = text.clone()
    changed[:, 5:] = 0
    torch.testing.assert_close(net(text)[:, :5], net(changed)[:, :5])
    assert not torch.allclose(net(text)[:, 5:], net(changed)[:, 5:])


def test_an_interrupted_teacher_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, text = dataclasses.replace(TINY, seed=7), tokens.load(TINY)
    monkeypatch.setattr(teacher, "SAVE_EVERY", 2)
    whole = teacher.train(settings, text).state_dict()
    path = settings.path("teacher", teacher.facts(settings, text), ".pt")
    path.unlink()
    keep, calls = training.factor_at, []

    def stops(step: int, steps: int) -> float:
        calls.append(step)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return keep(step, steps)

    monkeypatch.setattr(training, "factor_at", stops)
    with pytest.raises(KeyboardInterrupt):
        teacher.train(settings, text)
    again = teacher.train(settings, text).state_dict()
    assert calls == [0, 1, 2, 3, 2, 3, 4, 5]
    for name, weight in whole.items():
        torch.testing.assert_close(weight, again[name], msg=name)


def test_labels_made_when_asked_for_are_those_of_the_teacher(bench: labels.Bench) -> None:
    net = teacher.train(TINY, tokens.load(TINY))
    logits = net(bench.own.windows.tokens).flatten(0, 1) * teacher.SHARPNESS["sharp"]
    rows = np.array([0, 95, 17, 17])
    found = open_source(bench.own, rows=TINY.rows).take(rows).float()
    wanted = (logits - logits.mean(1, keepdim=True))[torch.from_numpy(rows)]
    torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.01)
    assert len(bench.own) == TINY.rows == 96


def test_sharp_labels_are_twice_the_flat_ones(bench: labels.Bench) -> None:
    flat = labels.Bench.of(TINY, "flat").own(np.arange(5)).float()
    torch.testing.assert_close(bench.own(np.arange(5)).float(), 2 * flat, rtol=0.01, atol=0.01)
    assert teacher.described(bench.held)["entropy"] < np.log(TINY.vocabulary)


LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0], [0.0, 0.0, 0.0, 0.0, 3.0]])
COMMON = torch.tensor([0.1, 0.2, 0.3, 0.3, 0.1])


@pytest.mark.parametrize("tail", ["drop", "unigram"])
def test_the_loss_of_sparse_labels_is_that_of_what_they_stand_for(tail: str) -> None:
    kept = rivals.top(of_logits(LOGITS), 2, tail, COMMON)
    found = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    wanted = kept.probabilities(np.arange(2))
    torch.testing.assert_close(wanted.sum(1), torch.ones(2))
    truth = -(wanted * found.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(kept.loss(found, np.arange(2)), truth)
    torch.testing.assert_close(kept.loss(found[1:], np.array([1])), -(wanted * found.log_softmax(1)).sum(1)[1])


def test_a_ghost_is_one_more_class_for_student_and_teacher() -> None:
    kept = rivals.top(of_logits(LOGITS), 2, "ghost", COMMON)
    found = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    chances, own = LOGITS.softmax(1), found.softmax(1)
    ids = kept.ids.long()
    told = chances.gather(1, ids), own.gather(1, ids)
    p, q = (torch.cat([part, 1 - part.sum(1, keepdim=True)], 1) for part in told)
    torch.testing.assert_close(kept.loss(found, np.arange(2)), -(p * q.log()).sum(1).mean(), rtol=1e-3, atol=1e-3)


def test_all_classes_kept_are_the_full_labels() -> None:
    kept = rivals.top(of_logits(LOGITS), 5, "unigram", COMMON)
    torch.testing.assert_close(kept.probabilities(np.arange(2)), LOGITS.softmax(1), rtol=1e-3, atol=1e-3)


def test_a_tail_of_a_teacher_that_is_sure_has_a_finite_divergence() -> None:
    sure = of_logits(torch.tensor([[40.0, 0.0, 0.0, 0.0, 0.0]]))
    found = labels.judged(sure, lambda rows, _: rivals.top(sure, 1, "unigram", COMMON).probabilities(rows).log())
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    dropped = labels.judged(sure, lambda _, logits: torch.full_like(logits, -torch.inf).fill_diagonal_(0).roll(1, 1))
    assert dropped["kl"] is None


def test_random_sampling_is_unbiased() -> None:
    drawn = rivals.draws(of_logits(LOGITS[:1].repeat(4000, 1)), 12, COMMON)
    mean = drawn.probabilities(np.arange(4000)).mean(0)
    error = (LOGITS[0].softmax(0) / (12 * 4000)).sqrt()
    assert ((mean - LOGITS[0].softmax(0)).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.chances.sum(1), torch.ones(4000))


@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_drawn_class_weighs_its_number_and_its_count(count: int) -> None:
    drawn = rivals.draws(of_logits(torch.tensor([[0.0, -60.0, -60.0]])), count, torch.ones(3) / 3)
    size, unique = rivals.draw_bytes(3, drawn)
    assert unique == 1
    assert size == (2 + {1: 1, 2: 1, 50: 6}[count]) / 8


def test_bytes_of_the_rivals() -> None:
    assert rivals.top_bytes(4096, 8) == 8 * (12 + 16) / 8
    assert rivals.top_bytes(4097, 1) == (13 + 16) / 8
    assert Layout(rivals.distillkit_config(4096, "budget"), legacy=False).record_bytes == 2 + 12 + 75
    assert Layout(rivals.distillkit_config(4096, "recommended"), legacy=False).record_bytes == 32 + 24 + 192


@pytest.mark.parametrize("preset", rivals.PRESETS)
def test_distillkit_reads_what_was_written(preset: str) -> None:
    config = rivals.distillkit_config(300, preset)
    logits = torch.randn(7, 300, generator=torch.Generator().manual_seed(0))
    leading = logits.log_softmax(1).topk(config.k, dim=1)
    rows = rivals.records(config, leading.indices.int().numpy(), leading.values.numpy())
    layout = Layout(config, legacy=False)
    assert rows.shape == (7, layout.record_bytes)
    np.testing.assert_array_equal(layout.ids(rows), leading.indices.numpy())
    values = layout.values(rows)
    exact = leading.values[:, : config.exact_k].bfloat16().float().numpy()
    np.testing.assert_array_equal(values[:, : config.exact_k], exact)
    assert np.abs(values - leading.values.numpy()).mean() < 0.05
    found, size = rivals.distillkit(of_logits(logits), preset, torch.ones(300) / 300)
    assert size == layout.record_bytes
    assert ((found.chances.sum(1) > 0) & (found.chances.sum(1) <= 1.001)).all()


def test_an_unknown_tail_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="drop"):
        rivals.top(of_logits(LOGITS), 2, "none", COMMON)


@pytest.mark.parametrize("prior", ["none", "tokens"])
def test_a_coded_source_reads_its_own_file(bench: labels.Bench, prior: str) -> None:
    source = Source("vq", prior=prior, bytes=2, width=4)
    made = labels.make(source, bench)
    assert made.bytes["codes"] == 2
    assert 2 < made.bytes["many"] < 4 < made.bytes["here"]
    assert made.judged["kl"] is not None
    rows, found = np.array([3, 90]), torch.zeros(2, TINY.vocabulary)
    full = labels.make(Source("full"), bench)
    assert torch.isfinite(made.loss(found, rows))
    assert full.loss(bench.own(rows).float(), rows) < 1e-5
    stamp = labels.file_path(source, bench).stat().st_mtime_ns
    labels.make(source, bench)
    assert labels.file_path(source, bench).stat().st_mtime_ns == stamp


def test_exact_classes_come_on_top_of_the_same_codes(bench: labels.Bench) -> None:
    plain, exact = (labels.fitted(Source("vq", bytes=2, top=top, width=4), bench) for top in (0, 1))
    assert (plain.row_bytes, exact.row_bytes) == (2, 5)  # 8 bits of a chance and 9 of a class
    np.testing.assert_array_equal(plain.gather(np.arange(9)), exact.gather(np.arange(9))[:, :2])


def test_a_students_seed_sets_its_first_weights_and_nothing_else(bench: labels.Bench) -> None:
    made = labels.make(Source("full"), bench)
    one, same, other = (student.train(TINY, bench.own.windows, made.loss, seed=seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_a_student_that_is_the_teacher_has_no_divergence(bench: labels.Bench) -> None:
    net = teacher.train(TINY, tokens.load(TINY))
    found = student.judge(net, labels.Bench.of(TINY, "flat").held)
    assert abs(found["kl"]) < 1e-4
    assert found["agreement"] > 0.99


@pytest.mark.parametrize(("name", "value"), [("texts", "web"), ("context", 1), ("batch", 0)])
def test_settings_say_what_they_allow(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        dataclasses.replace(TINY, **{name: value})


def test_every_source_has_a_name_of_its_own() -> None:
    every = list(sources())
    assert len({source.name for source in every}) == len(every)
    assert len({(source.name, source.width) for source in decoders()}) == len(list(decoders()))


def cell(source: Source, seed: int, cross_entropy: float, kl: float, size: float) -> dict[str, Any]:
    about = {"source": dataclasses.asdict(source), "condition": "sharp", "recipe": "kd", "seed": seed}
    sizes, decoded = {"codes": size, "here": size + 1, "many": size}, {"kl": 0.5, "top1": 0.9}
    found = {"cross_entropy": cross_entropy, "kl": kl, "agreement": 0.5, "settings": TINY.facts(fits=source.fits)}
    return {**about, **found, "bytes": sizes, "decoded": decoded}


def made_up() -> dict[str, Any]:
    ours, draws = Source("vq", prior="tokens", bytes=16), Source("draws", k=25)
    rows = [(Source("full"), 4.0, 1.0, 600), (Source("hard"), 5.0, 2.0, 0), (ours, 4.05, 1.02, 16)]
    cells = [cell(source, seed, ce + seed / 10, kl, size) for source, ce, kl, size in rows for seed in (0, 1)]
    cells.append(cell(draws, 0, 4.02, 1.2, 30))
    return {"text": {}, "teachers": {}, "codecs": {}, "cells": {str(n): each for n, each in enumerate(cells)}}


def test_the_table_says_what_was_reached_and_who_is_better() -> None:
    text = "\n".join(table.tables(made_up(), TINY))
    row = "| ours, prior tokens, 16 B | 16 | 17 | 16 | 0.5000 | 4.1000 +- 0.0500 | 95.0 | 1.0200 +- 0.0000 | 98.0 |"
    assert row in text
    assert "| ours, prior tokens, 16 B | CE | 95.0 | random sampling, 25 draws (98.0) | **no** |" in text
    assert "| ours, prior tokens, 16 B | KL | 98.0 | none | yes |" in text


def test_results_of_other_settings_are_not_mixed_in() -> None:
    assert list(table.tables(made_up(), dataclasses.replace(TINY, seed=1))) == []


def test_a_gap_needs_both_ends() -> None:
    found = table.entries(made_up(), TINY, "sharp", "kd")
    assert table.share(found["random sampling, 25 draws"], found, "kl") == pytest.approx(80)
    del found["hard labels"]
    assert table.share(found["random sampling, 25 draws"], found, "kl") is None


def test_the_figure_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        figure.plot(made_up(), TINY, tmp_path / name)
    assert (tmp_path / "a" / "language.svg").read_bytes() == (tmp_path / "b" / "language.svg").read_bytes()
    with pytest.raises(ValueError, match="no students"):
        figure.plot({"cells": {}}, TINY, tmp_path)


def test_one_command_goes_from_text_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Settings, "quick", classmethod(lambda _: TINY))
    results = tmp_path / "language.json"
    given = ["--quick", "--only", "fp16", "--only", "hard", "--only", "50 draws", "--results", str(results)]
    run.main(["all", *given])
    assert "| random sampling, 50 draws |" in capsys.readouterr().out
    found = json.loads(results.read_text())
    assert sorted(each["name"] for each in found["cells"].values()) == [
        "fp16",
        "hard labels",
        "random sampling, 50 draws",
    ]
    assert found["text"]["vocabulary"] == tokens.load(TINY).fingerprint
    stamp = results.stat().st_mtime_ns
    run.main(["all", *given])
    assert results.stat().st_mtime_ns == stamp
    capsys.readouterr()
    run.main(["list", *given])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["done"] * 3


def test_a_wrong_part_says_what_a_part_is() -> None:
    with pytest.raises(SystemExit, match="0/2"):
        run.main(["list", "--quick", "--part", "2/2"])
