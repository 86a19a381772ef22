# Everything a developer runs. `make` alone lists it.
CC ?= gcc
VENV ?= .venv
PY := $(VENV)/bin/python
export VENV
CORE := $(filter-out csrc/stub.c csrc/keeper.c csrc/zygote_child.c,$(wildcard csrc/*.c))
HEADERS := $(wildcard csrc/*.h tests/c/*.h)
CTESTS := $(basename $(notdir $(wildcard tests/c/test_*.c)))
CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Werror -fvisibility=hidden -iquote csrc
SANITIZE := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
ARCH_CC ?= $(if $(filter aarch64,$(shell uname -m)),$(CC),aarch64-linux-gnu-gcc)
STUB_FLAGS := -static -nostdlib -ffreestanding -fno-builtin -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fno-pie -no-pie -s
ZYGOTE_FLAGS := $(filter-out -static -fno-pie -no-pie,$(STUB_FLAGS)) -shared -fPIC -fvisibility=hidden
CHILD := csrc/child.c csrc/child_mounts.c csrc/child_layers.c
# pytest's, as in: make test ARGS="-k exec -x"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run build test soak vm ctest sanitize cross lint format bench bench-smoke dist clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(firstword $(MAKEFILE_LIST)) | while IFS='	' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

run:  ## install what is needed, build, run a first container
	@sh install.sh

build:  ## install what is needed, build into .venv
	@sh install.sh build

test: ctest  ## all tests (as root: all of them; ARGS="-k NAME -x" for pytest)
	@sh install.sh test
	$(PY) -m pytest --ignore=tests/vm $(ARGS)

soak:  ## 100,000 jobs of mixed outcomes, and 200 kills of each kind (as root, an hour)
	@sh install.sh test
	FASTCTR_SOAK_JOBS=100000 FASTCTR_CHAOS_ROUNDS=210 $(PY) -m pytest tests/soak tests/integration/test_batch_chaos.py $(ARGS)

vm:  ## the tests that want cgroup v2 alone or an unprivileged user, in a VM (needs ../shared/vm-run)
	@sh install.sh test
	$(PY) -m pytest tests/vm $(ARGS)

ctest:  ## the C tests
	@sh install.sh build
	@$(MAKE) --no-print-directory $(CTESTS:%=run/%)

sanitize:  ## the C tests with address and undefined-behaviour sanitizers
	@sh install.sh build
	@$(MAKE) --no-print-directory $(CTESTS:%=run-sanitized/%)

run/%: build/c/%
	$<

run-sanitized/%: build/c-sanitized/%
	$<

# The core as an archive, once plain and once sanitized; every test is linked to it.
build/c/obj/%.o: csrc/%.c $(HEADERS) Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<

build/c-sanitized/obj/%.o: csrc/%.c $(HEADERS) Makefile
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SANITIZE) -c -o $@ $<

build/c/libfctr.a: $(CORE:csrc/%.c=build/c/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

build/c-sanitized/libfctr.a: $(CORE:csrc/%.c=build/c-sanitized/obj/%.o)
	@rm -f $@
	ar rcs $@ $^

build/c/%: tests/c/%.c build/c/libfctr.a
	$(CC) $(CFLAGS) -o $@ $< build/c/libfctr.a -lseccomp -pthread

build/c-sanitized/%: tests/c/%.c build/c-sanitized/libfctr.a
	$(CC) $(CFLAGS) $(SANITIZE) -o $@ $< build/c-sanitized/libfctr.a -lseccomp -pthread

.PRECIOUS: build/c/% build/c-sanitized/% build/c/obj/%.o build/c-sanitized/obj/%.o

cross:  ## compile the core and the stub for aarch64 (ARCH_CC), warnings as errors
	@sh install.sh ci
	@mkdir -p build/cross
	for file in $(CORE); do \
		$(ARCH_CC) $(CFLAGS) -idirafter /usr/include -c -o build/cross/$$(basename $$file .c).o $$file || exit 1; done
	$(ARCH_CC) $(CFLAGS) -Os $(STUB_FLAGS) -o build/cross/fctr-stub csrc/stub.c csrc/keeper.c $(CHILD)
	$(ARCH_CC) $(CFLAGS) -Os $(ZYGOTE_FLAGS) -o build/cross/fctr-zygote csrc/zygote_child.c $(CHILD)

lint:  ## ruff and mypy
	@sh install.sh lint
	$(PY) -m ruff check .
	$(PY) -m mypy

format:  ## what ruff can put right by itself
	@sh install.sh lint
	$(PY) -m ruff check --fix .

bench:  ## the benchmarks, their page and plots in docs/ (as root, half an hour)
	@sh install.sh bench
	@mkdir -p build/bench
	$(PY) -m pytest bench $(ARGS)
	$(PY) -m bench.run --json build/bench/run.json
	$(PY) -m bench.images --json build/bench/images.json
	$(PY) -m bench.throughput --json build/bench/throughput.json
	$(PY) -m bench.report build/bench/run.json docs/benchmarks.md build/bench/images.json build/bench/throughput.json

bench-smoke:  ## the same with few starts: do they work?
	@sh install.sh bench
	$(PY) -m bench.run --smoke
	$(PY) -m bench.images --smoke
	$(PY) -m bench.throughput --smoke

dist:  ## source distribution and wheel, in dist/
	@sh install.sh build
	$(PY) -m pip install -q --disable-pip-version-check build
	rm -rf dist build/lib* build/temp* build/bdist*
	$(PY) -m build

clean:  ## remove what was built (.venv stays)
	rm -rf build dist src/*.egg-info src/fastctr/_core.c src/fastctr/*.so src/fastctr/fctr-stub src/fastctr/fctr-zygote $(VENV)/.fastctr-built
	find src tests bench -name __pycache__ -prune -exec rm -rf {} +
