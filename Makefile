# Each target makes its own environment below .venv, needing only Python 3.11
# or newer with venv and pip. Change the interpreter with PYTHON=, the backend
# of the demo with KERAS_BACKEND=, those of the tests with BACKENDS=.

PYTHON ?= python3
KERAS_BACKEND ?= jax
BACKENDS ?= jax torch tensorflow
WORKERS ?= 2
PYTEST ?=

DEMO := .venv/demo-$(KERAS_BACKEND)
TEST := .venv/test
DOCS := .venv/docs

.PHONY: demo test quick lint bench docs notebooks clean
.DELETE_ON_ERROR:

demo: $(DEMO)/ready
	KERAS_BACKEND=$(KERAS_BACKEND) $(DEMO)/bin/python guides/demo.py

# One thread a worker: the tests are many and small.
test: $(TEST)/ready
	@set -e; for backend in $(BACKENDS); do \
	  echo "=== backend $$backend ==="; \
	  KERAS_BACKEND=$$backend OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3 \
	    $(TEST)/bin/python -m pytest -n $(WORKERS) $(PYTEST); \
	done

# Layers and ops alone, on the backend that starts quickest.
QUICK := $(patsubst %,--ignore tests/%,models upcycling conversion zoo hub \
  kerashub test_guides.py test_imports.py test_keras_own.py test_site.py \
  test_starting.py test_wheel.py) \
  $(patsubst %,--ignore tests/layers/test_%.py,contract_files \
  contract_training distribution export_layers quantised_files replicas \
  transforms)

quick: $(TEST)/ready
	KERAS_BACKEND=torch OMP_NUM_THREADS=1 TF_CPP_MIN_LOG_LEVEL=3 \
	  $(TEST)/bin/python -m pytest -n $(WORKERS) $(QUICK) $(PYTEST)

lint: $(TEST)/ready
	$(TEST)/bin/ruff check .
	$(TEST)/bin/ruff format --check .
	$(TEST)/bin/mypy

bench: $(TEST)/ready
	@set -e; for backend in $(BACKENDS); do \
	  KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 \
	    $(TEST)/bin/python -m tests.benchmarks; \
	done

# Strict: a warning is an error. The variable silences an advertisement.
docs: $(DOCS)/ready
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet \
	  --config-file guides/site/mkdocs.yml
	$(DOCS)/bin/python guides/site/links.py .site
	@echo "The site is in .site. To read and search it:"
	@echo "  $(PYTHON) -m http.server --directory .site 8000"
	@echo "and open http://localhost:8000"

notebooks: $(TEST)/ready
	KERAS_BACKEND=jax $(TEST)/bin/python -m guides.build

clean:
	rm -rf .venv .site

# A fresh environment: $(1) its folder, $(2) the extras to install.
define environment
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "keras_moe needs Python 3.11 or newer, this is " + sys.version)'
	rm -rf $(1)
	$(PYTHON) -m venv $(1)
	$(1)/bin/pip install --disable-pip-version-check -q -e '.[$(2)]'
	touch $(1)/ready
endef

.venv/demo-%/ready: pyproject.toml
	$(call environment,.venv/demo-$*,$*$(comma)demo$(PIN_$*))

$(TEST)/ready: pyproject.toml
	$(call environment,$(TEST),$(EXTRAS))

$(DOCS)/ready: pyproject.toml
	$(call environment,$(DOCS),docs)

comma := ,
PIN_torch := $(comma)pinned
EXTRAS := jax,tensorflow,torch,models,conversion,zoo,docs,dev
