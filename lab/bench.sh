# shellcheck shell=bash
# The bench: two boots of level 1, one by the clock, as fast as the machine can,
# one that counts instructions; then the report.

# bench [PART]: all of it, or just how many instructions each operation has, and
# in which functions they are.
bench() {
	local out=$BUILD/bench part=${1:-all} limit=${STOPWATCH_TIMEOUT:-1800}
	case $part in
	all | profile) ;;
	*) die "bench: no part $part; expected none, or profile" ;;
	esac
	mkdir -p "$out"
	build_modules
	build_tools
	need_qemu
	build_guest_initramfs
	level1_accel
	# shellcheck disable=SC2016 # for the bash inside
	in_tree "$ROOTFS" bash -c 'gcc -shared -fPIC -O2 -Wall -I"$1/include" $(pkg-config --cflags glib-2.0) \
		-o build/bench/instructions.so tools/bench/instructions.c' - "/cache/$QEMU"

	# shellcheck disable=SC2034 # level1_environment passes on what is named so
	STOPWATCH_MACHINE="$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs, load average $(cut -d ' ' -f 1 /proc/loadavg)"
	if [[ $part == all ]]; then
		say "bench: by the clock, about 5 min"
		level1_boot "$ACCEL" "$limit" stopwatch-bench host build/bench/wall.json
	fi
	say "bench: by counting instructions, about 5 min"
	level1_boot counting "$limit" stopwatch-bench host --instructions build/bench/instructions.json
	in_tree "$ROOTFS" build/bin/stopwatch-bench profile build/bench >"$out/profile.md"
	say "bench: build/bench/profile.md says in which functions the instructions are"
	if [[ $part == all ]]; then
		in_tree "$ROOTFS" build/bin/stopwatch-bench report build/bench --document docs/experiment.md
		say "bench: build/bench/results.{json,md,svg,html}, and docs/experiment.md"
	fi
}
