# quantfl: `make demo` and `make test` set themselves up on a fresh machine.
# QUANTFL_NO_ARM=1 leaves the Arm toolchain and QEMU out; PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORE := $(CURDIR)/.pio-core
export PLATFORMIO_CORE_DIR := $(CORE)
export PLATFORMIO_SETTING_ENABLE_TELEMETRY := no
export PIP_DISABLE_PIP_VERSION_CHECK := 1

C_SOURCES := $(shell find firmware/lib firmware/boards firmware/bench firmware/bench_keys firmware/cases firmware/src firmware/platforms -name '*.[chS]' -o -name '*.ld' -o -name '*.json' -o -name '*.py')
EXTENSION := host/quantfl/core/_qfl.abi3.so

.PHONY: demo docs test test-busy test-bluez firmware cores boards venv tools test-tools lint format clean recipes asan torture fuzz fuzz-quick

demo: firmware
	$(BIN)/quantfl demo $(if $(QUANTFL_NO_ARM),--board native)

test: $(VENV)/.test firmware cores
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The same tests in a random order, with N busy processes beside them. SEED: this order again; T=tests/ble: a part.
test-busy: N = 10
test-busy: $(VENV)/.test firmware cores
	$(BIN)/python tools/test_busy.py $(N) $(or $(SEED),random) -n 2 --dist worksteal $(T)

# The system's compilers and emulators, where its package manager can give them.
tools:
	@sh tools/setup_tools.sh

# What only tests need: the other emulated cores, clang, tshark.
test-tools:
	@sh tools/setup_tools.sh test

$(VENV)/.made: | tools
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml host/quantfl_lab/pyproject.toml | test-tools
	$(BIN)/pip install -q -e '.[test]' -e 'host/quantfl_lab[ble]'
	@touch $@ $(VENV)/.demo

venv: $(VENV)/.demo

$(VENV)/.docs: $(VENV)/.demo pyproject.toml
	$(BIN)/pip install -q -e '.[docs]'
	@touch $@

# The documentation as a site, in build/site. A warning, as of a link that leads nowhere, is an error.
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(VENV)/.docs $(EXTENSION)
	$(BIN)/python -m mkdocs build --strict

$(EXTENSION): $(VENV)/.demo $(C_SOURCES) host/quantfl/core/_build.py
	$(BIN)/python host/quantfl/core/_build.py

# Boards: the native one always; the emulated Cortex-M4F where the Arm toolchain is.
firmware: $(EXTENSION) .pio/.native
	@if [ -z "$(QUANTFL_NO_ARM)" ] && command -v arm-none-eabi-gcc >/dev/null; then $(MAKE) -s .pio/.arm; \
	else echo "no Arm toolchain: boards will be native processes"; fi

.pio/.native: $(VENV)/.demo $(C_SOURCES) platformio.ini
	$(BIN)/python tools/pio_offline/provision.py --core-dir $(CORE)
	$(BIN)/pio run -s -e native
	@touch $@

.pio/.arm: $(VENV)/.demo $(C_SOURCES) platformio.ini
	$(BIN)/python tools/pio_offline/provision.py --core-dir $(CORE)
	$(BIN)/pio run -s -e qemu_m4 -e bench_m4 -e bench_m4_portable -e bench_keys_m4
	@touch $@

# Images of real boards that the installed Arm compiler links.
BOARDS := nucleo_l476rg nucleo_l476rg_qemu

# All emulated cores, for the tests: those whose compiler is there.
CORES_ARM := standard_m4 digits_m4 qemu_m0 qemu_m3 qemu_m7 qemu_m33 qemu_m55 cases_m0 cases_m3 cases_m4 cases_m7 cases_m33 cases_m55 bench_m55 bench_m55_dsp $(BOARDS)
CORES_RISCV := qemu_rv32imc cases_rv32imc
CORES_XTENSA := cases_lx106

cores: firmware .pio/.cores

.pio/.cores: $(VENV)/.demo $(C_SOURCES) platformio.ini
	@envs=""; if [ -z "$(QUANTFL_NO_ARM)" ]; then \
	  command -v arm-none-eabi-gcc >/dev/null && envs="$$envs $(CORES_ARM)"; \
	  command -v riscv64-unknown-elf-gcc >/dev/null && envs="$$envs $(CORES_RISCV)"; \
	  command -v xtensa-lx106-elf-gcc >/dev/null && envs="$$envs $(CORES_XTENSA)"; fi; \
	$(BIN)/python tools/pio_offline/provision.py --core-dir $(CORE) >/dev/null; \
	for e in $$envs; do args="$$args -e $$e"; done; [ -z "$$args" ] || $(BIN)/pio run -s $$args
	@touch $@

# Real boards only, with their sizes, and the QEMU that has a model of one.
boards: $(VENV)/.demo
	$(BIN)/python tools/pio_offline/provision.py --core-dir $(CORE) >/dev/null
	$(BIN)/pio run $(addprefix -e ,$(BOARDS))
	tools/qemu10.sh .cache/qemu10 || [ $$? = 77 ]

# The slow tier of BLE: the real bluetoothd and kernel in a software-emulated machine (Debian, qemu-system-x86).
test-bluez: $(VENV)/.test firmware
	QUANTFL_BLUEZ=1 $(BIN)/python -m pytest -rs tests/bluez

asan: $(VENV)/.test
	$(BIN)/pio run -s -e native_asan

# Runs under random faults, more than CI has time for; SEED: another first schedule.
torture: $(VENV)/.test firmware
	$(BIN)/quantfl torture --seed $(or $(SEED),100000) --count 20000 --jobs 2
	$(BIN)/quantfl torture --seed $(or $(SEED),100000) --count 200 --board native
	$(BIN)/quantfl torture --seed $(or $(SEED),100000) --count 100 --board qemu_m4 --jobs 4

# Damaged input for every parser (docs/FUZZING.md): bounded, and as long as asked (make fuzz N=10000000, T=package for one).
N ?= 1000000
fuzz-quick: $(VENV)/.test
	$(BIN)/python tests/fuzz/run.py --seconds 8 || [ $$? = 77 ]

fuzz: $(VENV)/.test
	nice $(BIN)/python tests/fuzz/run.py $(T) --runs $(N)

# Style and types: what `make format` would change is an error here. `.ci/run` and the pre-commit hooks run the same checks.
LIBRARIES := $(shell git ls-files 'firmware/lib/qfl_*/src/*.c')
C_STYLE := $(shell git ls-files 'examples/*.[ch]' 'firmware/*.[ch]' 'firmware/*.cpp' 'tests/*.[ch]' 'tests/*.cpp' ':!firmware/lib/monocypher')

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .
	@$(BIN)/clang-format --dry-run -Werror $(C_STYLE)
	$(CC) -std=c11 -Wall -Wextra -Wconversion -Werror -fsyntax-only $(addprefix -I,$(wildcard firmware/lib/*/include)) $(LIBRARIES)
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix -q .
	$(BIN)/ruff format -q .
	$(BIN)/clang-format -i $(C_STYLE)

# Rebuild the shipped models (TensorFlow).
recipes: $(VENV)/.test
	$(BIN)/python models/digits/recipe.py --out models/digits/digits_int8.tflite

clean:
	rm -rf .pio .pio-core build host/*.egg-info $(EXTENSION) host/quantfl/core/_qfl.c
