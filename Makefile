# make demo    run the daemon on a simulated vLLM
# make test    run every check and test that this machine can run
# make help    list the other targets

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUN_STAMP := $(VENV)/.can-run
STAMP := $(VENV)/.installed
SOAK_SESSIONS ?= 100000
FUZZ_SECONDS ?= 60
# make mixin: your own thresholds, which go to a folder of their own, and not over the shipped files
SETTINGS ?=
OUT ?= $(if $(SETTINGS),dist/mixin,.)
FUZZ := .venv-fuzz
FUZZ_STAMP := $(FUZZ)/.installed
TOOLS := .venv-release
TOOLS_STAMP := $(TOOLS)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench bench-baseline bench-page bench-prefill engines engines-page soak fuzz mixin schemas image lock docs release-check release-tools sbom audit clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-15s %s\n", $$1, $$2}'

install: $(STAMP)  ## make the environment in .venv/, with charts and the tools of the tests

# What the exporter needs to run, and what its editable install needs. The lock is complete, so pip
# need not read dependencies; Python compiles what it imports, so pip need not compile the rest.
$(RUN_STAMP): requirements/demo.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile --no-deps --require-hashes --requirement requirements/demo.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(STAMP): $(RUN_STAMP) requirements/dev.txt
	$(PIP) --require-hashes --requirement requirements/dev.txt
	@touch $@

demo: $(RUN_STAMP)  ## run the daemon on a SIMULATED vLLM; installs only what that needs
	$(BIN)/vllm-cache-exporter demo

test: check  ## run the checks, then every test that this machine can run; list what was skipped and why
	$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup

check: install  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: install  ## format, and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install  ## measure the exporter itself and compare with the baseline; less than five minutes
	$(BIN)/python bench/bench.py

bench-baseline: install  ## the same, and write the baseline
	$(BIN)/python bench/bench.py --write-baseline

bench-page: install  ## the same, and write the baseline and the table of docs/performance.md
	$(BIN)/python bench/bench.py --write-baseline --markdown docs/performance.md

bench-prefill: install  ## check whether the measured prefill cost predicts the TTFT of other prompts
	$(BIN)/python bench/bench_prefill_cost.py --sessions 4

engines: install  ## measure real engines, listed in ENGINES=FILE, and write docs/engines.md
	$(BIN)/python -m real_engines $(ENGINES)

engines-page: install  ## write docs/engines.md from the records again
	$(BIN)/python -m real_engines --page

soak: install  ## run 100,000 sessions without a pause (SOAK_SESSIONS=N); fails when memory or other resources grow
	$(BIN)/python soak/soak.py --sessions $(SOAK_SESSIONS)

fuzz: $(FUZZ_STAMP)  ## feed invalid input to every parser, a minute for each (FUZZ_SECONDS=N)
	$(FUZZ)/bin/python fuzz/fuzz.py --seconds $(FUZZ_SECONDS)

$(FUZZ_STAMP): requirements/fuzz.txt
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/fuzz.txt
	@touch $@

mixin: install  ## write rules, dashboards and runbooks from deploy/mixin/settings.toml; or SETTINGS=FILE OUT=FOLDER
	MIXIN_SETTINGS=$(SETTINGS) $(BIN)/python -m mixin --out $(OUT)
	MIXIN_SETTINGS=$(SETTINGS) $(BIN)/python -m grafana --out $(OUT)

schemas: install  ## write docs/schemas again: the configuration file, and the HTTP API; and the schema of the chart's values
	$(BIN)/python release/schemas.py

lock: install  ## write requirements/*.txt from pyproject.toml again
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra events pyproject.toml --output-file requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --extra report --extra events --extra otlp --group test --group check --group dashboards --group build pyproject.toml --output-file requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group build --constraint requirements/dev.txt pyproject.toml --output-file requirements/demo.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group build --constraint requirements/dev.txt --output-file requirements/build.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --group release --output-file requirements/release.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  pyproject.toml --group fuzz --constraint requirements/dev.txt --output-file requirements/fuzz.txt

release-tools: $(TOOLS_STAMP)  ## make the environment for release checks, in .venv-release/

$(TOOLS_STAMP): requirements/release.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/release.txt
	@touch $@

docs: release-tools  ## build the pages of docs/ as a site with search, in dist/site/
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --quiet --strict
	@echo "Read it: python3 -m http.server --directory dist/site 8080 (the search needs a server)"

sbom: release-tools  ## write the SBOM (CycloneDX) to dist/
	$(TOOLS)/bin/python release/sbom.py

audit: release-tools  ## check the locked packages for known vulnerabilities; needs the network
	$(TOOLS)/bin/python release/audit.py

release-check: install release-tools  ## build sdist and wheel, install only the wheel, and run its demo
	$(BIN)/python release/check.py

# The label is only there if the revision is known.
image: VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' exporter/__init__.py)
image: REVISION = $(shell git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null)
image:  ## build the image, with the revision of this checkout in it
	docker build $(if $(REVISION),--build-arg REVISION=$(REVISION) --label org.opencontainers.image.revision=$(REVISION)) \
	  --tag vllm-cache-exporter:$(VERSION) .

clean:  ## remove the environments and the files of the tools
	rm -rf $(VENV) $(TOOLS) $(FUZZ) fuzz/findings .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
