"""Triton kernels. This folder is installed as `vqlabel.kernels`; it imports torch and triton only."""

if __name__ != "vqlabel.kernels":
    raise ImportError("this folder is installed as vqlabel.kernels; run `pip install -e .` and import it by that name")
