# Two commands matter: `make demo` and `make test`. Everything lives in .venv; nothing is installed elsewhere,
# except that `make test` asks the system for chromium where it is root and chromium is missing.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet -c constraints.txt
TESTS ?= tests
JOBS ?= 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lab check gpu browser pages chromium clean help

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.base ## a real reasoning tree: trace and page in runs/
	$(BIN)/workbench demo

# the browser's driver keeps an event loop in its process, where others' asyncio.run would fail: apart
test: $(VENV)/.test chromium ## all tests that need no GPU
	$(BIN)/workbench models get smollm2-135m-instruct
	$(BIN)/python -m pytest $(TESTS) -n $(JOBS) --dist loadfile -m "not gpu and not slow and not browser"
	$(BIN)/python -m pytest $(TESTS) -m "browser and not slow"

lab: $(VENV)/.lab ## JupyterLab on notebooks/
	$(BIN)/workbench lab

check: $(VENV)/.test ## format, lint, types, unit, rooms: under a minute
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_rooms.py tests/unit -q -n $(JOBS) \
	  -m "not gpu and not slow and not model and not browser and not notebooks"

gpu: $(VENV)/.test ## tests that need a CUDA device
	$(BIN)/python -m pytest $(TESTS) -m gpu

browser: $(VENV)/.test chromium ## tests in a real browser
	$(BIN)/python -m pytest $(TESTS) -m browser

pages: $(VENV)/.test ## execute every notebook and compare its facts
	$(BIN)/python -m pytest $(TESTS) -m notebooks

# torch first and alone: a range asked for by another package would bring a CUDA build of several GB
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing torch (once; a minute or more)"
	$(PIP) torch
	@touch $@

$(VENV)/.base: $(VENV)/.torch pyproject.toml hatch_build.py
	@echo "installing reasoning-workbench"
	$(PIP) -e .
	@touch $@

$(VENV)/.lab: $(VENV)/.base
	$(PIP) -e '.[lab]'
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@echo "installing what the tests need (CuPy and NVRTC too: kernels are compiled without a GPU)"
	$(PIP) -e '.[lab,app,api,test,cuda13]'
	@touch $@

chromium:
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "chromium is missing: installing it"; \
	  apt-get update -qq && apt-get install -y -qq chromium >/dev/null; \
	else \
	  echo "chromium is missing: the browser tests will be skipped (on Debian: apt-get install chromium)"; \
	fi

clean: ## remove the virtual environment and what was built
	rm -rf $(VENV) build dist runs widgets/static
