#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# A guest script that needs no program: stopwatches as files, under debugfs.
# Needs root, as all of debugfs does.
set -e

top=/sys/kernel/debug/stopwatch
if [ ! -d "$top" ]; then
	echo "there is no $top: mount debugfs, and load the driver (insmod stopwatch.ko)" >&2
	exit 1
fi

name=sample-shell
watch=$top/$name
[ -d "$watch" ] || echo $name > $top/create

echo reset > "$watch/control"
echo start > "$watch/control"
for _ in 1 2 3; do
	sleep 0.01
	echo lap > "$watch/control"
done
while read -r number ns; do
	echo "lap $number     $ns ns"
done < "$watch/laps"

# 50 ms from now; a script sees that it expired in the file that armed it.
echo 50000000 > "$watch/timeout"
sleep 0.2
grep -q '^expired 1$' "$watch/timeout"
echo "timeout   expired"

echo pause > "$watch/control"
echo "paused    $(cat "$watch/elapsed") ns"

grep -w $name $top/list
echo $name > $top/delete
