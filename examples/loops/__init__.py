"""Training loops of every kind on vqlabel's labels, each complete on one screen: python -m examples.loops.plain."""
