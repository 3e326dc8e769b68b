# Every target sets itself up: the first one makes .venv and installs what constraints.txt pins.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
SUITE ?= tests

.PHONY: demo test lint format docs bench bench-gpu asan golden clean

# Labels of a teacher in a small file, and the students that learn from them: a minute or two, nothing downloaded.
demo: $(READY)
	$(BIN)/python -m examples.glyphs.demo

# A file of tests for each core at a time, so each takes one thread.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile $(SUITE)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.hpp csrc/*.cpp tests/*.cpp benchmarks/*.c

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.hpp csrc/*.cpp tests/*.cpp benchmarks/*.c

# The reference of the public names, from their docstrings.
docs: $(READY)
	$(BIN)/python docs/make_api.py

# Runs all benchmarks, keeps the figures as dated JSON and makes the table of benchmarks/README.md from them.
bench: $(READY)
	$(BIN)/pytest benchmarks --benchmark-only --record
	$(BIN)/python -m benchmarks.table

# The kernels, on a machine with a GPU and with whichever Python there has vqlabel and a torch for it.
bench-gpu:
	$(PYTHON) -m pytest benchmarks/bench_search.py benchmarks/bench_decode.py benchmarks/bench_loss.py \
	    benchmarks/bench_language.py --benchmark-only --record
	$(PYTHON) -m benchmarks.table

# The native tests once more, with every access and every shift checked.
asan: $(READY)
	rm -rf build
	CXXFLAGS="-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	    LDFLAGS="-fsanitize=address,undefined" \
	    $(BIN)/pip install -q --no-deps --no-build-isolation --target build/asan .
	nm -D build/asan/vqlabel/_native*.so | grep -q __asan_init  # or nothing below would check anything
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/asan PYTHONMALLOC=malloc \
	    $(BIN)/pytest -p no:cacheprovider tests/test_native.py tests/test_native_decode.py tests/test_replay.py \
	    tests/test_search.py

# Writes golden files that are missing; never touches one that exists.
golden: $(READY)
	$(BIN)/python tests/golden/make.py
	$(BIN)/python tests/golden/codecs/make.py

clean:
	rm -rf .venv build dist *.egg-info vqlabel/*.so

$(READY): pyproject.toml setup.py constraints.txt $(wildcard csrc/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt setuptools pybind11
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[test,dev]"
	touch $(READY)
