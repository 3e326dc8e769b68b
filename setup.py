"""What pyproject.toml cannot say: the C++ extension, and kernels/ installed as vqlabel.kernels."""

import sys
from glob import glob

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

windows = sys.platform == "win32"

native = Pybind11Extension(
    "vqlabel._native",
    sorted(glob("csrc/*.cpp")),
    depends=glob("csrc/*.hpp"),
    cxx_std=17,
    # replayed floats must be the same bits everywhere, so no fused multiply-add
    extra_compile_args=["/O2", "/fp:precise"] if windows else ["-O3", "-pthread", "-ffp-contract=off"],
    extra_link_args=[] if windows else ["-pthread"],
)

setup(
    # explicit: discovery would also install tests and benchmarks
    packages=["vqlabel", "vqlabel.budget", "vqlabel.convert", "vqlabel.codecs", "vqlabel.kernels"],
    package_dir={"vqlabel.kernels": "kernels"},
    package_data={"vqlabel": ["py.typed", "*.pyi"]},
    include_package_data=False,
    ext_modules=[native],
    cmdclass={"build_ext": build_ext},
)
