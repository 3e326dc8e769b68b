"""Examples that are run from the repository: python -m examples.glyphs.run."""
