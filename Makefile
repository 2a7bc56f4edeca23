# Everything sets itself up first: a .venv, the packages that constraints.txt pins, the model. A second call skips what is done.
#   make lab     open the course            make demo    fine-tune the real model, no browser, 5 minutes
#   make check   lint, types, unit tests    make test    everything: also every notebook, and the widgets in a browser
#   make site    the course as a website, in site/
#   make fresh CH=03   a clean copy of a chapter to work in      make notebooks [CH=03]   run chapters and store their outputs
# Options: PYTHON=python3.12 (which Python makes the .venv), TORCH_INDEX=<address> (take torch alone from that package index),
#   WORKERS=4 (processes that share the tests, 2 if not said; each may take 3 GB).

PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
# One thread: steadier digits, and quicker than two on a machine that does something else as well.
QUIET := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# A file's tests stay together: a notebook's cells share one kernel, and some files share a loaded model.
PYTEST := $(QUIET) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: lab demo doctor check lint types unit test notebooks fresh fetch site clean
.DEFAULT_GOAL := lab

lab: fetch
	$(BIN)/lora-edu lab

demo: fetch
	$(BIN)/lora-edu demo

doctor: $(VENV)/installed
	$(BIN)/lora-edu doctor

check: fetch
	@$(MAKE) --no-print-directory -j2 lint types unit

lint:
	$(BIN)/ruff check .

types:
	$(BIN)/mypy

unit:
	$(PYTEST) tests -m "not browser and not slow"

# In the order in which they stand, the longest file begins: every chapter in a browser. By their number of tests, which is what would
# order the files otherwise, it came last, on one worker, while the other had nothing left to do.
test: fetch
	$(PYTEST) --no-loadscope-reorder tests notebooks --nbval --nbval-current-env --nbval-cell-timeout=120 --nbval-sanitize-with nbval_sanitize.cfg

notebooks: fetch
	$(QUIET) $(BIN)/python -m lora_edu.course.notebooks execute $(CH)

fresh: $(VENV)/installed
	$(BIN)/lora-edu fresh $(CH)

fetch: $(VENV)/fetched

$(VENV)/fetched: $(VENV)/installed
	$(BIN)/lora-edu fetch
	@touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not one. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made (on Debian and Ubuntu: apt-get install python3-venv)."; rm -rf $(VENV); exit 1; }
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --index-url $(TORCH_INDEX) --no-deps "$$(grep '^torch==' constraints.txt)")
	@echo "Installing the packages that constraints.txt pins: a few minutes, and no more is said meanwhile."
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

site: $(VENV)/installed
	$(BIN)/python docs/build.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
