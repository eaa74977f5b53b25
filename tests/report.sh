# shellcheck shell=bash
# How a run of tests is told: headings, a line for each test, counts at the end. For
# scripts in the root of the clone that end by `closing`.

logs=build/logs
mkdir -p "$logs"
passed=0 failed=0 skipped=0 since=$SECONDS

heading() { printf '\n== %s\n' "$*"; }

# suite NAME COMMAND...: a program that runs tests and counts them as Rust's own
# do, perhaps several times.
suite() {
	local name=$1 log=$logs/$1.log rc=0 counts
	shift
	"$@" 2>"$logs/$name.errors" </dev/null | tee "$log" |
		# A panic may come between a test and its result. Nothing may stand between
		# the pipe and its status.
		{ grep --line-buffered -E '^test .*\.\.\. (ok|FAILED|ignored|$)|^FAILED$|^figure: ' || true; }
	rc=${PIPESTATUS[0]}
	counts=$(awk '/^test result: / { ok += $4; bad += $6; out += $8 }
		END { print ok + 0, bad + 0, out + 0 }' "$log")
	read -r ok bad out <<<"$counts"
	# It may have ended before it could count, or never begun.
	if ((rc != 0 && bad == 0)) || ((ok + bad == 0)); then
		((bad += 1))
		echo "$name ended with status $rc and without a count of failures:"
		tail -n 30 "$logs/$name.errors" | sed 's/^/    /'
	fi
	if ((bad)); then
		sed -n '/^failures:/,/^test result/p' "$log" | head -n 150 | sed 's/^/    /'
		echo "    (all of it: $log, $logs/$name.errors)"
	fi
	((passed += ok, failed += bad, skipped += out))
}

# The last line says how many passed, and the status whether all did.
closing() {
	local summary="$passed passed, $failed failed"
	printf '\n%d min %d s\n' $(((SECONDS - since) / 60)) $(((SECONDS - since) % 60))
	if ((skipped)); then summary+=", $skipped skipped"; fi
	echo "$summary"
	((failed == 0))
}
