# Needs git, make and Python 3.11 or newer; everything else goes into .venv. `make` alone lists the targets.

VENV := .venv
PYTHONS := $(if $(PYTHON),$(PYTHON),python3.14 python3.13 python3.12 python3.11 python3)
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check --no-input
UV := build/uv/bin/uv
IMAGE = webhook-bridging-gateway
FORMAT = docker
BASE := $(shell sed -n 's/^ARG BASE=//p' Dockerfile)
BASE_LABELS = --label org.opencontainers.image.base.name=$(firstword $(subst @, ,$(BASE))) \
	$(if $(findstring @,$(BASE)),--label org.opencontainers.image.base.digest=$(lastword $(subst @, ,$(BASE))))
BENCH = PYTHONPATH=. $(VENV)/bin/python tests/bench/run.py --python $(VENV)-bench/bin/python
COMPILE = $(UV) pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--annotation-style line --no-header --no-emit-index-url --no-emit-find-links

# Where processes find their modules compiled they start much sooner, and the tests start hundreds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo play demo-replicas run test test-browser test-image pictures bench bench-million bench-pages bench-soak bench-schedule bench-lag simulate crash failover alarms attack fuzz describe mutate cover check lint format format-check types reference lock wheel image release-check keep-databases sbom audit clean

help: ## List the targets (this)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo '  PYTHON=…  the interpreter that .venv is made with        ARGS=…  further arguments for demo, run, test, crash, attack, bench…'

demo: $(VENV)/.runtime ## Show the whole way once, with a simulated upstream and a receiver: no key needed
	@$(VENV)/bin/gateway demo $(ARGS)

play: $(VENV)/.runtime ## Leave a gateway with its dashboard running, and receivers, with a trickle of tasks: no key needed
	@$(VENV)/bin/python -m tests.play

demo-replicas: $(VENV)/.dev ## Kill one of three replicas on a PostgreSQL before your eyes: nothing is lost
	@$(VENV)/bin/python -m tests.demo_replicas

run: $(VENV)/.runtime ## Serve for real; needs GATEWAY_UPSTREAM_API_KEY
	@$(VENV)/bin/gateway serve $(ARGS)

test: $(VENV)/.dev $(VENV)-openapi/.ready $(VENV)-receivers/.ready $(VENV)-sdks/.ready $(VENV)-supply/.ready tests/node/node_modules/.stamp ## Run every test, but for those in a browser and those of the image
	@$(VENV)/bin/python -m pytest -n 3 --dist worksteal --ignore tests/browser --ignore tests/image $(ARGS)

test-browser: $(VENV)/.dev tests/node/node_modules/.stamp ## Run the tests of the pages in a real browser; PICTURES=FOLDER keeps what they look like
	@PICTURES=$(PICTURES) $(VENV)/bin/python -m pytest tests/browser -n 2 --dist worksteal $(ARGS)

test-image: $(VENV)/.dev ## Build the image and run it, with buildah and podman where they are; the first time, some ten minutes
	@$(VENV)/bin/python -m pytest tests/image -p no:xdist $(ARGS)

pictures: $(VENV)/.dev tests/node/node_modules/.stamp ## Make the pictures of the dashboard in gateway/manual/ anew, with Chromium
	@$(VENV)/bin/python -m tests.browser.pictures

bench: $(VENV)/.dev $(VENV)-bench/.ready ## Measure the gateway beside its peers; ARGS=--quick for a minute's worth
	@$(BENCH) $(ARGS)

bench-million: $(VENV)/.dev ## Measure a million watched tasks alone; ARGS=--postgres for PostgreSQL
	@$(BENCH) --only million $(ARGS)

bench-pages: $(VENV)/.dev ## Time the dashboard's pages with a million callbacks on PostgreSQL; ARGS=--sqlite for SQLite
	@$(VENV)/bin/python -m tests.bench.pages $(ARGS)

bench-soak: $(VENV)/.runtime ## Run at 1,000 lives a second for half an hour; ARGS='--minutes 5' for less
	@$(BENCH) --only soak $(ARGS)

bench-schedule: $(VENV)/.runtime ## Compare the polling policy with others on virtual time; some minutes, ARGS='--seeds 3 --only …' for less
	@PYTHONPATH=. $(VENV)/bin/python tests/bench/schedule_lab.py $(ARGS)

bench-lag: $(VENV)/.runtime ## Measure the lag of real gateways in real time, in bursts; eight minutes
	@PYTHONPATH=. $(VENV)/bin/python tests/bench/lag.py $(ARGS)

simulate: $(VENV)/.dev ## Play a thousand new seeds of the gateway in simulated worlds; some minutes; ARGS=--replicas: several on one PostgreSQL
	@$(VENV)/bin/python -m tests.simulation $(ARGS)

crash: $(VENV)/.dev ## Kill it 200 times under load and count what is lost; ARGS=--terminate, --replicas, --rolling
	@$(VENV)/bin/python -m tests.crash $(ARGS)

failover: $(VENV)/.dev ## Kill PostgreSQL's primary under three replicas, five times, and see its standby take over
	@$(VENV)/bin/python -m tests.crash --failover $(ARGS)

alarms: $(VENV)/.dev ## See each alert fire on its fault, and none in a day of normal life; needs promtool, a minute or two
	@$(VENV)/bin/python -m tests.alarms $(ARGS)

attack: $(VENV)/.dev ## Set hostile clients, receivers, upstreams and neighbours at it for ten minutes; ARGS='--minutes 2 --only …'
	@$(VENV)/bin/python -m tests.attack $(ARGS)

fuzz: $(VENV)/.dev ## Give its parsers new inputs, half an hour for each; ARGS='--minutes 5 --only …'
	@$(VENV)/bin/python -m tests.fuzz $(ARGS)

describe: $(VENV)/.dev $(VENV)-openapi/.ready ## Hold the API against its /openapi.json with new examples; a quarter of an hour, ARGS='--examples 50 --seed 7'
	@$(VENV)/bin/python -m tests.described $(ARGS)

mutate: $(VENV)/.dev ## Change each guard of the state machine and see a test notice; some hours, ARGS='--every 10 --only …'
	@$(VENV)/bin/python -m tests.mutation $(ARGS)

cover: $(VENV)/.dev ## Check that the tests take every branch of the state machine; some minutes
	@$(VENV)/bin/python -m tests.mutation --coverage

check: lint format-check types test test-browser ## All that must hold before a commit: lint, format, types, tests, in a browser too

lint: $(VENV)/.dev ## Look for mistakes in the source
	@$(VENV)/bin/python -m ruff check

format: $(VENV)/.dev ## Bring the source into its one format
	@$(VENV)/bin/python -m ruff check --fix
	@$(VENV)/bin/python -m ruff format

format-check: $(VENV)/.dev ## Check that the source is in its one format
	@$(VENV)/bin/python -m ruff format --check

types: $(VENV)/.dev ## Check the types, strictly
	@$(VENV)/bin/python -m mypy

wheel: $(VENV)/.runtime ## Build the wheel into dist/
	@$(PIP) wheel --no-deps --no-build-isolation --check-build-dependencies --wheel-dir dist .
	@ls dist/*.whl

image: ## Build the container image of HEAD with buildah, the same layers for the same commit; BASE=NAME@sha256:… for another base
	@command -v buildah >/dev/null || { echo 'buildah is needed. On Debian and Ubuntu: apt install buildah' >&2; exit 1; }
	@context=$$(mktemp -d) && trap 'rm -rf "$$context"' EXIT && git archive HEAD | tar -x -C "$$context" && \
	buildah build --format $(FORMAT) --timestamp $$(git log -1 --format=%ct) --build-arg BASE=$(BASE) --tag $(IMAGE) \
		--label org.opencontainers.image.revision=$$(git rev-parse HEAD) \
		--label org.opencontainers.image.created=$$(TZ=UTC0 git log -1 --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ) \
		$(BASE_LABELS) $(ARGS) "$$context"

release-check: $(VENV)/.dev ## Build sdist and wheel, and use the wheel where nothing of the checkout is; a minute or two
	@$(VENV)/bin/python -m tests.release

keep-databases: $(VENV)/.dev ## Write what this version leaves behind, for the tests of upgrades; NAME=v1.0.0, OF=FOLDER for another checkout
	@$(VENV)/bin/python -m tests.release.databases $(or $(NAME),$(error NAME=v1.0.0 is needed)) $(or $(OF),.)

sbom: $(VENV)-supply/.ready ## List the packages of the lock as CycloneDX, in dist/sbom.cdx.json
	@$(VENV)-supply/bin/python -m tests.release.sbom dist/sbom.cdx.json

audit: $(VENV)-supply/.ready ## Ask what is known against the packages of the locks; 1: something is, 3: nobody could be asked
	@$(VENV)-supply/bin/python -m tests.release.audit

reference: $(VENV)/.dev ## Write anew what is made of the code: the manual's reference pages, Prometheus' rules, Grafana's dashboard; and what Kustomize makes
	@$(VENV)/bin/python -m tests.reference
	@$(VENV)/bin/python -m tests.alarms.files
	@$(VENV)/bin/python -m tests.kustomized

lock: $(UV) ## Pin every dependency anew with hashes; UPGRADE=1 takes the newest versions
	@$(COMPILE) $(if $(UPGRADE),--upgrade) pyproject.toml --extra ed25519 --extra otel --extra postgres --group dev --group build -o requirements-dev.lock
	@$(COMPILE) -c requirements-dev.lock pyproject.toml --extra ed25519 --extra otel --extra postgres -o requirements.lock
	@$(COMPILE) -c requirements-dev.lock --group build -o requirements-build.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -c requirements-dev.lock --group bench -o requirements-bench.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -c requirements-dev.lock --group sdks -o requirements-sdks.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) -c requirements-dev.lock --group receivers -o requirements-receivers.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group openapi -o requirements-openapi.lock
	@$(COMPILE) $(if $(UPGRADE),--upgrade) --group supply -o requirements-supply.lock

clean: ## Remove all that these targets made
	@rm -rf $(VENV) $(VENV)-bench $(VENV)-openapi $(VENV)-receivers $(VENV)-sdks $(VENV)-supply build dist tests/node/node_modules .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find gateway tests -name __pycache__ -type d -prune -exec rm -rf {} +

# A candidate must run (a version manager's shim may not) and be able to make virtual environments.
$(VENV)/.created:
	@found=; usable=; \
	for python in $(PYTHONS); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
		found=$${found:-$$python}; \
		if "$$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then usable=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo 'Python 3.11 or newer is needed, and none of these is one: $(PYTHONS)' >&2; \
		echo 'Install it, or name it: make PYTHON=/path/to/python3' >&2; \
		exit 1; \
	fi; \
	rm -rf $(VENV); \
	if [ -z "$$usable" ] || ! "$$usable" -m venv $(VENV) >&2; then \
		rm -rf $(VENV); \
		echo "$${usable:-$$found} cannot make virtual environments." >&2; \
		echo 'On Debian and Ubuntu: apt install python3-venv' >&2; \
		exit 1; \
	fi; \
	touch $@

$(VENV)/.runtime: $(VENV)/.created requirements.lock requirements-build.lock pyproject.toml
	@echo 'Installing the gateway into $(VENV) …'
	@$(PIP) install --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --no-deps --no-build-isolation --check-build-dependencies --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev.lock
	@echo 'Installing the development tools into $(VENV) …'
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# The peers' packages, apart from the gateway's: none of them may decide which versions it runs with.
$(VENV)-bench/.ready: $(VENV)/.created requirements-bench.lock
	@echo 'Installing the peers of the benchmark into $(VENV)-bench …'
	@$(VENV)/bin/python -m venv --clear $(VENV)-bench
	@$(VENV)-bench/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes -r requirements-bench.lock
	@touch $@

# The SDKs that are pointed at the gateway: their packages decide no version of its own. Where they cannot be installed or
# imported, their tests are skipped, and say so.
$(VENV)-sdks/.ready: $(VENV)/.created requirements-sdks.lock
	@echo 'Installing the SDKs of other job APIs into $(VENV)-sdks …'
	@$(VENV)/bin/python -m venv --clear $(VENV)-sdks
	@if $(VENV)-sdks/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --require-hashes -r requirements-sdks.lock && \
		$(VENV)-sdks/bin/python -c 'import lumaai, openai, replicate, runwayml'; then \
		touch $@; \
	else \
		rm -rf $(VENV)-sdks; \
		echo 'Warning: the SDKs cannot be installed or imported here, so the tests that use them are skipped.' >&2; \
	fi

# The frameworks of the manual's receivers. Where they cannot be installed, their tests are skipped, and say so.
$(VENV)-receivers/.ready: $(VENV)/.created requirements-receivers.lock
	@echo 'Installing the frameworks of the manual'"'"'s receivers into $(VENV)-receivers …'
	@$(VENV)/bin/python -m venv --clear $(VENV)-receivers
	@if $(VENV)-receivers/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --require-hashes -r requirements-receivers.lock; then \
		touch $@; \
	else \
		rm -rf $(VENV)-receivers; \
		echo 'Warning: the frameworks cannot be installed here, so the tests of the receivers in Python are skipped.' >&2; \
	fi

# What tests the gateway, and makes clients of it, by its own description: no package of these decides a version of its own.
$(VENV)-openapi/.ready: $(VENV)/.created requirements-openapi.lock
	@echo 'Installing the tools for /openapi.json into $(VENV)-openapi …'
	@$(VENV)/bin/python -m venv --clear $(VENV)-openapi
	@if $(VENV)-openapi/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --require-hashes -r requirements-openapi.lock; then \
		touch $@; \
	else \
		rm -rf $(VENV)-openapi; \
		echo 'Warning: the tools for /openapi.json cannot be installed here, so the tests that use them are skipped.' >&2; \
	fi

# What lists the packages of the lock, and what is known against them: none of its own runs in the gateway.
$(VENV)-supply/.ready: $(VENV)/.created requirements-supply.lock
	@echo 'Installing the tools for the list of packages into $(VENV)-supply …'
	@$(VENV)/bin/python -m venv --clear $(VENV)-supply
	@if $(VENV)-supply/bin/python -m pip --quiet --disable-pip-version-check --no-input install --no-compile --require-hashes -r requirements-supply.lock; then \
		touch $@; \
	else \
		rm -rf $(VENV)-supply; \
		echo 'Warning: the tools for the list of packages cannot be installed here, so the tests that use them are skipped.' >&2; \
	fi

# What is taken from npm: without it the tests that use it are skipped, and say so.
tests/node/node_modules/.stamp: tests/node/package.json tests/node/package-lock.json
	@if command -v npm >/dev/null 2>&1; then \
		if npm ci --prefix tests/node --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null; then \
			touch $@; \
		else \
			rm -rf tests/node/node_modules; \
			echo 'Warning: npm ci failed, so the tests that use packages from npm are skipped.' >&2; \
		fi; \
	fi

build/uv/bin/uv: $(VENV)/.created
	@$(VENV)/bin/python -m venv build/uv
	@build/uv/bin/python -m pip --quiet --disable-pip-version-check install uv
	@touch $@
