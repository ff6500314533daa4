#!/bin/bash
# Measures blkbak beside other backup programs, on an image file in memory.
#
#	bench/peers.sh [DIR]
#
# DIR (a new directory below /dev/shm) takes the workload, the repositories and
# the results; six times MIB must be free there. In each of ROUNDS rounds, every
# program in PEERS that is installed does each step once, all of them the same
# step after each other, in an order that changes with the round:
#
#	full     the image into an empty repository
#	day      again, after one block in a hundred has changed
#	same     again, after nothing has changed
#	touched  again, nothing has changed but the file's time
#	restore  the newest backup to a file
#
# blkbak takes day and same from an exception store (--cow) and reads the whole
# image at touched. The others are given the image as a file in a directory, which
# is what they are fastest with: at same they see by its time that it is as it
# was. They run as they come, kopia once more with the compression that is nearest
# to that of the others. Read the CPU seconds first: wall times depend on what else
# the machine is doing.
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "$0")/.." && pwd)
dir=${1:-$(mktemp -d /dev/shm/peers.XXXXXX)}
mib=${MIB:-4096} rounds=${ROUNDS:-3}
steps=${STEPS:-full day same touched restore}
mkdir -p "$dir/data" "$dir/home"
results=$dir/results.tsv

[ -x "$(type -P time)" ] || { echo "peers: GNU time is missing" >&2; exit 1; }
gnu_time=$(type -P time)
blkbak=${BLKBAK:-$here/build/blkbak}
[ -x "$blkbak" ] || { echo "peers: $blkbak is missing: make build" >&2; exit 1; }

tools=(blkbak)
for t in ${PEERS:-restic kopia kopia-zstd borg}; do
	if command -v "${t%-zstd}" >/dev/null; then tools+=("$t"); else echo "peers: $t is not installed, left out" >&2; fi
done

# Each program: make a repository in $r, back up data, restore to $dir/restored.
blkbak_init() { "$blkbak" -r "$r" init; }
blkbak_full() { measure "$blkbak" -r "$r" --state-dir "$r.state" snapshot --volume v data/image; }
blkbak_day() { measure "$blkbak" -r "$r" --state-dir "$r.state" snapshot --volume v --cow day.cow data/image; }
blkbak_same() { measure "$blkbak" -r "$r" --state-dir "$r.state" snapshot --volume v --cow same.cow data/image; }
blkbak_touched() { blkbak_full; }
blkbak_restore() { measure "$blkbak" -r "$r" --state-dir "$r.state" restore v@latest --to restored/data/image; }

export RESTIC_PASSWORD=x
restic_init() { restic -r "$r" init; }
restic_backup() { measure restic -r "$r" backup data; }
restic_restore() { measure restic -r "$r" restore latest --target restored; }

export KOPIA_PASSWORD=x KOPIA_CHECK_FOR_UPDATES=false
kopia_() { command kopia --config-file "$r.config" --log-dir "$dir/home/log" "$@"; }
kopia_init() { kopia_ repository create filesystem --path "$r" --cache-directory "$r.cache"; }
kopia_backup() { measure kopia --config-file "$r.config" --log-dir "$dir/home/log" snapshot create data; }
kopia_restore() {
	local id
	id=$(kopia_ snapshot list --json data | grep -o '"id":"[0-9a-f]*"' | tail -n 1 | cut -d '"' -f 4)
	measure kopia --config-file "$r.config" --log-dir "$dir/home/log" snapshot restore "$id" restored/data
}
kopia-zstd_init() { kopia_init && kopia_ policy set --global --compression zstd-fastest; }
kopia-zstd_backup() { kopia_backup; }
kopia-zstd_restore() { kopia_restore; }

export BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes
borg_init() { borg init -e none "$r"; }
borg_backup() { measure borg create "$r::{now:%s%f}" data; }
borg_restore() { (cd restored && measure borg extract "$r::$(borg list --last 1 --short "$r")"); }

measure() { "$gnu_time" -o "$dir/time" -f '%e %U %S %M' "$@" >>"$dir/log" 2>&1; }

# step TOOL STEP ROUND measures one, and appends a line to the results.
step() {
	local tool=$1 step=$2 r=$dir/$1.repo run before
	before=$(stored "$r")
	run=${tool}_$step
	declare -F "$run" >/dev/null || run=${tool}_backup
	"$run" || { echo "peers: $tool $step failed, see $dir/log" >&2; exit 1; }
	if [ "$step" = restore ] && ! cmp -s data/image restored/data/image; then
		echo "peers: $tool did not restore the image" >&2
		exit 1
	fi
	read -r wall user sys rss <"$dir/time"
	printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$step" "$tool" "$3" "$wall" \
		"$(awk "BEGIN { print $user + $sys }")" "$rss" $(($(stored "$r") - before)) "$(cut -d ' ' -f 1 /proc/loadavg)" |
		tee -a "$results"
}

# offer makes an image the one to be backed up, as if it had just been written to.
offer() {
	ln -f "$1" data/image
	touch data/image
}

stored() { du -sb --apparent-size "$1" | cut -f 1; }

# median of column $1 for step $2 and tool $3
median() {
	awk -F '\t' -v c="$1" -v s="$2" -v t="$3" '$1 == s && $2 == t { print $c }' "$results" | sort -g |
		awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

if [ ! -e "$dir/day.cow" ]; then
	(cd "$here" && BLKBAK_WORKLOAD=$dir BLKBAK_WORKLOAD_MIB=$mib TMPDIR=$dir go test ./bench -run '^TestWorkload$' -v -count 1 -timeout 0)
	mv "$dir/image" "$dir/image.0"
fi
cd "$dir"
export HOME=$dir/home XDG_CACHE_HOME=$dir/home/cache TMPDIR=$dir # for what the programs cache
printf 'step\ttool\tround\twall s\tCPU s\tpeak KiB\tstored B\tload\n' | tee "$results"
for round in $(seq "$rounds"); do
	for t in "${tools[@]}"; do
		r=$dir/$t.repo
		rm -rf "$r" "$r".*
		{ "${t}_init"; } >>"$dir/log" 2>&1
	done
	offer image.0
	for s in $steps; do
		case $s in
		day) offer image.1 ;;
		touched) touch data/image ;;
		esac
		for t in "${tools[@]}"; do
			rm -rf restored && mkdir -p restored/data
			step "$t" "$s" "$round"
		done
		rm -rf restored
	done
	tools=("${tools[@]:1}" "${tools[0]}")
done

echo
echo "Medians of $rounds rounds; wall and CPU seconds, peak MiB, MB stored, and how many times blkbak's wall and CPU."
printf '%-8s %-11s %9s %9s %7s %9s %9s %9s\n' step tool wall CPU peak stored x-wall x-CPU
for s in $steps; do
	for t in $(printf '%s\n' "${tools[@]}" | sort); do
		awk -v s="$s" -v t="$t" -v w="$(median 4 "$s" "$t")" -v c="$(median 5 "$s" "$t")" -v m="$(median 6 "$s" "$t")" \
			-v b="$(median 7 "$s" "$t")" -v bw="$(median 4 "$s" blkbak)" -v bc="$(median 5 "$s" blkbak)" 'BEGIN {
			x = (bw > 0) ? sprintf("%.1f", w / bw) : "-"; y = (bc > 0) ? sprintf("%.1f", c / bc) : "-"
			printf "%-8s %-11s %9.2f %9.2f %7.0f %9.1f %9s %9s\n", s, t, w, c, m / 1024, b / 1e6, x, y }'
	done
done
