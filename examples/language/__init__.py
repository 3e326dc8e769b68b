"""Language: labels of a causal model over its whole vocabulary, on text that is installed already."""
