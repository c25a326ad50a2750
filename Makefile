# Two commands do all: `make run` (the main job on the embedded default) and `make test`. Needs Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin
export TOKENIZERS_PARALLELISM = false

.PHONY: install run test test-slow test-processes mutants lint docs pins clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e . --group dev
	touch $@

run: install
	$(BIN)/python run.py -m target=neon,cat output_dir=outputs/run
	$(BIN)/python -m benchmarks.report outputs/run --out outputs/run/report

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not slurm and not processes"

test-slow: install
	$(BIN)/python -m pytest -m slow

# Slurm where slurmctld is installed and we are root; two processes as one; adapters where this package is not
test-processes: install
	$(BIN)/python -m pytest -m "slurm or processes" -rs

# Known errors, planted one by one: do the tests see them? 95 % must be killed (tests/mutants)
mutants: install
	$(BIN)/python tests/mutants

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# README, docs/ and the docstrings as a site: outputs/docs/index.html; a broken link ends it. Nothing is fetched
docs: install
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/site/build.py

# The pin file names no host; uv writes it: pip install uv
pins:
	uv pip compile --universal --no-header --no-annotate pyproject.toml --group dev --extra docs -o constraints.txt

clean:
	rm -rf .venv outputs cache multirun
