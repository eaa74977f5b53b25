# shellcheck shell=bash
# The kernels that the lab boots, each with a build tree in which modules are built
# for it, with the Rust metadata that Debian does not package:
#
#   stock  the distribution's; metadata made again from the source package, the
#          same to the last symbol
#   debug  of the same source and the patches of upstream/, built here: with what looks
#          for mistakes
#   rt     the distribution's real-time one, of the same version

# Settings: the kernel of level 1, and that of level 2.
LEVEL1_KERNEL=${STOPWATCH_KERNEL:-stock}
LEVEL2_KERNEL=${STOPWATCH_KERNEL2:-$LEVEL1_KERNEL}

# kernel_path NAME: where the kernel NAME is in the cache and in the root filesystem,
# and what belongs to it.
kernel_path() {
	local versions=$ROOTFS/etc/stopwatch-lab/kernel
	KERNEL_RELEASE=$(cat "$ROOTFS/etc/stopwatch-lab/release")
	case $1 in
	stock)
		KERNEL=kernel-$(cat "$versions" "$LAB/inside/kernel" | key)
		# What vng takes, and finds the modules by.
		KERNEL_RUN=$KERNEL_RELEASE
		KERNEL_BZIMAGE=/boot/vmlinuz-$KERNEL_RELEASE
		KERNEL_SUFFIX=
		;;
	debug)
		KERNEL=kernel-debug-$(cat "$versions" "$LAB/inside/kernel-debug" "$LAB/debug.config" \
			"$CLONE"/upstream/{series,patches/*} $(upstream_sources) | key)
		KERNEL_RELEASE=${KERNEL_RELEASE%%[-+]*}-stopwatch-debug
		KERNEL_RUN=/cache/$KERNEL/vmlinux
		KERNEL_BZIMAGE=/cache/$KERNEL/bzImage
		KERNEL_SUFFIX=-debug
		;;
	rt)
		KERNEL=kernel-rt-$(cat "$versions" "$LAB"/inside/kernel{,-rt} | key)
		KERNEL_RELEASE=${KERNEL_RELEASE%-*}-rt-${KERNEL_RELEASE##*-}
		KERNEL_BZIMAGE=/cache/$KERNEL/boot/vmlinuz-$KERNEL_RELEASE
		KERNEL_RUN=$KERNEL_BZIMAGE
		KERNEL_SUFFIX=-rt
		;;
	*) die "no kernel $1: STOPWATCH_KERNEL and STOPWATCH_KERNEL2 are stock, debug or rt" ;;
	esac
	# In build/, of that kernel.
	MODULES=modules$KERNEL_SUFFIX
	INITRAMFS=guest$KERNEL_SUFFIX.initramfs
}

# upstream_sources: the files that the patches of upstream/ are made of.
upstream_sources() {
	local name
	ls "$CLONE"/abstractions/shim*
	sed -n 's/^Source: *//p' "$CLONE"/upstream/patches/*.new | while read -r name; do
		echo "$CLONE/abstractions/$name"
	done
}

# kernel_names: the names in the cache of all that a clone uses.
kernel_names() {
	local name
	for name in stock debug rt; do
		kernel_path "$name"
		echo "$KERNEL"
	done
}

# need_kernel NAME: as kernel_path, and it is there.
need_kernel() {
	local wanted what
	need_rootfs
	wanted=$(sed -n 's/^kernel  *//p' "$LAB/packages")
	kernel_path stock
	[[ $KERNEL_RELEASE == "$wanted" ]] ||
		say "kernel: the archive has no Linux $wanted any more, for which the modules are written; trying $KERNEL_RELEASE"
	kernel_path "$1"
	case $1 in
	stock) what="Rust metadata for Linux $KERNEL_RELEASE" ;;
	debug) what="Linux $KERNEL_RELEASE, which takes 15 min on 2 processors" ;;
	rt) what="Linux $KERNEL_RELEASE, and Rust metadata for it" ;;
	esac
	product "$CACHE/$KERNEL" "kernel$KERNEL_SUFFIX" "$what" kernel_make
}

# need_kernels: those of both levels; as kernel_path of level 1's.
need_kernels() {
	need_kernel "$LEVEL2_KERNEL"
	need_kernel "$LEVEL1_KERNEL"
}

kernel_make() {
	in_tree "$ROOTFS" "/stopwatch/lab/inside/kernel$KERNEL_SUFFIX" "/cache/${1##*/}" "$KERNEL_RELEASE"
}
