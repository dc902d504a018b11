# Each target does its own set-up: `make demo`, `make test` and `make lint` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PROTOS := $(wildcard protos/podbay/v1/*.proto)
GENERATED := client/podbay/v1

.PHONY: help demo test test-all test-docker lint gen wheels images bench bench-peers chaos soak lock fmt clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml requirements/dev.txt requirements/check_python.py
	@$(PYTHON) requirements/check_python.py
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: $(STAMP) ## Run the platform's main job on this machine
	$(BIN)/podbay demo

test: $(STAMP) ## Run the suite; what needs a missing tool is skipped with a line
	$(BIN)/python -m pytest

test-all: $(STAMP) ## Run the suite, or PYTEST_ARGS of it; a missing tool is a failure
	PODBAY_TEST_REQUIRE_ALL=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

test-docker: $(STAMP) ## Run the tests with real Docker Engines; it is a failure where none can be had
	PODBAY_TEST_REQUIRE_ALL=1 $(BIN)/python -m pytest -m needs_docker

gen: $(STAMP) ## Generate the code of client/podbay/v1 from protos/
	$(BIN)/python protos/generate.py

lint: $(STAMP) ## Check style, types, directions, protos, and that `make gen` changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy client/podbay services tests/support benchmarks
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	sh protos/check_breaking.sh $(BIN)/buf
	$(BIN)/python protos/generate.py --check

fmt: $(STAMP) ## Format the code and the protos
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format -w

wheels: $(STAMP) ## Collect the wheels that the images are made of, below build/
	$(BIN)/python requirements/wheels.py platform build/wheels
	$(BIN)/python requirements/wheels.py examples build/example-wheels

IMAGE = docker build --network none $(if $(BASE),--build-arg BASE=$(BASE))

images: wheels ## Build the images of the services, the replica and the examples; BASE names another base
	for target in registry session-manager inference-router replica; do \
	  $(IMAGE) --target $$target -t podbay/$$target . || exit 1; \
	done
	for target in magika ocr; do \
	  $(IMAGE) -f examples.Dockerfile --target $$target -t podbay/$$target . || exit 1; \
	done

bench: $(STAMP) ## Measure Podbay beside a direct call, Envoy and the reference; writes docs/performance*.md
	$(BIN)/python -m benchmarks.adapters
	$(BIN)/python -m benchmarks.local
	$(BIN)/python -m benchmarks.placement
	$(BIN)/python -m benchmarks.idle
	$(BIN)/python -m benchmarks

bench-peers: $(STAMP) ## Measure Podbay beside other model servers; writes docs/performance-peers.md
	$(BIN)/python -m benchmarks.peers

chaos: $(STAMP) ## Break all parts at random for fifteen minutes; only calls in flight there may fail
	$(BIN)/python -m benchmarks.chaos

soak: $(STAMP) ## Run mixed calls for ten minutes while replicas die; nothing may leak or be lost
	$(BIN)/python -m benchmarks.soak

day: $(STAMP) ## Have 1,440 sessions come and go in a day of a fast clock; nothing may grow
	PODBAY_DAY_CYCLES=1440 $(BIN)/python -m pytest -q -s tests/integration/test_day_of_cycles.py

fuzz: $(STAMP) ## Attack a running installation, and try parts with inputs that coverage guides; SECONDS says how long
	$(BIN)/python -m benchmarks.fuzz.guided
	$(BIN)/python -m benchmarks.fuzz --seconds $(or $(SECONDS),120)

lock: ## Resolve pyproject.toml into requirements/dev.txt, with hashes and without addresses
	$(PYTHON) -m venv .venvs/lock
	.venvs/lock/bin/pip install --quiet uv
	.venvs/lock/bin/uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements/dev.txt pyproject.toml

clean: ## Remove what the targets made
	rm -rf $(VENV) .venvs .tools .mypy_cache .ruff_cache .pytest_cache .hypothesis
