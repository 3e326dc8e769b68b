"""The picture of the demo: views, what the teacher says of them, and what the decoded label says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.glyphs import distill, perturb
from examples.glyphs.settings import Settings
from vqlabel import LabelDecoder, LabelFile

SHOWN, LARGEST, T = 4, 12, 4.0


def draw(settings: Settings, full: LabelFile, small: LabelFile, reached: dict[str, float], path: Path) -> None:
    """A few views with their labels before and after, and the students beside them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    images, recipe = distill.images(settings), settings.distilled_recipe
    ids = np.linspace(0, recipe.images - 1, SHOWN).astype(np.int64)
    views = perturb.views(images, recipe, recipe.parameters(1, ids), perturb.TRAINING).cpu()
    labels = [LabelDecoder(file.path)(recipe.images + ids, T) for file in (full, small)]
    figure, axes = pyplot.subplots(SHOWN, 3, figsize=(9, 2 * SHOWN), layout="constrained", width_ratios=(1, 3, 2))
    for row, (place, wide, _) in enumerate(axes):
        place.imshow(views[row, 0].numpy(), cmap="gray")
        place.axis("off")
        _label(wide, labels[0][row], labels[1][row])
    axes[0][0].set_title("view")
    axes[0][1].set_title(f"its {LARGEST} likeliest classes at T = {T:g}")
    axes[0][1].legend(fontsize=7)
    _students(figure, axes, full, small, reached)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _label(axes: Any, wanted: torch.Tensor, found: torch.Tensor) -> None:
    top = wanted.topk(LARGEST).indices
    places = np.arange(LARGEST)
    axes.bar(places - 0.2, wanted[top].numpy(), 0.4, label="teacher, fp16", color="0.6")
    axes.bar(places + 0.2, found[top].numpy(), 0.4, label="decoded", color="#1f5fa8")
    axes.set_xticks(places, [str(number) for number in top.tolist()], fontsize=7)
    axes.tick_params(axis="y", labelsize=7)


def _students(figure: Any, axes: Any, full: LabelFile, small: LabelFile, reached: dict[str, float]) -> None:
    grid = axes[0][2].get_gridspec()
    for place in axes[:, 2]:
        place.remove()
    right = figure.add_subplot(grid[:, 2])
    sizes = {"fp16": full, "vqlabel": small}
    names = [f"{n}\n{sizes[n].header.file_bytes / len(sizes[n]):.3g} B a label" if n in sizes else n for n in reached]
    # Dots, not bars: the axis does not begin at nothing.
    right.scatter(names, list(reached.values()), color=["0.8", "0.6", "#1f5fa8"], s=80, zorder=2)
    for name, accuracy in zip(names, reached.values(), strict=True):
        right.annotate(f"{accuracy:.2f}", (name, accuracy), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    right.margins(0.25, 0.15)
    right.grid(axis="y", alpha=0.3)
    right.set_title("accuracy of the student, %")
    right.tick_params(axis="x", labelsize=8)
