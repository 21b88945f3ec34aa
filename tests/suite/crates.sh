#!/bin/sh
# What cargo makes of other people's crates, for the next fresh clone: most of what a build takes.
#
#   crates.sh take    puts it where cargo looks, unless cargo has built something there before
#   crates.sh keep    keeps it, unless it is kept already
#
# It is kept by all that it is made from. Cargo asks each crate for its compiler, flags and features all the
# same, and builds again what is not as it should be. The crates of this repository are left out: of those
# cargo asks for the times of their files only, which say nothing in another clone.
set -eu
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/trefoil
mkdir -p "$cache"
key=$({
	${CARGO:-cargo} --version --verbose
	cat .cargo/config.toml
	sed -n '/^\[profile/,$p' Cargo.toml
	# Which of other people's crates there are.
	find . -name target -prune -o -name Cargo.lock -print | xargs grep -h '^checksum' | sort -u
	# Which cargo doesn't look at.
	cat guest/placeless-rustc.sh
} | sha256sum | cut -c 1-16)
kept=$cache/crates-$key.tar

case ${1-} in
take)
	if [ -e "$target" ] || ! [ -e "$kept" ]; then
		exit 0
	fi
	# Whole or not at all: cargo believes what it finds.
	rm -rf "$target.partial"
	mkdir -p "$target.partial"
	tar -xf "$kept" -C "$target.partial"
	mv "$target.partial" "$target"
	# The time of its last use.
	touch "$kept"
	;;
keep)
	# Of somebody who was killed.
	find "$cache" -maxdepth 1 -name 'crates-*.tar.*' -mmin +60 -exec rm -f {} +
	if [ -e "$kept" ]; then
		exit 0
	fi
	trap 'rm -f "$kept.$$"' EXIT
	# Of what is in `deps`, libraries: what else is there are programs and tests of ours.
	(cd "$target" && find . \
		\( -name '*trefoil*' -o -name incremental -o -name tmp -o -name '*.img' \) -prune -o \
		-path '*/deps/*' ! -name '*.rlib' ! -name '*.rmeta' ! -name '*.so' ! -name '*.d' -prune -o \
		\( -path '*/.fingerprint/*' -o -path '*/deps/*' -o -path '*/build/*' -o -name '.*' \) \
		-type f -print0) |
		tar -C "$target" --null -T - -cf "$kept.$$"
	mv "$kept.$$" "$kept"
	find "$cache" -maxdepth 1 -name 'crates-*' -mtime +7 -exec rm -f {} +
	;;
*)
	echo "usage: crates.sh take|keep" >&2
	exit 2
	;;
esac
