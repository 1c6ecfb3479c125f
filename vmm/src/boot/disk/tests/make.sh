#!/bin/sh
# Writes the ext4 images of the tests beside this file, each 1 MiB before compression. Needs e2fsprogs and zstd.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# image NAME: makes NAME.ext4.zst of the files under $work/NAME.
image() {
	rm -f "$work/image"
	E2FSPROGS_FAKE_TIME=1 mke2fs -q -t ext4 -b 1024 -N 64 -m 0 -O ^has_journal -d "$work/$1" \
		-U 12345678-9abc-4def-8123-456789abcdef -E hash_seed=12345678-9abc-4def-8123-456789abcdef,root_owner=0:0 \
		"$work/image" 1024
	zstd -q -19 -f -o "$here/$1.ext4.zst" "$work/image"
}

# Debian as it installs itself: links, and GRUB's configuration.
mkdir -p "$work/grub/boot/grub"
printf 'kernel of debian' >"$work/grub/boot/vmlinuz-6.12.1-amd64"
# More than one block.
yes 'initrd of debian' | head -c 5001 >"$work/grub/boot/initrd.img-6.12.1-amd64"
ln -s boot/vmlinuz-6.12.1-amd64 "$work/grub/vmlinuz"
ln -s boot/initrd.img-6.12.1-amd64 "$work/grub/initrd.img"
cat >"$work/grub/boot/grub/grub.cfg" <<'EOF'
set default="0"
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple' {
	linux	/boot/vmlinuz-6.12.1-amd64 root=/dev/vda1 ro quiet
	initrd	/boot/initrd.img-6.12.1-amd64
}
EOF
image grub

# The links alone.
cp -a "$work/grub" "$work/links"
rm -r "$work/links/boot/grub"
image links

# Boot Loader Specification entries on the root file system, and links in a loop.
mkdir -p "$work/bls/boot/loader/entries"
printf 'old kernel' >"$work/bls/boot/linux-6.1"
printf 'new kernel' >"$work/bls/boot/linux-6.12"
printf 'one' >"$work/bls/boot/one.img"
printf 'two' >"$work/bls/boot/two.img"
for version in 6.1 6.12; do
	printf 'title Test\nversion %s\nsort-key test\nlinux /boot/linux-%s\ninitrd /boot/one.img\ninitrd /boot/two.img\noptions root=/dev/vda2 $more\noptions rw\n' \
		"$version" "$version" >"$work/bls/boot/loader/entries/test-$version.conf"
done
ln -s vmlinuz "$work/bls/vmlinuz"
image bls

# No boot entry, and a link that leads to itself.
mkdir -p "$work/loop"
ln -s vmlinuz "$work/loop/vmlinuz"
image loop
