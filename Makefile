# `make demo` and `make test` need only Python 3.11 or newer, git and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted installation is done again.
INSTALLED := $(VENV)/installed
# Inspect's pins do not agree with constraints.txt, so it has an environment on top of the other.
INSPECT := $(VENV)/inspect

.PHONY: demo test test-inspect lint format types check docs bench bench-0.5b clean

demo: $(INSTALLED)  ## run the main job on the lab zoo
	$(BIN)/steersweep demo --out demo

test: $(INSTALLED)  ## run the fast tests, a file at a time on each of up to four cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder

test-inspect: $(INSPECT)/installed  ## let Inspect run a steered model and read the logs of a run
	$(INSPECT)/bin/python -m pytest -m inspect tests/test_inspect.py

lint: $(INSTALLED)
	$(BIN)/ruff check .

format: $(INSTALLED)
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

docs: $(INSTALLED)  ## build the documentation site into build/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

bench: $(INSTALLED)  ## time sweeps as others do them, COSMIC, limits, and cost curves
	$(BIN)/python benchmarks/sweep_speed.py
	$(BIN)/python benchmarks/whole_command.py
	$(BIN)/python benchmarks/cosmic_speed.py
	$(BIN)/python benchmarks/limits.py
	$(BIN)/python benchmarks/cost_curves.py --jobs

bench-0.5b: $(INSTALLED)  ## the same sweeps and limits for the shape of Qwen2.5-0.5B: half an hour
	$(BIN)/python benchmarks/sweep_speed.py --shape qwen2.5-0.5b \
		--layers 3 --strengths 5 --prompts 8 --tokens 16 --study-share 0.0625
	$(BIN)/python benchmarks/limits.py --shape qwen2.5-0.5b --parts decoding --runs 2

check: test lint format types  ## everything CI does

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "steersweep needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

$(INSPECT)/installed: $(INSTALLED) constraints-inspect.txt
	$(BIN)/python -m venv --without-pip --clear $(INSPECT)
	purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	below=$$($(BIN)/python -c "$$purelib"); own=$$($(INSPECT)/bin/python -c "$$purelib"); \
	echo "import site; site.addsitedir('$$below')" > "$$own/below.pth"
	$(INSPECT)/bin/python -m pip install --quiet --disable-pip-version-check \
		-c constraints-inspect.txt inspect-ai
	touch $@

clean:
	rm -rf $(VENV)
