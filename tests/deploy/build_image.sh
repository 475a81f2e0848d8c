#!/usr/bin/env bash
# Builds deploy/Dockerfile where there is no registry and no Docker: buildah, on a Debian that
# debootstrap makes in place of the pinned one. Leaves the image's root in build/image/root, and says
# how large it is. Needs root, and: apt install buildah debootstrap
set -euo pipefail
cd "$(dirname "$0")/../.."

for program in buildah debootstrap; do
  command -v "$program" >/dev/null || { echo "$program is missing: apt install $program" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "run it as root: it makes a Debian of its own" >&2; exit 2; }

out=$PWD/build/image
rm -rf "$out" && mkdir -p "$out"
work=$(mktemp -d)
export BUILDAH_ISOLATION=chroot
in_store() { command buildah --storage-driver vfs --root "$work/store" --runroot "$work/run" "$@"; }
trap 'in_store umount --all >/dev/null 2>&1 || true; rm -rf "$work"' EXIT

suite=$(sed -n 's/^ARG BASE=.*debian:\([a-z]*\)-slim@.*/\1/p' deploy/Dockerfile)
echo "making a Debian $suite" >&2
debootstrap --variant=minbase "$suite" "$work/debian" >"$out/debootstrap.log"
# What the slim image leaves out, too.
rm -rf "$work"/debian/var/{cache/apt,lib/apt/lists,log}/* "$work"/debian/usr/share/{man,locale,info}/*
find "$work/debian/usr/share/doc" -type f ! -name copyright -delete
tar -C "$work/debian" -cf "$work/debian.tar" . && rm -rf "$work/debian"
printf 'FROM scratch\nADD debian.tar /\n' >"$work/Containerfile"
in_store bud --quiet -f "$work/Containerfile" -t localhost/debian "$work" >/dev/null

echo "building deploy/Dockerfile" >&2
options=()
if [ -n "${PIP_CERT:-}" ]; then # a registry behind an authority of its own
  printf '[global]\ncert = /run/authority.crt\n' >"$work/pip.conf"
  options=(--volume "$PIP_CERT:/run/authority.crt:ro" --volume "$work/pip.conf:/etc/pip.conf:ro")
fi
in_store bud "${options[@]}" --build-arg BASE=localhost/debian -f deploy/Dockerfile \
  -t localhost/minerwatch . >"$out/build.log" 2>&1 || { tail -n 20 "$out/build.log" >&2; exit 1; }

cp -a "$(in_store mount "$(in_store from localhost/minerwatch)")" "$out/root"
in_store inspect --type image localhost/minerwatch >"$out/config.json"
in_store push --quiet localhost/minerwatch "oci-archive:$work/minerwatch.tar" >/dev/null
echo "$(du -sm "$out/root" | cut -f1) MB unpacked, $(du -m "$work/minerwatch.tar" | cut -f1) MB to pull"
