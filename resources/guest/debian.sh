#!/bin/sh
# Boots Debian from a disk image to its login prompt, with a network to this host, and NVMe disks passed through beside it.
# Runs as root on a host with KVM and VFIO: `make guest` runs it in a lab host.
#
#   debian.sh DISK [BDF...]        DISK: a raw image or a block device; BDF: an NVMe device that can be spared
set -eu
here=$(dirname "$(realpath "$0")")
release=$here/../../target/release
disk=$1
shift

# A tap, which the VMM opens by its name. The guest has the address 192.168.77.2.
tap=guest-debian
modprobe tun
modprobe vhost_net
ip link show $tap >/dev/null 2>&1 || ip tuntap add $tap mode tap vnet_hdr
ip address replace 192.168.77.1/24 dev $tap
ip link set $tap up

vfio=
for device; do
	"$release/lab" bind "$device"
	vfio="$vfio --vfio $device"
done

cat <<END
Debian's login is root, without a password. The host is 192.168.77.1 for the guest, which is 192.168.77.2.
\`poweroff\` ends the guest, and Ctrl-A x the VMM.
END
# shellcheck disable=SC2086 # Each word of \$vfio is an argument of its own.
exec "$release/vmm" --boot disk --disk "path=$disk,queues=2,id=debian" --cpus 2 --memory 1G \
	--net "tap=$tap,vhost=on" --rng $vfio --report -
