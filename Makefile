# Two commands for a fresh machine: `make demo` and `make test`. The README has the same for Windows PowerShell.
PYTHON ?= python3
PY := .venv/bin/python

.PHONY: demo test test-directml lint

demo: .venv/installed
	$(PY) notebooks/execute.py --demo

test: .venv/installed
	$(PY) -m pytest

# All tests on the old torch that DirectML needs; without DirectX they use a stand-in for the device.
test-directml: .venv-directml/installed
	.venv-directml/bin/python -m pytest

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
