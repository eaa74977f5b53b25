# shellcheck shell=bash
# What is built from the clone, into build/: the modules, the programs, and the
# initramfs of level 2.

# alone COMMAND...: not while another lab command does something of the kind in
# the same clone.
alone() { (flock 9; "$@") 9>"$BUILD/lock"; }

# build_modules [KERNEL]: for level 1's kernel, or that.
build_modules() {
	need_kernel "${1:-$LEVEL1_KERNEL}"
	alone step "$MODULES" "vhost_stopwatch.ko and stopwatch.ko for Linux $KERNEL_RELEASE" \
		in_tree "$ROOTFS" /stopwatch/lab/inside/modules "/cache/$KERNEL/tree" "build/$MODULES"
}

build_tools() {
	need_rootfs
	alone step tools "the programs of tools/, statically linked" \
		in_tree "$ROOTFS" /stopwatch/lab/inside/tools
	alone in_tree "$ROOTFS" /stopwatch/lab/inside/header
	alone in_tree "$ROOTFS" /stopwatch/lab/inside/samples
}

# Level 2 has no other files than those of its initramfs: the guest driver, and
# the programs that are for guests by their names. The kernel's own
# modules in it are for the other ways across that the bench measures.
build_guest_initramfs() (
	kernel_path "$LEVEL2_KERNEL"
	alone in_tree "$ROOTFS" lab/inside/initramfs "build/$INITRAMFS" lab/guest/init \
		"/cache/$KERNEL" "$KERNEL_RELEASE" \
		"build/$MODULES/stopwatch.ko" \
		build/bin/stopwatch* build/bin/guest-* \
		vsock vmw_vsock_virtio_transport_common vmw_vsock_virtio_transport \
		virtio-rng ptp_kvm ptp_vmclock \
		button
)

# The slow ones are each slow on one processor for a while: do them at once.
build_all() {
	need_rootfs
	together need_kernels need_qemu build_tools
	build_modules
	[[ $LEVEL2_KERNEL == "$LEVEL1_KERNEL" ]] || build_modules "$LEVEL2_KERNEL"
}
