#!/bin/sh
# rustc, for cargo's RUSTC_WRAPPER: a program doesn't show where it was built. The names of source files get
# into a program by the places of its panics. What build scripts write is under the target, which may be
# under the source: the last that matches counts.
#
# Not by flags in cargo's configuration, which would have all crates built anew in another place.
set -eu
compiler=$1
shift
exec "$compiler" "$@" \
	"--remap-path-prefix=$TREFOIL_SOURCE=trefoil" \
	"--remap-path-prefix=$TREFOIL_CARGO_HOME=cargo" \
	"--remap-path-prefix=$TREFOIL_TARGET=target"
