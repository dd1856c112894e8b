# Two commands for a newcomer: make demo, make test. `make help` lists the rest.
PYTHON ?= python3
BOOTSTRAP = $(PYTHON) tools/bootstrap.py
VENV = .venv/bin
FUZZ_SECONDS = 60
NET_TESTS = packet|xdp|tap|pcap|feeder|vde|conformance_net
CONFORMANCE =

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## virtual environment, dependencies, C core
	@$(BOOTSTRAP)

demo: setup ## shards on the software NIC, verified echo; no root, under 10 s
	@$(VENV)/shardserver demo

demo-real: setup ## Linux's own TCP as the client over veth, in namespaces of its own; no root
	@$(VENV)/shardserver demo --real

picotcp: setup ## picoTCP for --engine picotcp: source by cargo, or PICOTCP_DIR=/prefix
	@$(PYTHON) tools/picotcp.py

test: ## C tests, unit tests, in-memory end to end; no root
	@$(BOOTSTRAP) --group test --target all
	@ctest=$$(command -v ctest || echo $(VENV)/ctest); $$ctest --test-dir build/release -E '$(NET_TESTS)' -j 2 --output-on-failure
	@$(VENV)/python -m pytest tests/unit tests/test_tidy.py tests/integration -m "not net"

test-net: ## what needs network namespaces: AF_PACKET, AF_XDP, kernel clients, kills under load
	@$(BOOTSTRAP) --group test --target all
	@ctest=$$(command -v ctest || echo $(VENV)/ctest); $$ctest --test-dir build/release -R '$(NET_TESTS)' -E conformance --output-on-failure
	@build/release/conformance $(CONFORMANCE)
	@$(VENV)/python -m pytest tests/integration tests/fault -m "net"

lint: ## ruff, mypy --strict, import contracts, clang-format, tidy
	@$(BOOTSTRAP) --group test --group lint
	@$(VENV)/ruff check shardserver orchestrator tools tests bench examples
	@$(VENV)/ruff format --check shardserver orchestrator tools tests bench examples
	@$(VENV)/mypy
	@$(VENV)/lint-imports --no-cache
	@git ls-files 'native/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]' | xargs $(VENV)/clang-format --dry-run -Werror
	@$(VENV)/python -m pytest tests/test_tidy.py

format: ## rewrites the sources in the project's style
	@$(BOOTSTRAP) --group test --group lint
	@$(VENV)/ruff check --fix shardserver orchestrator tools tests bench examples
	@$(VENV)/ruff format shardserver orchestrator tools tests bench examples
	@git ls-files -co --exclude-standard 'native/*.[ch]' 'tests/*.[ch]' 'bench/*.[ch]' | xargs $(VENV)/clang-format -i

asan: ## the C tests and the fuzz corpus under ASan and UBSan
	@$(BOOTSTRAP) --group test --preset debug --target all
	@ctest=$$(command -v ctest || echo $(VENV)/ctest); $$ctest --test-dir build/debug -j 2 --output-on-failure

fuzz: ## libFuzzer for a minute on each target (needs clang)
	@$(BOOTSTRAP) --group test --preset fuzz --target all
	@set -e; for source in tests/fuzz/fuzz_*.c; do name=$$(basename $$source .c); \
		echo "== $$name"; mkdir -p build/corpus/$$name; \
		build/fuzz/$$name -max_total_time=$(FUZZ_SECONDS) -max_len=1500 -verbosity=0 \
			-artifact_prefix=build/corpus/$$name- build/corpus/$$name tests/fuzz/corpus/$$name; done

bench: setup ## what the figures in bench/README.md come from
	@$(VENV)/python bench/instructions.py

clean: ## removes builds and the virtual environment
	rm -rf build .venv shardserver/libshardserver.so shardserver/_ffi.py

.PHONY: help setup demo demo-real picotcp test test-net lint format asan fuzz bench clean
