# make quickstart   train, compare and look at the result (CPU, minutes)
# make experiments  studies in their reduced mode (minutes each)
# make test         ruff, types and the quick test suite
# make test-long    what CI runs after it
# make test-slow    all tests
PYTHON ?= python3
VENV ?= .venv
# Tests start many processes: each would compile every file of ours anew.
unexport PYTHONDONTWRITEBYTECODE
STAMP = $(VENV)/.installed-$(notdir $(PYTHON))
# One venv per machine, re-made when the dependencies change.
PY = $(VENV)/bin/python
QUICKSTART_FLAGS ?=
# Two workers; a file stays on one, so that its programs compile once (groups:
# tests/conftest.py).
# 'dev,tpu' compiles for TPUs in tests too; outside of them libtpu prints warnings
# on machines without one, unless JAX_PLATFORMS=cpu.
EXTRAS ?= dev
PYTEST_FLAGS ?= -n 2 --dist loadgroup --no-loadscope-reorder

# Every folder of experiments/ with a run.py is a study, but the one to copy.
KNOWN = $(filter-out template,$(patsubst experiments/%/run.py,%,$(wildcard experiments/*/run.py)))
# `make experiments` runs those that fit into twenty minutes together, and any by
# name: STUDIES="hybrids forgetting".
LONGER = hybrids rlhf_diversity sft_generalisation temperature
STUDIES = $(filter-out $(LONGER),$(KNOWN))

.PHONY: quickstart experiments test test-long test-slow lint types format clean

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "posttrain_jax needs Python 3.11+, this is %s" % sys.version.split()[0]'
	@if [ -L $(VENV) ]; then echo "$(VENV) is a link: installing would empty what it leads to" >&2; exit 2; fi
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -r requirements.txt
	$(PY) -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $@

quickstart: $(STAMP)
	$(PY) -m posttrain_jax.quickstart --config configs/quickstart.py --workdir runs/quickstart $(QUICKSTART_FLAGS)

# In reduced mode: small, few seeds, beside the committed results, not over them.
experiments: $(STAMP)
	@for study in $(STUDIES); do case " $(KNOWN) " in *" $$study "*) ;; *) \
	  echo "no study \"$$study\"; there are: $(KNOWN)" >&2; exit 2;; esac; done
	set -e; for study in $(STUDIES); do \
	  echo "== $$study"; $(PY) -m experiments.$$study.run --reduced; done

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

# Which files: pyproject.toml. Seconds after the first time.
types: $(STAMP)
	$(PY) -m mypy

format: $(STAMP)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: lint types
	$(PY) -m pytest -m 'not slow and not long' $(PYTEST_FLAGS)

test-long: $(STAMP)
	$(PY) -m pytest -m 'long and not slow' $(PYTEST_FLAGS)

test-slow: lint types
	$(PY) -m pytest $(PYTEST_FLAGS)

clean:
	rm -rf $(VENV) .cache build dist *.egg-info
