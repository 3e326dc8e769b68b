"""Distillation with Trainer of transformers: a teacher's labels in a file, a student that learns from it."""

import sys

# transformers looks for a package of this name, and in the repository finds our folder instead.
sys.modules.setdefault("kernels", None)  # type: ignore[arg-type]
