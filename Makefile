# Two commands do everything: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tiercast
KEY_FILE := $(or $(XDG_CONFIG_HOME),$(HOME)/.config)/tiercast/demo.key
STAMP := $(VENV)/.complete
# Tests wait for JVMs and ranks to start, so three processes of them, each with its own Spark session, share two cores;
# each takes up to 4 GB.
TEST_PROCESSES ?= 3

export SPARK_LOCAL_IP := 127.0.0.1

.PHONY: help doctor setup demo test lint docs package cluster-demo quality folds pretraining gate limits truth search bench clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 16

doctor: ## name each missing prerequisite
	@setup/doctor.sh "$(PYTHON)"

setup: doctor $(STAMP) ## the environment: pinned packages, Horovod, Delta jars

$(STAMP): constraints.txt pyproject.toml setup/horovod_wheel.sh setup/delta_jars.sh setup/pom.xml \
        setup/class_archive.sh setup/typical_program.py setup/compiled_archives.py
	@setup/environment.sh "$(PYTHON)" "$(VENV)"
	@touch $@

demo: setup $(KEY_FILE) ## the whole pipeline on real data, into build/demo
	@TIERCAST_PSEUDONYM_KEY="$$(cat $(KEY_FILE))" $(BIN)/python -m jobs.run_pipeline \
	    --config conf/complete_journey.yaml --config conf/local.yaml --as-of 2018-01-01

$(KEY_FILE):
	@mkdir -p $(dir $@) && umask 077 && $(BIN)/python -c 'import secrets; print(secrets.token_hex(32))' > $@

test: setup ## lint, types, import rules, unit, property and end-to-end tests
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope --no-loadscope-reorder

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --verbose 2>&1 | tail -n 12; exit $${PIPESTATUS[0]}

docs: setup ## write docs/tables.md and docs/settings.md anew
	@$(BIN)/python -m jobs.describe_tables --config conf/complete_journey.yaml --config conf/local.yaml \
	    > docs/tables.md
	@$(BIN)/python -m jobs.describe_settings --config conf/base.yaml > docs/settings.md

package: setup ## the zip for --py-files and a wheel, into dist
	@mkdir -p dist && rm -f dist/tiercast.zip
	@$(BIN)/python setup/package.py dist/tiercast.zip
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist . > dist/build.log || { cat dist/build.log; exit 1; }
	@ls dist/*.zip dist/*.whl

cluster-demo: package $(KEY_FILE) ## the pipeline by spark-submit on a standalone cluster of two workers, into build/cluster
	@TIERCAST_PSEUDONYM_KEY="$$(cat $(KEY_FILE))" setup/cluster_demo.sh $(BIN) build/cluster

quality: setup ## train and evaluate every network on the demo tables, into docs/results/quality.md
	@$(BIN)/python -m bench.forecasts.networks

pretraining: setup ## measure with and without a pretrained encoder on the demo tables, into docs/results/pretraining.md
	@$(BIN)/python -m bench.forecasts.pretraining

limits: setup ## noise, averages and learning curves on the demo tables, into docs/results/limits.md
	@$(BIN)/python -m bench.forecasts.limits

gate: setup ## train models that deserve to be refused on the demo tables, into docs/results/gate.md
	@$(BIN)/python -m bench.forecasts.gate

folds: setup ## cross-validate on the demo tables, with all challengers, into docs/results/folds.md
	@TIERCAST_PSEUDONYM_KEY="$$(cat $(KEY_FILE))" $(BIN)/python -m bench.forecasts.folds

truth: setup ## train on simulated members whose chances are known, into docs/results/truth.md
	@$(BIN)/python -m bench.forecasts.truth

search: setup ## look for a better network for MINUTES (60), into docs/results/search.md
	@$(BIN)/python -m bench.forecasts.search --minutes $(or $(MINUTES),60)

bench: setup ## measure beside other engines, into docs/results/benchmarks.md
	@$(BIN)/python -m bench.speed.run

clean: ## everything that was made here, but for caches outside
	rm -rf build dist .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis spark-warehouse
