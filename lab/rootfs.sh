# shellcheck shell=bash
# The root filesystem: Debian with what lab/packages lists, in the cache.

ROOTFS_SUITE=trixie

rootfs_path() {
	ROOTFS=$CACHE/rootfs-$(cat "$LAB/packages" "$LAB/inside/rootfs" | key)
}

need_rootfs() {
	rootfs_path
	[[ -d $ROOTFS ]] && return
	[[ $(uname -m) == x86_64 ]] || die "the lab runs on x86_64 machines, not on $(uname -m)"
	need_prerequisites
	as_root true 2>/dev/null || rootfs_no_namespace
	product "$ROOTFS" rootfs "Debian $ROOTFS_SUITE with what lab/packages lists" rootfs_make
}

rootfs_no_namespace() {
	[[ $EUID == 0 ]] &&
		die "root may not make a mount namespace here; in a container, run it with --privileged"
	grep -qs "^$(id -un):" /etc/subuid ||
		die "$(id -un) has no subordinate ids; give some: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
	die "this kernel does not let $(id -un) make user namespaces; allow it (sysctl kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0) or run as root"
}

rootfs_make() {
	local root=$1
	as_root mmdebstrap --mode=root --variant=apt \
		--dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"$ROOTFS_SUITE" "$root"
	as_root mkdir "$root/stopwatch" "$root/cache"
	in_tree "$root" /stopwatch/lab/inside/rootfs
}
