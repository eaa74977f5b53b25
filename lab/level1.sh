# shellcheck shell=bash
# Level 1, 'the host': a machine with a /dev/kvm that works, which runs one command in the clone and powers off.
#
# virtme-ng boots it, on the root filesystem over 9p, with no init system and no
# udev: it is up in seconds.

LEVEL1_TIMEOUT=${STOPWATCH_TIMEOUT:-900}

# Whether the machine's own virtualization carries level 1, with level 2 inside
# it, or emulation has to. A device node says little; so try, once for each
# kernel, QEMU and machine.
level1_accel() {
	local memory
	memory=$CACHE/accel-$({
		echo "$KERNEL $QEMU"
		uname -r
		grep -m1 'model name' /proc/cpuinfo
	} | key)
	if [[ ! -f $memory ]]; then
		ACCEL=tcg
		if [[ -w /dev/kvm ]]; then
			say "level1: trying the hardware virtualization of this machine"
			{ level1_boot kvm 20 true && level1_boot kvm 60 lab/host/try-level2; } \
				>"$CACHE/log/accel.log" 2>&1 && ACCEL=kvm
		fi
		echo "$ACCEL" >"$memory"
		case $ACCEL in
		kvm) say "level1: hardware virtualization works here, also nested" ;;
		tcg) say "level1: no hardware virtualization that carries a stock kernel with KVM inside; using emulation (TCG)" ;;
		esac
	fi
	ACCEL=$(<"$memory")
}

# level1_boot ACCEL SECONDS COMMAND...: the status is that of COMMAND, 124 after
# SECONDS, or 125 if level 1 ended without giving one.
level1_boot() {
	local accel=$1 seconds=$2 vng=(vng) options run inside rc=0 cpus memory out err tsc=
	shift 2
	run=$(mktemp -d "$BUILD/level1.XXXXXX")
	# Its value of now: the variable is gone when the trap is taken.
	# shellcheck disable=SC2064
	trap "rm -rf '$run'" EXIT
	inside=/stopwatch/build/${run##*/}
	mkfifo "$run/out" "$run/err"
	printf '%q ' "$@" >"$run/command"
	level1_environment "$accel" >"$run/environment"

	cpus=$(nproc)
	cpus=$((cpus < 4 ? cpus : 4))
	memory=$(awk '/^MemTotal/ { print int($2 / 2048) }' /proc/meminfo)
	memory=$((memory < 4096 ? memory : 4096))
	# What vng leaves to say: the kernel as it finds it, but without the compression
	# that takes an emulated processor long to undo; a log of the console; the root
	# filesystem once more, for lab/host/init.
	options=(-nodefaults -no-user-config -machine "q35,usb=off,vmport=off,i8042=off"
		-kernel "/cache/$KERNEL/vmlinux" -set "chardev.console.path=$inside/console"
		-fsdev "local,id=root,path=/,security_model=none,multidevs=remap,readonly=on"
		-device "virtio-9p-pci,fsdev=root,mount_tag=root")
	# vng's own choice where it finds /dev/kvm is that and -cpu host. TCG need not
	# say which features of the processor it lacks.
	# On a real-time kernel KVM wants a constant TSC.
	[[ $LEVEL1_KERNEL != rt ]] || tsc=,+invtsc
	if [[ $accel != kvm ]]; then
		vng+=(--disable-kvm)
		options+=(-accel "tcg,thread=multi" -cpu "EPYC,+svm,check=off$tsc")
	elif [[ $tsc ]]; then
		options+=(-cpu "host$tsc")
	fi
	# By a plugin of tools/bench, into its file in build/. One CPU, so that only what
	# an operation sets off is counted.
	case $accel in
	counting)
		cpus=1
		options+=(-plugin "/stopwatch/build/bench/instructions.so,out=/stopwatch/build/bench/instructions.log")
		;;
	sections)
		cpus=1
		options+=(-plugin "/stopwatch/build/budget/sections.so,out=/stopwatch/build/budget/sections.log")
		;;
	esac
	vng+=(--run "$KERNEL_RUN" --qemu "/cache/$QEMU/bin/qemu-system-x86_64"
		--name host --cpus "$cpus" --memory "${memory}M"
		--force-9p --rw --overlay-rwdir /tmp --rwdir /stopwatch=/stopwatch
		--append 'init=/stopwatch/lab/host/init loglevel=7 mitigations=off nokaslr'
		--append 'no_timer_check tsc=reliable'
		--exec "/stopwatch/lab/host/run $inside")
	vng+=("${options[@]/#/--qemu-opts=}")

	# Pipes, since vng wants files that it can open by their descriptors again.
	cat "$run/out" & out=$!
	cat "$run/err" >&2 & err=$!
	in_tree "$ROOTFS" env "TMPDIR=$inside" timeout --kill-after=5 "$seconds" "${vng[@]}" \
		>"$run/out" 2>"$run/err" </dev/null || rc=$?
	wait "$out" "$err"

	mv "$run/console" "$BUILD/level1.console" 2>/dev/null || true
	if [[ -s $run/status ]]; then
		rc=$(<"$run/status")
	elif ((rc == 124)); then
		say "level1: not finished after $seconds s (STOPWATCH_TIMEOUT sets the limit)"
	else
		say "level1: virtme-ng ended with status $rc before the command did; its console ($BUILD/level1.console) said:"
		rc=125
		tail -n 25 "$BUILD/level1.console" 2>/dev/null | sed 's/^/    /' >&2 || true
	fi
	rm -rf "$run"
	trap - EXIT
	return "$rc"
}

# What a command in level 1 finds in its environment.
level1_environment() {
	cat <<-END
		export STOPWATCH_ACCEL=$1
		export STOPWATCH_KERNEL=$LEVEL1_KERNEL
		export STOPWATCH_KERNEL2=$LEVEL2_KERNEL
		export STOPWATCH_KDIR=/cache/$KERNEL/tree
		export STOPWATCH_QEMU=/cache/$QEMU/bin/qemu-system-x86_64
		export STOPWATCH_GUEST=/stopwatch/lab/guest/qemu
		export STOPWATCH_MODULES=/stopwatch/build/$MODULES
		export STOPWATCH_BIN=/stopwatch/build/bin
		export PATH=/stopwatch/build/bin:\$PATH
	END
	(
		kernel_path "$LEVEL2_KERNEL"
		cat <<-END
			export STOPWATCH_GUEST_KERNEL=/cache/$KERNEL/vmlinux
			export STOPWATCH_GUEST_BZIMAGE=$KERNEL_BZIMAGE
			export STOPWATCH_GUEST_INITRD=/stopwatch/build/$INITRAMFS
			export STOPWATCH_GUEST_MEMORY=$([[ $LEVEL2_KERNEL == debug ]] && echo 512M || echo 256M)
		END
	)
	# Settings of the tests themselves pass through.
	local name
	for name in CI "${!STOPWATCH_@}"; do
		if [[ -n ${!name:-} ]]; then printf 'export %s=%q\n' "$name" "${!name}"; fi
	done
}

level1() {
	need_kernels
	need_qemu
	build_guest_initramfs
	kernel_path "$LEVEL1_KERNEL"
	level1_accel
	level1_boot "$ACCEL" "$LEVEL1_TIMEOUT" "$@"
}
