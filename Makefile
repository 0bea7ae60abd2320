# The newcomer's two commands, `make demo` and `make test`; README.md has the lines behind them.
PYTHON ?= python3
VENV ?= .venv
INSTALLED := $(VENV)/.installed
WITH_DEV := $(VENV)/.installed-dev

# Images of containers often set it, and then Python compiles what it imports at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check reference picture clean

demo: $(INSTALLED) ## Everything on scikit-learn's handwritten digits, in a few minutes
	$(VENV)/bin/kedro run

test: $(WITH_DEV) ## The tests, one process per core
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest --numprocesses auto --dist worksteal

check: $(WITH_DEV) ## Format, lint, types and dependencies
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/deptry src

reference: $(WITH_DEV) ## docs/parameters.md, README's results: after a change of conf/ or cells
	$(VENV)/bin/python docs/parameters.py
	$(VENV)/bin/python docs/results/summary.py

picture: $(INSTALLED) ## README's picture of the report, after a demo; needs Chromium
	chromium --headless --no-sandbox --hide-scrollbars --window-size=960,590 \
	  --screenshot=docs/pictures/report.png \
	  "file://$(CURDIR)/$$(ls -d data/08_reporting/digits/report.html/*/report.html | tail -1)"

clean: ## Remove the virtual environment
	rm -rf $(VENV)

# torch and torchvision come in one go, so that they match. Python compiles what it imports, at its first
# import; pip would compile everything, most of which nobody imports.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable .
	touch $@

$(WITH_DEV): $(INSTALLED)
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@
