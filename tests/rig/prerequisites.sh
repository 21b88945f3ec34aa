#!/bin/sh
# Installs the Debian packages that the test bench needs and that are missing, and says which.
# Does nothing where all is there.
set -eu

missing=
why=
need() { # need PACKAGE WHAT-FOR TEST...
	package=$1 purpose=$2
	shift 2
	if ! "$@" >/dev/null 2>&1; then
		missing="$missing $package"
		why="$why  $package: $purpose
"
	fi
}
has() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }

need ca-certificates "fetching Go modules and crates" test -e /etc/ssl/certs/ca-certificates.crt
need gcc "building runc, crates and test images" has gcc
need g++ "libFuzzer, for the fuzz targets" has g++
need libc6-dev "building runc, crates and test images" test -e /usr/include/stdlib.h
need libseccomp-dev "system call filters, in runc and in Trefoil" test -e /usr/include/seccomp.h
need pkg-config "finding libseccomp" has pkg-config
need iproute2 "the bench's network" has ip
need iptables "the CNI plugins' port maps" has iptables
need util-linux "nsenter; ipcmk, which critest runs" has ipcmk
need procps "ps, in containers made of this machine's files" has ps
need make "the two commands" has make
need sqlite3 "databases in volumes" has sqlite3
need kmod "the test VM's kernel modules" has modprobe
need xz-utils "unpacking them, and the guest kernel's source" has xz
need e2fsprogs "the test VM's block images" has mke2fs
need systemd "cgroups made by systemd, in the test VM" test -x /lib/systemd/systemd
need dbus "the same" has dbus-daemon
need flex "building the guest kernel" has flex
need bison "the same" has bison
need patch "the same" has patch
need bc "the same" has bc
need libelf-dev "the same" test -e /usr/include/gelf.h
need ninja-build "building the test VM's QEMU" has ninja
need python3-venv "the same" python3 -c 'import ensurepip'
need libglib2.0-dev "the same" pkg-config --exists glib-2.0
need zlib1g-dev "the same" test -e /usr/include/zlib.h

# Go fetches the toolchain a module asks for by itself, from 1.21 on.
go=$(PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin command -v go || true)
if [ -z "$go" ]; then
	missing="$missing golang-go"
	why="$why  golang-go: building containerd, runc, crictl, critest and the CNI plugins
"
fi
if ! { has cargo || [ -x "$HOME/.cargo/bin/cargo" ]; } >/dev/null 2>&1; then
	missing="$missing rustup"
	why="$why  rustup: building Trefoil (Debian 13 and later have it)
"
fi

if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "missing, and only root can install it:$missing" >&2
		exit 1
	fi
	printf 'installing what is missing:\n%s' "$why"
	export DEBIAN_FRONTEND=noninteractive
	apt-get -q update
	# shellcheck disable=SC2086 # a list of words
	if ! apt-get -q install --yes --no-install-recommends $missing; then
		echo "could not install:$missing" >&2
		echo "Cargo: any rustup will do. Go: 1.21 or later, which fetches the version it needs." >&2
		exit 1
	fi
fi

go=$(PATH=$PATH:/usr/local/go/bin:/usr/lib/go/bin command -v go || true)
case $("$go" version) in
*" go1."[0-9]" "* | *" go1.1"[0-9]* | *" go1.20"*)
	echo "$("$go" version) is too old to fetch the Go it needs: install Go 1.21 or later" >&2
	exit 1
	;;
esac
