# `make demo` and `make test` install everything they need; see tools/make_venv.py.
PYTHON ?= python3
# A process per core, each with one thread.
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto
NATIVE = $(shell find csrc tests/layers -name '*.h' -o -name '*.inc' -o -name '*.cpp' -o -name '*.cu*')

UV = build/uv/bin/uv

.PHONY: demo test test-slow test-all reliability setup lock audit wheel wheel-matrix lint format clean

demo: setup   ## train, evaluate and draw a small Mask R-CNN on drawn shapes
	.venv/bin/python -m mrcnn_plugin train --config-file configs/mask_rcnn_shapes_C4.yaml
	.venv/bin/python -m mrcnn_plugin report output/shapes --image output/shapes/demo.png

test: setup   ## every test that is not slow
	$(PYTEST) -m "not slow" tests

test-all: setup   ## every test
	$(PYTEST) tests

test-slow: setup   ## the slow tests only
	$(PYTEST) -m slow tests

reliability: setup   ## print the tables of docs/reliability.md; SECTIONS="resume ops" for some
	.venv/bin/python -m benchmarks.reliability $(SECTIONS)

setup:   ## .venv with torch, detectron2 and the compiled op; seconds if nothing has changed
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no '$(PYTHON)': apt-get install python3 python3-venv python3-dev, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) tools/make_venv.py

lock: $(UV)   ## requirements.lock from requirements.txt; UPGRADE=--upgrade takes newer releases
	$(UV) pip compile -q --universal --python-version 3.10 --generate-hashes $(UPGRADE) \
		--custom-compile-command "make lock" requirements.txt -o requirements.lock

audit:   ## known vulnerabilities of what requirements.lock pins (asks the service of PyPI)
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install -q pip-audit
	build/audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements.lock

wheel: setup   ## dist/*.whl for every Python >= 3.10 and torch >= 2.10, checked by auditwheel
	.venv/bin/python tools/make_wheel.py

wheel-matrix: $(UV)   ## test dist/*.whl under several torch and Python; MATRIX="--torch 2.14.1" for one
	$(PYTHON) tools/wheel_matrix.py --uv $(UV) $(MATRIX)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(NATIVE)

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(NATIVE)

$(UV):
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install -q uv

clean:
	rm -rf .venv build dist mrcnn_plugin/*.so *.egg-info
