# Every target sets up what it needs: `make demo` works on a machine with Python 3.11 or newer.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench wire clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## four made-up plants learn together: table, and out/demo/report.html
	$(BIN)/transferline-sim demo --out out/demo

test: $(READY)  ## all tests, with the coverage floor
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term

check: $(READY)  ## ruff, mypy --strict, and what deploy/ holds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m deploy.check

bench: $(READY)  ## the measurements in benchmarks/, quick form; real_plants takes hours
	$(BIN)/python benchmarks/training.py --quick
	$(BIN)/python benchmarks/training.py --quick --engines
	$(BIN)/python benchmarks/aggregation.py --quick
	$(BIN)/python benchmarks/secagg.py --quick
	$(BIN)/python benchmarks/deployment.py --quick
	$(BIN)/python benchmarks/real_plants.py --quick

wire: $(READY)  ## write the gRPC code again from common/wire/*.proto
	$(BIN)/python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. common/wire/*.proto

clean:  ## remove results and caches; .venv stays
	rm -rf out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# pip brings uv, uv brings the rest (ten times faster); both take versions from constraints.txt.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "python3 must be 3.11 or newer, got $$(python3 --version 2>&1);" \
		"install it, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "cannot make $(VENV) with $(PYTHON): on Debian, apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install -c constraints.txt -e '.[sim,postgres,series,text,tables,optimise,dev]'
	@touch $@
