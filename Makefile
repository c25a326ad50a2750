# Two commands do all: `make run` (the main job on the embedded default) and `make test`. Needs Python 3.11 and make.
PYTHON ?= python3.11
BIN := .venv/bin
export TOKENIZERS_PARALLELISM = false

.PHONY: install run test test-slow test-processes test-demo mutants lint docs demo pins clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e . --group dev
	touch $@

run: install
	$(BIN)/python run.py -m target=pencil_sketch,house_cat output_dir=outputs/run
	$(BIN)/python -m benchmarks.report outputs/run --out outputs/run/report
	@echo "the page: file://$(CURDIR)/outputs/run/report/report.html"

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not slurm and not processes"

test-slow: install
	$(BIN)/python -m pytest -m slow

# Runs that are killed, two processes as one, adapters where this package is not: several at once, for each waits a lot.
# Slurm where slurmctld is installed and we are root: it takes all cores itself
test-processes: install
	$(BIN)/python -m pytest -n auto --dist worksteal -m "processes and not slow" -rs
	$(BIN)/python -m pytest -m slurm -rs

# The demo's page in a browser, where chromium is installed
test-demo: .venv/demo/.installed
	.venv/demo/bin/python -m pytest -m demo -rs

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

# A page in the browser: make demo ARGS="--model DIR RUN ...". Its environment lies on top of the other one, for Gradio
# wants an older Pillow than the one that figures were measured with
demo: .venv/demo/.installed
	.venv/demo/bin/python -m fade.demo $(ARGS)

.venv/demo/.installed: .venv/.installed constraints-demo.txt
	$(BIN)/python -m venv .venv/demo
	$(BIN)/python -c "import sysconfig as s; print(s.get_path('purelib'))" > .venv/below.pth
	mv .venv/below.pth "$$(.venv/demo/bin/python -c "import sysconfig as s; print(s.get_path('purelib'))")"
	.venv/demo/bin/python -m pip install -q -c constraints-demo.txt -e '.[demo]'
	touch $@

# The pin files name no host; uv writes them: pip install uv
pins:
	uv pip compile --universal --no-header --no-annotate pyproject.toml --group dev --extra docs -o constraints.txt
	cp constraints.txt constraints-demo.txt
	uv pip compile --universal --no-header --no-annotate pyproject.toml --extra demo -o constraints-demo.txt

clean:
	rm -rf .venv outputs cache multirun
