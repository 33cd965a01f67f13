# make demo: the pipeline on procedural rooms, from scans to the report. make test: the tests. Both
# need only Python 3.11.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

# Each process imports some hundred files of ours, and each test process rewrites those of tests; keep
# what they compiled, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint style types docs bench bench-quick format web clean

demo: $(VENV)/.compiled
	$(BIN)/luigi --module pipeline RunAll --scene-set demo

test: $(VENV)/.compiled
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: style types

style: $(VENV)/.installed
	$(BIN)/black --check -q -l 100 --exclude '/\.venv|build|output/' .
	$(BIN)/isort --check -q data models stages pipeline configs tests benchmarks mllm3d_command.py
	$(BIN)/flake8
	$(BIN)/lint-imports --config setup.cfg

types: $(VENV)/.installed
	$(BIN)/mypy --num-workers auto

format: $(VENV)/.installed
	$(BIN)/isort -q data models stages pipeline configs tests benchmarks mllm3d_command.py
	$(BIN)/black -q -l 100 --exclude '/\.venv|build|output/' .

# The pages of docs/ into build/docs; a dead link or a warning is an error. Needs no network.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: $(VENV)/.compiled
	$(BIN)/python -m benchmarks

# NAMES: only these benchmarks.
bench-quick: $(VENV)/.compiled
	$(BIN)/python -m benchmarks --quick --repeats 1 --output $$(mktemp) $(NAMES)

# The 3D part of the report, after a change in web/; needs Node.js and npm's registry.
web:
	cd web && npm ci --ignore-scripts && npm run --silent build

.PHONY: venv
venv: $(VENV)/.compiled

# requirements.txt names every package, so none is looked for. Modules are compiled when they are first
# imported: most never are, and compiling all takes longer than fetching them.
$(VENV)/.installed: setup.cfg pyproject.toml requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q --no-compile --no-deps -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps -e .
	$(BIN)/python -m pip check
	touch $@

# The loops that the first run would compile.
$(VENV)/.compiled: $(VENV)/.installed
	$(BIN)/python -c "from pipeline.tasks.preload import load_loops; load_loops()"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
