# shellcheck shell=bash
# The stock kernel's build tree with its Rust metadata, which Debian does not
# package: made again from the source package, the same to the last symbol.

# Where it is inside the root filesystem, and there: tree/ (a KDIR), vmlinux.
kernel_path() {
	KERNEL=kernel-$(cat "$ROOTFS/etc/stopwatch-lab/kernel" "$LAB/inside/kernel" | key)
	KERNEL_RELEASE=$(cat "$ROOTFS/etc/stopwatch-lab/release")
}

need_kernel() {
	local wanted
	need_rootfs
	kernel_path
	wanted=$(sed -n 's/^kernel  *//p' "$LAB/packages")
	[[ $KERNEL_RELEASE == "$wanted" ]] ||
		say "kernel: the archive has no Linux $wanted any more, for which the modules are written; trying $KERNEL_RELEASE"
	product "$CACHE/$KERNEL" kernel "Rust metadata for Linux $KERNEL_RELEASE" kernel_make
}

kernel_make() {
	in_tree "$ROOTFS" /stopwatch/lab/inside/kernel "/cache/${1##*/}"
}
