# shellcheck shell=bash
# What every part of the lab uses: messages, long steps with their logs, and the
# way into the root filesystem.

say() { printf 'lab: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# elapsed SINCE: the time since then, for people.
elapsed() {
	local s=$((SECONDS - $1))
	if ((s < 60)); then echo "$s s"; else echo "$((s / 60)) min $((s % 60)) s"; fi
}

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

# together FUNCTION...: run them at once, and fail if one of them does.
together() {
	local function pids=() pid rc=0
	for function; do
		"$function" &
		pids+=($!)
	done
	trap 'kill "${pids[@]}" 2>/dev/null; exit 130' INT TERM HUP
	for pid in "${pids[@]}"; do wait "$pid" || rc=$?; done
	trap - INT TERM HUP
	return "$rc"
}
