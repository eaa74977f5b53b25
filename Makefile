# SPDX-License-Identifier: GPL-2.0
# The commands for people. What the kernel's build reads is Kbuild.

help:
	@echo 'make try      see a guest use a stopwatch with the QEMU and the kernel of this distribution'
	@echo 'make demo     see a guest use a stopwatch that the host kernel keeps, and where'
	@echo '              the time of its boot went, in build/demo/timeline.html'
	@echo 'make test     every test'
	@echo 'make test-debug  the modules on kernels that look for mistakes, 1 h or more'
	@echo 'make test-lifecycle  everything that begins and ends, 100 times; more than an hour, emulated'
	@echo 'make budget   search for the longest sections with interrupts off, for an hour'
	@echo 'make fuzz     fuzz engine, host module and driver, for MINUTES=10 each'
	@echo 'make bench    what each way between guest and host costs, into build/bench'
	@echo 'make modules  the kernel modules, into build/modules, for the stock kernel of the lab;'
	@echo '              with KDIR=... for any kernel tree that has Rust enabled'
	@echo 'make tools    the programs, into build/bin'
	@echo 'make lab      all that is slow to make, now'
	@echo 'make clean    remove build/'

try:
	lab/try

demo:
	lab/demo

test:
	tests/run

test-debug:
	tests/debug

test-lifecycle:
	tests/lifecycle

budget:
	STOPWATCH_TIMEOUT=5400 lab/lab budget search --seconds 3600 --guest

fuzz:
	tests/fuzz/all $(or $(MINUTES),10)

bench:
	lab/lab bench

MODULES := build/modules
ifdef KDIR
modules:
	$(MAKE) -C $(KDIR) M=$(CURDIR) MO=$(CURDIR)/$(MODULES) modules
else
modules:
	lab/lab modules
endif

tools:
	lab/lab tools

lab:
	lab/lab all

clean:
	rm -rf build

.PHONY: help try demo test fuzz test-debug test-lifecycle budget bench modules tools lab clean
