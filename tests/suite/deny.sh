#!/bin/sh
# Licences, duplicates and sources of the crates, and, without `--offline`, what is known against them.
#
#   deny.sh [--offline]
#
# cargo-deny is built where it is missing: some minutes, once, of which cargo tells.
set -eu
cd "$(dirname "$0")/../.."

version=0.20.2
cargo=${CARGO:-cargo}
kept=${XDG_CACHE_HOME:-$HOME/.cache}/trefoil/cargo-deny-$version
if ! [ -x "$kept/bin/cargo-deny" ]; then
	# It runs for seconds, and is not worth optimising.
	echo "building cargo-deny $version: some minutes, once"
	"$cargo" install --debug --locked --root "$kept" "cargo-deny@$version"
fi

# It looks at the crates for other systems as well, which a build leaves out.
"$cargo" fetch --quiet --locked

case ${1-} in
--offline)
	"$kept/bin/cargo-deny" --offline check bans licenses sources
	;;
"")
	"$kept/bin/cargo-deny" check
	;;
*)
	echo "usage: deny.sh [--offline]" >&2
	exit 2
	;;
esac
