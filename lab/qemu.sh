# shellcheck shell=bash
# QEMU of the distribution release with our device, for both levels, and with a
# repair of what emulates level 1's processor.

qemu_path() {
	QEMU=qemu-$({
		cat "$ROOTFS/etc/stopwatch-lab/qemu" "$LAB/inside/qemu"
		cat "$CLONE"/qemu-device-patch/*.patch "$LAB"/*.patch
	} | key)
	# Source and objects, shared by every version of the patches.
	QEMU_WORK=qemu-work-$(cat "$ROOTFS/etc/stopwatch-lab/qemu" "$LAB/inside/qemu" | key)
}

need_qemu() {
	need_rootfs
	qemu_path
	product "$CACHE/$QEMU" qemu "QEMU with -device stopwatch" qemu_make
}

qemu_make() {
	in_tree "$ROOTFS" /stopwatch/lab/inside/qemu "/cache/${1##*/}" "/cache/$QEMU_WORK"
}
