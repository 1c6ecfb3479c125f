# The lab host's init, run by busybox as process 1. The lines before this one set AGENT, MODULES, RELEASE and SCRATCH.
# It makes one file tree of the machine's own (read-only over 9p, with a RAM disk for what is written), and hands
# over to the agent in it.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "lab: cannot load $module"
done
mkdir -p /lower /upper /tree
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose machine /lower
mount -t tmpfs -o size=75% tmpfs /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /tree
for dir in proc sys dev run tmp lib/modules/$RELEASE; do mkdir -p "/tree/$dir"; done
mount --move /proc /tree/proc
mount --move /sys /tree/sys
mount --move /dev /tree/dev
mount -t tmpfs tmpfs /tree/run
mkdir -p /tree/dev/pts /tree/dev/shm "/tree/$SCRATCH"
mount -t devpts devpts /tree/dev/pts
mount -t tmpfs tmpfs /tree/dev/shm
mount --bind "/tree/$MODULES" "/tree/lib/modules/$RELEASE"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none scratch "/tree/$SCRATCH"
hostname lab
# The agent forgets file names before each command; this keeps that out of the kernel's log.
echo 4 > /tree/proc/sys/vm/drop_caches
/bin/busybox ip link set lo up
echo "lab: starting the agent"
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
/bin/busybox chroot /tree "$AGENT" agent
echo "lab: the agent ended with status $?"
/bin/busybox poweroff -f
