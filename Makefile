# For a fresh machine: `make install`, `make demo`, `make test`. The README has the same for Windows PowerShell.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: install demo test test-directml lint

install: .venv/installed

demo: .venv/installed
	$(PY) notebooks/execute.py --demo

# One worker per core, and one thread per worker: more threads than cores slow torch down badly.
test: .venv/installed
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical

# All tests on the old torch that DirectML needs; without DirectX they use a stand-in for the device.
test-directml: .venv-directml/installed
	OMP_NUM_THREADS=1 .venv-directml/bin/python -m pytest -n logical

lint: .venv/installed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports --no-cache > .venv/lint-imports.log || (cat .venv/lint-imports.log; false)

# Installed again whenever its list of packages changes.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv-directml/installed: requirements-directml.txt pyproject.toml
	$(PYTHON) -m venv .venv-directml
	.venv-directml/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-directml.txt
	touch $@
