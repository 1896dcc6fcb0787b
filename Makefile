# make demo      the chat page on http://127.0.0.1:9990, for your browser
# make demo-python   the same, by the program in Python
# make wheel     the package for Python, with the library inside, in target/wheels
# make test      every test, installing what they need
# make autobahn  every case of the Autobahn suite about compression, in both modes: about 20 minutes
# make autobahn-bindings   chapters 1 to 10 of it over the echo in Python and in C#
# make examples  the C programs, in target/examples/c
# make csharp    the C# binding, its examples (in target/examples/csharp) and its tests; make demo-csharp is the chat
# make lint      format and clippy
# make bench     echo and topics beside the floor and other servers: CPU per message and handshake, 25 minutes; BENCH="--scenario 'python-*'"
# make bench-memory   unmasking and checking text beside memcpy, half a minute
# make bench-peers   ours beside everybody else, 20 minutes: tests/bench/RESULTS.md with its plots; BENCH="--scenario 50x20" for a part
# make counts    writes down how many instructions a message costs now, for the test that watches over it
# make soak      an hour of everything at once, memory and descriptors watched; MINUTES=15
# make install   PREFIX=/usr/local DESTDIR=: library, header, pkg-config file
# make sim       100,000 simulated conversations; SEEDS=n for another number, SEED_BASE=n to go on from n
# make fuzz      every fuzz target for FUZZ_SECONDS=600, or those of FUZZ="http messages"
# make coverage  lines and branches that the tests run, layer by layer; what does not run
# make asan      the tests with AddressSanitizer: in Rust, and the programs from outside
# make tsan      the tests with ThreadSanitizer: in Rust, and the C programs of tests/abi
# make replay SEED=n   one simulated conversation again, step by step

CARGO    ?= cargo
CC       ?= cc
PYTHON   ?= python3
MINUTES  ?= 60
PREFIX   ?= /usr/local
FUZZ_SECONDS ?= 600
DEMO_LISTEN ?= 127.0.0.1:9990
LIBRARY  := target/release/libfullduplex.so
PROGRAMS := $(patsubst examples/c/%.c,target/examples/c/%,$(wildcard examples/c/*.c))

.PHONY: all demo demo-python wheel test autobahn autobahn-bindings lint examples bench bench-memory bench-peers counts soak sim fuzz replay coverage asan tsan library install clean

all: examples

# Cargo knows best what is out of date.
library:
	$(CARGO) build --release --locked
	ln -sf libfullduplex.so target/release/libfullduplex.so.0

examples: library $(PROGRAMS)

target/examples/c/%: examples/c/%.c examples/c/options.h include/fullduplex.h $(LIBRARY)
	@mkdir -p $(@D)
	$(CC) -std=c99 -D_POSIX_C_SOURCE=200809L -O2 -Wall -Wextra -pedantic -Werror -Iinclude $< -o $@ \
	    -Ltarget/release -lfullduplex -Wl,-rpath,'$$ORIGIN/../../release' -pthread

$(LIBRARY): library

demo: examples
	target/examples/c/chat --listen $(DEMO_LISTEN) --page examples/web/chat.html

demo-python: library
	PYTHONPATH=bindings/python/src $(PYTHON) examples/python/chat.py --listen $(DEMO_LISTEN) --page examples/web/chat.html

wheel: library
	$(PYTHON) -m venv target/wheel-env
	target/wheel-env/bin/pip wheel --quiet --no-deps --wheel-dir target/wheels bindings/python

# -- C#: with the SDK that the tests use, or DOTNET=... -----------------------------------------------------------

OUR_DOTNET := $(abspath target/test-env/dotnet/dotnet)
DOTNET ?= $(OUR_DOTNET)
CSHARP_PROGRAMS := Echo Chat Gatekeeper
CSHARP_PROJECTS := bindings/csharp/FullDuplex $(CSHARP_PROGRAMS:%=examples/csharp/%) tests/bindings/csharp

.PHONY: csharp demo-csharp

$(OUR_DOTNET):
	tests/dotnet.sh $(@D)

csharp: library $(filter $(OUR_DOTNET),$(DOTNET))
	for project in $(CSHARP_PROJECTS); do \
	    $(DOTNET) build $$project --configuration Release --nologo --verbosity quiet -clp:NoSummary || exit 1; done
	@mkdir -p target/examples/csharp
	for program in $(CSHARP_PROGRAMS); do \
	    file=target/examples/csharp/$$(echo $$program | tr A-Z a-z); \
	    printf '#!/bin/sh\nexec %s %s "$$@"\n' $(DOTNET) $(abspath target/csharp)/$$program/netcoreapp3.1/$$program.dll > $$file; \
	    chmod +x $$file; done

demo-csharp: library $(filter $(OUR_DOTNET),$(DOTNET))
	$(DOTNET) build examples/csharp/Chat --configuration Release --nologo --verbosity quiet -clp:NoSummary
	exec $(DOTNET) target/csharp/Chat/netcoreapp3.1/Chat.dll --listen $(DEMO_LISTEN) --page examples/web/chat.html

test:
	tests/run

autobahn: examples
	tests/setup.sh
	cd tests && AUTOBAHN=compression ../target/test-env/py3/bin/python -m pytest -q conformance/test_autobahn.py

autobahn-bindings: examples
	tests/setup.sh
	$(MAKE) --silent csharp
	cd tests && AUTOBAHN=bindings ../target/test-env/py3/bin/python -m pytest -q conformance/test_autobahn.py -k bindings

lint:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path tests/fuzz/Cargo.toml
	$(CARGO) fmt --check --manifest-path tests/bench/peers/tungstenite/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings

SEEDS ?= 100000

sim:
	SEEDS=$(SEEDS) $(CARGO) test --locked --release --test engine conversations_with_faults -- --nocapture

# SEED=n of a simulation that failed: the same run again, with every step.
replay:
	SEED=$(SEED) $(CARGO) test --release --test engine replay -- --nocapture

fuzz:
	tests/fuzz/run $(FUZZ_SECONDS) $(FUZZ)

coverage:
	tests/coverage

# PYTEST="-k attacks" for a part of the outside tests.
asan: library
	tests/sanitize address $(PYTEST)

tsan:
	tests/sanitize thread

bench: examples
	python3 tests/bench/bench.py --peers $(BENCH)

bench-memory:
	$(CARGO) bench --locked --bench memory

bench-peers: examples
	python3 tests/bench/bench.py --results $(BENCH)

counts: examples
	cd tests && UPDATE_COUNTS=1 ../target/test-env/py3/bin/python -m pytest -q instructions

soak: examples
	python3 tests/soak/soak.py --minutes $(MINUTES) $(SOAK)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)

install: library
	install -d $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 include/fullduplex.h $(DESTDIR)$(PREFIX)/include/
	install -m 755 target/release/libfullduplex.so $(DESTDIR)$(PREFIX)/lib/libfullduplex.so.$(VERSION)
	ln -sf libfullduplex.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/libfullduplex.so.0
	ln -sf libfullduplex.so.0 $(DESTDIR)$(PREFIX)/lib/libfullduplex.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' bindings/c/fullduplex.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/fullduplex.pc

clean:
	$(CARGO) clean
