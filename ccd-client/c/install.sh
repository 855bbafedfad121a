#!/bin/sh
# Installs the C library: libccd.so with its link, ccd.h, ccd.pc and the manual pages of section 3.
#
#   cargo build --release -p ccd-c && ccd-client/c/install.sh
#
# As usual for packagers: DESTDIR, PREFIX (/usr/local), LIBDIR (PREFIX/lib), INCLUDEDIR (PREFIX/include), MANDIR
# (PREFIX/share/man). The first argument names the folder that libccd.so was built in, if it is not target/release.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
built=${1:-${CARGO_TARGET_DIR:-$root/target}/release}
prefix=${PREFIX:-/usr/local}
libdir=${LIBDIR:-$prefix/lib}
includedir=${INCLUDEDIR:-$prefix/include}
mandir=${MANDIR:-$prefix/share/man}
destination=${DESTDIR:-}

[ -f "$built/libccd.so" ] || { echo "install.sh: $built/libccd.so is not there; try: cargo build --release -p ccd-c" >&2; exit 66; }
interface=$(sed -n 's/^#define CCD_INTERFACE //p' "$here/ccd.h")
version=$(sed -n 's/^#define CCD_VERSION "\(.*\)"$/\1/p' "$here/ccd.h")

install -d "$destination$libdir/pkgconfig" "$destination$includedir" "$destination$mandir/man3"
install -m 755 "$built/libccd.so" "$destination$libdir/libccd.so.$interface"
ln -sf "libccd.so.$interface" "$destination$libdir/libccd.so"
install -m 644 "$here/ccd.h" "$destination$includedir/ccd.h"
sed -e "s|@PREFIX@|$prefix|" -e "s|@LIBDIR@|$libdir|" -e "s|@INCLUDEDIR@|$includedir|" -e "s|@VERSION@|$version|" \
    "$here/ccd.pc.in" >"$destination$libdir/pkgconfig/ccd.pc"
chmod 644 "$destination$libdir/pkgconfig/ccd.pc"
for page in "$here"/man/*.3; do
    install -m 644 "$page" "$destination$mandir/man3/"
    # A page that describes several calls is found under the name of each.
    for call in $(sed -n '/^\.SH NAME$/{n;s/ \\- .*//;s/, / /g;p;}' "$page"); do
        [ "$call.3" = "${page##*/}" ] || ln -sf "${page##*/}" "$destination$mandir/man3/$call.3"
    done
done
