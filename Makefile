# Two commands on a machine with Python 3.11 and make: `make demo` runs the main job, `make test` everything that CI runs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ASIDE_LOG := .pytest-aside.log

.PHONY: demo test lint unit integration coverage format clean tests-here tests-aside

demo: $(VENV)/.run
	$(BIN)/raymlops run configs/flights.yaml
	$(BIN)/python -m benchmarks.flights_reference

# Two processes: the tests of the endpoint start Rays of their own, with other settings than the shared one. Side by side,
# because both wait a lot; the output of the second is shown when it has ended. About as much work in each.
HERE := tests/unit tests/integration
ASIDE := tests/serving tests/commands tests/cluster

test: $(VENV)/.test lint
	@$(MAKE) --no-print-directory --keep-going --jobs=2 tests-here tests-aside

tests-here: $(VENV)/.test
	$(BIN)/python -m pytest $(HERE) --durations=10

tests-aside: $(VENV)/.test
	@echo "$(BIN)/python -m pytest $(ASIDE), whose output goes to $(ASIDE_LOG) first"
	@$(BIN)/python -m pytest $(ASIDE) --durations=10 > $(ASIDE_LOG) 2>&1; code=$$?; cat $(ASIDE_LOG); exit $$code

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest tests/unit

integration: $(VENV)/.test
	$(BIN)/python -m pytest tests/integration
	$(BIN)/python -m pytest tests/serving tests/commands

# Apart from `test`, which it would make a third slower.
coverage: $(VENV)/.test
	$(BIN)/python -m pytest $(HERE) --cov=raymlops --cov-report=
	$(BIN)/python -m pytest $(ASIDE) --cov=raymlops --cov-append --cov-report=term:skip-covered

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# A stamp per set of requirements: nothing is installed again until one of these files changes.
$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing raymlops into $(VENV) (about two minutes the first time)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing raymlops and its test tools into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) .raymlops .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage $(ASIDE_LOG)
