# shellcheck shell=bash
# What our code executes with interrupts off: a level 1 that counts it, and a program
# in it that searches for the most.

# budget [ARGUMENT...]: the program `budget` of tests/, in a level 1 that counts.
budget() {
	local limit=${STOPWATCH_TIMEOUT:-1800}
	mkdir -p "$BUILD/budget"
	build_modules
	build_tools
	need_qemu
	build_guest_initramfs
	# shellcheck disable=SC2016 # for the bash inside
	in_tree "$ROOTFS" bash -c 'gcc -shared -fPIC -O2 -Wall -I"$1/include" $(pkg-config --cflags glib-2.0) \
		-o build/budget/sections.so tools/bench/sections.c' - "/cache/$QEMU"
	level1_boot sections "$limit" budget "$@"
}
