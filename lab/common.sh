# shellcheck shell=bash
# What every part of the lab uses: messages, the cache, steps with their logs,
# and the way into the root filesystem.

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# elapsed SINCE: the time since then, for people.
elapsed() {
	local s=$((SECONDS - $1))
	if ((s < 60)); then echo "$s s"; else echo "$((s / 60)) min $((s % 60)) s"; fi
}

# key WORD...: twelve hex digits that stand for standard input.
key() { sha256sum | cut -c1-12; }

# as_root COMMAND...: run COMMAND as root, or as what looks like root to it in
# a user namespace where the caller is uid 0 and the caller's subordinate ids
# are the rest. Everything that COMMAND started ends with it.
as_root() {
	local namespaces=(--mount --pid --fork --kill-child) pid rc=0
	[[ $EUID == 0 ]] || namespaces+=(--user --map-root-user --map-auto)
	# unshare blocks SIGTERM and SIGINT while it waits. In the background it
	# leaves them to this shell, which can then end it.
	unshare "${namespaces[@]}" -- "$@" <&0 &
	pid=$!
	trap 'kill -KILL $pid 2>/dev/null; exit 130' INT TERM HUP
	wait "$pid" || rc=$?
	trap - INT TERM HUP
	return "$rc"
}

# in_tree ROOT COMMAND...: run COMMAND inside the root filesystem ROOT.
in_tree() {
	local root=$1
	shift
	as_root "$LAB/enter" "$root" "$CLONE" "$CACHE" "$@"
}

# step NAME WHAT COMMAND...: run a long COMMAND with its output in a log, and
# say what runs, how long it has taken, and where the log is.
step() {
	local name=$1 what=$2 since=$SECONDS pid rc=0 shown=0 log
	shift 2
	log=$CACHE/log/$name.log
	say "$name: $what (log: $log)"
	# A process group of its own, so that it can be ended as a whole.
	set -m
	(set -e; trap - EXIT; "$@") >"$log" 2>&1 </dev/null &
	pid=$!
	set +m
	trap 'kill -TERM -- -$pid 2>/dev/null; exit 130' INT TERM HUP
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if ((SECONDS - since - shown >= 30)); then
			shown=$((SECONDS - since))
			say "$name: still running, $(elapsed "$since")"
		fi
	done
	wait "$pid" || rc=$?
	trap - INT TERM HUP
	if ((rc)); then
		tail -n 25 "$log" | sed 's/^/    /' >&2
		die "$name: failed after $(elapsed "$since"), status $rc; the whole log is $log"
	fi
	say "$name: done in $(elapsed "$since")"
}

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
		mv "$dir.new" "$dir"
	) 9>"$CACHE/lock.$name"
}

prepare_cache() {
	CACHE=${STOPWATCH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stopwatch}
	mkdir -p "$CACHE/log" || die "cannot make the cache directory $CACHE: set STOPWATCH_CACHE to one that can be written"
	CACHE=$(cd "$CACHE" && pwd -P)
	BUILD=$CLONE/build
	mkdir -p "$BUILD"
}
