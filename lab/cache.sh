# shellcheck shell=bash
# The cache: what is slow to make, outside the clone, named by what it is made
# from, so that every clone on the machine shares it.

prepare_cache() {
	CACHE=${STOPWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stopwatch}
	mkdir -p "$CACHE/log" || die "cannot make the cache directory $CACHE: set STOPWATCH_CACHE to one that can be written"
	CACHE=$(cd "$CACHE" && pwd -P)
	BUILD=$CLONE/build
	mkdir -p "$BUILD"
}

# key: twelve hex digits that stand for standard input.
key() { sha256sum | cut -c1-12; }

# product DIR NAME WHAT COMMAND...: make the cached directory DIR by COMMAND,
# which finds the directory to fill as its last argument, unless DIR is there.
# It appears whole or not at all, and is made once however many ask for it.
product() {
	local dir=$1 name=$2 what=$3
	shift 3
	[[ -d $dir ]] && return
	(
		flock 9
		[[ -d $dir ]] && exit
		as_root rm -rf "$dir.new"
		mkdir "$dir.new"
		step "$name" "$what" "$@" "$dir.new"
		mv -T "$dir.new" "$dir"
	) 9>"$CACHE/lock.$name"
}

# in_use NAME: whether NAME in the cache is what this clone uses now.
in_use() {
	case $1 in
	"${ROOTFS##*/}" | "${QEMU-}" | "${QEMU_WORK-}") ;;
	kernel-*) [[ " ${KERNELS[*]} " == *" $1 "* ]] ;;
	rootfs-* | qemu-*) return 1 ;;
	esac
}

cache_paths() {
	rootfs_path
	KERNELS=()
	[[ -d $ROOTFS ]] || return 0
	mapfile -t KERNELS < <(kernel_names)
	qemu_path
}

cache_status() {
	local path
	cache_paths
	echo "$CACHE"
	for path in "$CACHE"/*; do
		[[ $path == */lock.* ]] || printf '%8s  %s%s\n' "$(du -sh "$path" 2>/dev/null | cut -f1)" \
			"${path##*/}" "$(in_use "${path##*/}" || echo '  (not used by this clone)')"
	done
}

cache_clean() {
	local path
	cache_paths
	for path in "$CACHE"/{rootfs,kernel,qemu,try}-* "$CACHE"/{cargo,accel,fuzz,log,lock}*; do
		if [[ ${1:-} == --all ]] || ! in_use "${path##*/}"; then as_root rm -rf "$path"; fi
	done
}
