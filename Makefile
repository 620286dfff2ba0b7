# make demo, make test, make rtx: each sets everything up by itself, given only Python >= 3.10, make and a C library.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.ready
RTX    := $(VENV)/.ready-rtx
OPENCV4 := .opencv4
DEMO_OUT     ?= demo
DEMO_SECONDS ?= 10
SOAK_SECONDS ?= 600
NANO_DATA ?= photographs
NANO_WORK ?= .nano
NANO_ADAPTER = --data $(NANO_WORK)/train --val $(NANO_WORK)/held --backbone vit_nano_dinov3 \
	--backbone-weights $(NANO_WORK)/nano.safetensors --adapter conv --size 128x176 --batch 8 --edge-weight 0.05 \
	--spectral-weight 0 --schedule cosine --learning-rate 2e-3 --warmup-steps 20 --val-limit 8 --eval-every 170 \
	--save-every 50 --cache $(NANO_WORK)/maps --cache-budget 3GiB --device cpu --resume

.PHONY: nano demo test test-stream opencv4 rtx extras arm64 map check setup lock soak bench clean

setup: $(STAMP)

# uv lives inside the environment, so that nothing is installed outside of this folder.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .
	@touch $@

# TensorRT-RTX, 240 MB to fetch, once: uv keeps it in its cache.
$(RTX): requirements-rtx.lock $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-rtx.lock
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m brixel_edge.commands.demo --out $(DEMO_OUT) --seconds $(DEMO_SECONDS)

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Every kind of graph that we export, compiled by a real TensorRT, which needs no GPU for that.
rtx: $(RTX)
	$(BIN)/python -m pytest -m rtx --numprocesses 2 --dist worksteal

# Every extra resolves where it is meant for, and alone in a fresh environment does what README promises.
extras: $(STAMP)
	$(BIN)/python -m pytest -m extras --numprocesses 2 --dist worksteal

# The device's wheel on an emulated ARM64 processor; what is fetched for it stays in .arm64.
arm64: $(STAMP)
	$(BIN)/python -m pytest -m arm64

# Streams that fail, against a camera on an RTSP server of GStreamer's, which Debian has and the package index has not.
test-stream: $(STAMP)
	tests/streaming/install.sh $(BIN)/python
	$(BIN)/python -m pytest -m stream

# Only cv2 of the other major release, which stands before the environment's on the path; the rest is shared.
$(OPENCV4)/.ready: requirements-opencv4.lock $(STAMP)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --target $(OPENCV4) --no-deps --require-hashes -r requirements-opencv4.lock
	@touch $@

# Capture, recordings, pictures and windows with OpenCV 4, where the lock has 5.
opencv4: export PYTHONPATH := $(CURDIR)/$(OPENCV4)
opencv4: $(OPENCV4)/.ready
	$(BIN)/python -c "import cv2; print('OpenCV', cv2.__version__); assert cv2.__version__.startswith('4.')"
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/image $(addprefix tests/runtimes/test_, camera.py \
	  child_source.py files.py full_disk.py patterns.py picture_colours.py pictures.py reader.py stream.py window_process.py)

# The floors of the house and who imports whom, from the imports; fails on an upward one.
map: $(STAMP)
	$(BIN)/python tests/house.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Memory, threads and descriptors of ten minutes of brixel-run at full speed.
soak: $(STAMP)
	$(BIN)/python benchmarks/soak.py --seconds $(SOAK_SECONDS)

bench: $(STAMP)
	$(BIN)/python benchmarks/cpu.py

# The small backbone, from photographs with their licences in NANO_DATA/MANIFEST.csv; goes on where it was stopped.
nano: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m nano --data $(NANO_DATA) --work $(NANO_WORK)
	$(BIN)/python -m brixel_edge.commands.train $(NANO_ADAPTER) --full-frame --steps 850 --out $(NANO_WORK)/frame
	$(BIN)/python -m nano.release $(NANO_WORK)/frame/adapter.safetensors $(NANO_WORK)/nano-frame.safetensors

lock:
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-header \
	  --extra train --extra export --extra eval --extra openvino --extra video --extra record --extra ros --group dev pyproject.toml -o requirements.lock
	# Building ahead of time needs TensorRT-RTX alone; the extra's cuda-python may lag behind torch's bindings.
	echo 'tensorrt-rtx>=1.7,<2' | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	  --no-header --constraint requirements.lock - -o requirements-rtx.lock
	echo 'opencv-python-headless>=4.8,<5' | $(BIN)/uv pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	  --no-header --no-deps - -o requirements-opencv4.lock

clean:
	rm -rf $(VENV) $(OPENCV4) build dist demo .pytest_cache .ruff_cache
