# `make help` lists what there is. Everything runs in .venv; PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
MAKEFLAGS += --no-print-directory
# nothing of another environment leaks in
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help demo demo-detect demo-segment demo-video test test-fast test-integrations lint format bench peers docs clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 24

NATIVE := $(wildcard src/ctxvision/ops/_native/*.[ch]pp) src/ctxvision/ops/_native/CMakeLists.txt

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "$(PYTHON) is missing or older than 3.10; try make PYTHON=python3.12" >&2; exit 1; }
	@echo "installing into .venv (a few minutes the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e ".[dev]" -c constraints.txt
	@touch $@

# as fast as two threads for so small a network, and ten times faster where another program wants a core
demo demo-detect demo-segment demo-video: export OMP_NUM_THREADS = 1
# of ten classes the paper's shares would keep 5, 5 and 5; and a class that is dropped stays dropped
demo: FUNNEL := '{class_ratios: [1.0, 0.8, 0.6, 0.5], selection: reduce}'
demo: $(INSTALLED) ## train a contextual network on handwritten digits, look at its predictions, write demo/report.html
	@rm -rf demo
	$(BIN)/ctxvision train contextual_resnet_micro digits --model-args $(FUNNEL) --out demo/run
	@$(BIN)/python -c 'from ctxvision.data import DigitsData; DigitsData().export("demo/images", 8)'
	$(BIN)/ctxvision predict demo/run/checkpoints/best.ckpt demo/images --top-k 3
	$(BIN)/ctxvision report demo/run --out demo/report.html

demo-detect: $(INSTALLED) ## train a detector with masks on scenes of digits, some ten minutes; write demo-detect/report.html
	@rm -rf demo-detect
	$(BIN)/ctxvision train cotnet_micro "digits-scenes#train=3000" --workers 1 --task detect --recipe demo-detect --out demo-detect/run
	$(BIN)/ctxvision report demo-detect/run --out demo-detect/report.html

demo-segment: $(INSTALLED) ## train a segmentation network on the scenes, some ten minutes; write demo-segment/report.html
	@rm -rf demo-segment
	$(BIN)/ctxvision train cotnet_micro "digits-scenes#train=4800,digits=3,smallest=30,largest=60" --workers 1 --task segment --recipe demo-segment --out demo-segment/run
	$(BIN)/ctxvision report demo-segment/run --out demo-segment/report.html

demo-video: $(INSTALLED) ## train with and without temporal shifts on moving digits, some ten minutes; write demo-video/report.html
	@rm -rf demo-video
	$(BIN)/ctxvision train cotnet_micro moving-digits --task video --recipe demo-video --out demo-video/run
	$(BIN)/ctxvision train cotnet_micro moving-digits --task video --recipe demo-video --shift none --out demo-video/control
	$(BIN)/ctxvision report demo-video/run --against demo-video/control --out demo-video/report.html

# of both workers, and of the processes that tests start
test test-fast: export OMP_NUM_THREADS = 1
test: $(INSTALLED) ## all the tests, some twenty minutes on two cores
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=20

test-fast: $(INSTALLED) ## the tests for everyday work, a few minutes: none that is slow or starts processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not process"

# environments of their own: the packages are heavy, and optimum's exporter is pinned to an old transformers
INTEGRATIONS := tests/integrations
PEERS := .venv-integrations/.installed .venv-optimum/.installed
.venv-integrations/.installed: $(INTEGRATIONS)/requirements.txt pyproject.toml constraints.txt
.venv-optimum/.installed: $(INTEGRATIONS)/requirements-optimum.txt pyproject.toml constraints.txt
$(PEERS):
	@echo "installing into $(@D) (minutes the first time, what pip has in its cache is not fetched again)"
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -e ".[train,detect,segment,export]" \
		pytest filelock hypothesis -r $< -c constraints.txt
	@touch $@

test-integrations: $(PEERS) ## the tests with other people's packages; TIMM_SCRIPTS names a clone of timm's repository
	TIMM_SCRIPTS="$(abspath $(TIMM_SCRIPTS))" OMP_NUM_THREADS=1 .venv-integrations/bin/python -m pytest \
		-m integration $(INTEGRATIONS) --ignore $(INTEGRATIONS)/test_optimum.py
	OMP_NUM_THREADS=1 .venv-optimum/bin/python -m pytest -m integration $(INTEGRATIONS)/test_optimum.py

lint: $(INSTALLED) ## format check, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and sort its imports
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: $(INSTALLED) ## operators and networks against their peers; a quarter of an hour on two free cores
	$(BIN)/python -m benchmarks ops
	$(BIN)/python -m benchmarks models

peers: $(INSTALLED) ## environments for `python -m benchmarks matrix --peers`: OpenVINO, kecam, PaddleClas; minutes
	$(BIN)/python -m benchmarks.matrix.environments

docs: $(INSTALLED) ## the documentation, in site/
	$(BIN)/mkdocs build --strict

clean: ## remove what the other commands have made, but for .venv
	rm -rf demo demo-detect demo-segment demo-video site build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
