# `make demo` and `make test` need Python 3.11 or 3.12 and make; the rest they install into .venv.

SHELL := /bin/sh
.PHONY: demo test check bench-decode bench-order bench-index

BIN := .venv/bin
# Touched last: while it is missing, the environment is not whole and is made anew.
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check

demo: $(INSTALLED)
	$(BIN)/onetake demo

test: check
	$(BIN)/python -m pytest

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

# What else there is to compare with: `.venv/bin/pip install -e '.[bench]'`; torchcodec needs FFmpeg's libraries too
# (Debian: apt-get install ffmpeg). Options: `make bench-decode BENCH='--quick'`.
bench-decode: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.bench_decode $(BENCH)

bench-order: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.bench_order $(BENCH)

bench-index: $(INSTALLED)
	$(BIN)/python -m tests.benchmarks.bench_index $(BENCH)

$(INSTALLED): pyproject.toml
	@set -e; \
	if [ -e $@ ] && $(BIN)/python -c '' 2>/dev/null; then \
		rm $@; \
	else \
		usable='import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])'; \
		python=; \
		for candidate in python3.11 python3.12 python3; do \
			if $$candidate -c "$$usable" 2>/dev/null; then python=$$candidate; break; fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo "error: onetake needs Python 3.11 or 3.12 with its venv module, and found" \
				"$$(python3 --version 2>/dev/null || echo no Python) here" \
				"(Debian: apt-get install python3 python3-venv)" >&2; \
			exit 1; \
		fi; \
		$$python -m venv --clear .venv; \
	fi; \
	echo "Installing onetake with torch, Lightning, Composer and the test tools into .venv:" \
		"some minutes and 7 GB"; \
	$(PIP) --upgrade pip; \
	$(PIP) -e '.[all,dev]'; \
	touch $@
