# `make demo` and `make test` bring everything they need; see tools/make_venv.py.
PYTHON ?= python3
NATIVE = $(shell find csrc tests/layers -name '*.h' -o -name '*.inc' -o -name '*.cpp' -o -name '*.cu*')

.PHONY: demo test test-all setup lint format clean

demo: setup   ## train, evaluate and draw a small Mask R-CNN on drawn shapes
	.venv/bin/python -m mrcnn_plugin train --config-file configs/mask_rcnn_shapes_C4.yaml
	.venv/bin/python -m mrcnn_plugin report output/shapes --image output/shapes/demo.png

test: setup   ## every test that runs in seconds
	.venv/bin/python -m pytest -m "not slow" tests

test-all: setup   ## the slow ones too
	.venv/bin/python -m pytest tests

setup:   ## .venv with torch, detectron2 and the compiled op; seconds when it is there
	@command -v $(PYTHON) >/dev/null || { echo "setup: there is no '$(PYTHON)': apt-get install python3 python3-venv python3-dev, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) tools/make_venv.py

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/clang-format --dry-run --Werror $(NATIVE)

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/clang-format -i $(NATIVE)

clean:
	rm -rf .venv build mrcnn_plugin/*.so *.egg-info
