#!/bin/sh
# The guest's init: runs the jobs that the kernel command line names, says what came of each, and ends the machine.
#
# What a program should read is in lines `guest> TOPIC key=value ...`; only the last value, `why`, has spaces in it.
# Between `guest> begin NAME` and `guest> end NAME` lies some command's own output. A job that could not do its work
# says `guest> failed job=.. why=..`, and the next one runs. The last line is `guest> bye`.
#
# Unknown words of the command line are init's environment:
#   jobs=A,B:N,..  the functions job_A, job_B .. below, in this order; N is the job's number, if it takes one
#   end=           poweroff (unless said otherwise), reboot, or crash
#   vectors=64     how far doorbells grow
#   blocks=2000    how many of a disk the job `reads` reads
export PATH=/bin
: "${jobs:=}" "${end:=poweroff}" "${vectors:=64}" "${blocks:=2000}"
pci=/sys/bus/pci

say() { echo "guest> $*"; }
fail() { say "failed job=$job why=$*"; }

# The first line: how long after it started the machine came here.
mount -t proc none /proc
read -r uptime _ </proc/uptime
say "init uptime=$uptime kernel=$(uname -r) cpus=$(nproc)"
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
# Kernel messages would cut into our lines; errors may.
dmesg -n 4

# devices DRIVER: the addresses of the devices bound to it.
devices() { ls "$pci/drivers/$1" 2>/dev/null | grep '^....:..:..\..$'; }

# until_true SECONDS COMMAND..: whether it came true in time.
until_true() {
    tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        usleep 50000
    done
}

# order DEVICE WORDS..: a command to one of our drivers.
order() {
    at=$1
    shift
    echo "$*" >"$pci/devices/$at/command" || fail "$at: $* was refused"
}
result() { sed -n "s/^$2=//p" "$pci/devices/$1/results"; }
say_results() { say "doorbell at=$1 $(tr '\n' ' ' <"$pci/devices/$1/results")"; }

need_doorbells() {
    bells=$(devices doorbell)
    [ -n "$bells" ] || { fail 'no doorbell device'; return 1; }
}

# grow:VECTORS, one by one as far as the device has them, ringing each
job_grow() {
    need_doorbells || return
    for bell in $bells; do
        count=${number:-$vectors} most=$(result "$bell" ringable)
        order "$bell" grow $((count < most ? count : most))
        # With all of them there, each is still alone on its message.
        order "$bell" ring all 1
        say_results "$bell"
    done
}

# shrink:VECTORS
job_shrink() {
    need_doorbells || return
    for bell in $bells; do
        order "$bell" shrink "${number:-1}"
        say_results "$bell"
    done
}

# pound:RINGS of vector 0 without pause, while the others come and go
job_pound() {
    need_doorbells || return
    for bell in $bells; do
        order "$bell" pound
        times=0
        while [ "$(result "$bell" first_rung)" -lt "${number:-10000}" ]; do
            order "$bell" grow "$vectors"
            order "$bell" shrink 1
            times=$((times + 1))
            [ $((times % 10)) -ne 0 ] || say "pounding at=$bell times=$times rung=$(result "$bell" first_rung)"
        done
        order "$bell" rest
        say_results "$bell"
        say "pounded at=$bell times=$times"
    done
}

# move:TIMES, each vector moved to another CPU so often, while all are rung
job_move() {
    need_doorbells || return
    for bell in $bells; do
        until [ -e /tmp/moved ]; do order "$bell" ring all 1; done &
        irqs=$(ls "$pci/devices/$bell/msi_irqs")
        times=0 moves=0
        while [ $times -lt "${number:-2}" ]; do
            times=$((times + 1))
            cpu=$((times % $(nproc)))
            for irq in $irqs; do
                # An entry without a handler is not anywhere.
                handler=
                read -r handler <"/sys/kernel/irq/$irq/actions"
                [ -n "$handler" ] || continue
                echo $cpu >"/proc/irq/$irq/smp_affinity_list" || fail "irq $irq does not go to CPU $cpu"
                moves=$((moves + 1))
            done
        done
        : >/tmp/moved
        wait
        rm /tmp/moved
        say_results "$bell"
        say "moved at=$bell moves=$moves"
    done
}

# suspend:TIMES, every device of the machine, and all vectors rung when they have resumed
job_suspend() {
    need_doorbells || return
    # As far as the devices' own power states, and back after a second.
    echo platform >/sys/power/pm_test || { fail 'this kernel cannot suspend devices alone'; return; }
    echo 1 >/sys/module/suspend/parameters/pm_test_delay
    times=0
    while [ $times -lt "${number:-1}" ]; do
        echo freeze >/sys/power/state || fail 'the devices were not suspended'
        for bell in $bells; do order "$bell" ring all 1; done
        times=$((times + 1))
    done
    for bell in $bells; do say_results "$bell"; done
    say "suspended times=$times"
}

# regrow:TIMES, doorbells that can be reset grow and shrink so often, and are reset without pause meanwhile
job_regrow() {
    need_doorbells || return
    for bell in $bells; do
        [ -s "$pci/devices/$bell/reset_method" ] || continue
        {
            resets=0
            until [ -e /tmp/regrown ]; do
                echo 1 >"$pci/devices/$bell/reset" || fail "$bell was not reset"
                resets=$((resets + 1))
            done
            echo $resets >/tmp/resets
        } &
        times=0 most=$(result "$bell" ringable)
        while [ $times -lt "${number:-4}" ]; do
            order "$bell" grow "$most"
            order "$bell" shrink 1
            times=$((times + 1))
        done
        : >/tmp/regrown
        wait
        order "$bell" grow "$most"
        order "$bell" ring all 1
        say_results "$bell"
        say "regrown at=$bell times=$times resets=$(cat /tmp/resets)"
        rm /tmp/regrown /tmp/resets
    done
}

# command WORDS..: one command to each doorbell, and which vectors are pending afterwards
command() {
    need_doorbells || return
    for bell in $bells; do
        order "$bell" "$@"
        say "doorbell at=$bell pending=$(cat "$pci/devices/$bell/pending") $(tr '\n' ' ' <"$pci/devices/$bell/results")"
    done
}
# mask:VECTOR, unmask:VECTOR, rewrite:VECTOR, raise:VECTOR, reserve and request the next vector
job_mask() { command mask "$number"; }
job_unmask() { command unmask "$number"; }
job_rewrite() { command rewrite "$number"; }
job_raise() { command raise "$number"; }
job_reserve() { command reserve; }
job_request() { command request; }

# storm:ROUNDS of masking and unmasking vector 0 while it is rung without pause
job_storm() { command storm "$number"; }

# Takes the doorbell driver out of the kernel and puts it back: MSI-X was off, and each doorbell has one vector.
reload_doorbells() {
    rmmod doorbell || fail 'the driver does not go'
    insmod /modules/doorbell.ko || fail 'the driver does not come back'
    need_doorbells
}

# growth WHILE: from one vector to as many as the job's number says, or as can be rung. Afterwards there is one again: a
# guest that waits should not take up vectors of its host.
growth() {
    need_doorbells && reload_doorbells || return
    for bell in $bells; do
        count=$(result "$bell" ringable)
        [ -z "$number" ] || [ "$number" -gt "$count" ] || count=$number
        [ "$1" = quiet ] || order "$bell" pound
        order "$bell" grow "$count"
        [ "$1" = quiet ] || order "$bell" rest
        say "growth at=$bell while=$1 $(tr '\n' ' ' <"$pci/devices/$bell/results")"
    done
    reload_doorbells
}

# growth:VECTORS, and the same while vector 0 is rung without pause
job_growth() { growth quiet; }
job_busygrowth() { growth pounded; }

# busymove:TIMES that vector 0 goes to another CPU while it is rung without pause
job_busymove() {
    need_doorbells && reload_doorbells || return
    for bell in $bells; do
        order "$bell" pound
        order "$bell" move "${number:-50}"
        order "$bell" rest
        say "busymove at=$bell $(tr '\n' ' ' <"$pci/devices/$bell/results")"
    done
}

# reload:TIMES takes the doorbell driver out of the kernel and puts it back; as many vectors grow each time.
job_reload() {
    times=0
    while [ $times -lt "${number:-3}" ]; do
        reload_doorbells
        job_grow
        times=$((times + 1))
    done
    say "reloaded times=$times"
}

need_ims() {
    stores=$(devices "$1")
    [ -n "$stores" ] || { fail "no $1 device"; return 1; }
}
# The kernel's own word on interrupts that nobody was there for.
say_ims() {
    say "$1 at=$2 $(tr '\n' ' ' <"$pci/devices/$2/results")" \
        "unhandled=$(dmesg | grep -c 'No irq handler')"
}

# ims:BATCH, every queue of the IMS device through all that can happen to its slot, so many at a time: as many as fit,
# unless said otherwise. Its MSI-X vectors before and after.
job_ims() {
    need_ims ims-queues || return
    for store in $stores; do
        order "$store" special 100
        order "$store" exercise "${number:-$((128 * $(nproc)))}"
        order "$store" special 100
        say_ims ims "$store"
    done
}

# imsfill: as many slots at once as the CPUs have vectors for
job_imsfill() {
    need_ims ims-queues || return
    for store in $stores; do
        order "$store" fill
        say_ims imsfill "$store"
    done
}

# imsreset:SLOTS live while the device is reset, and restored
job_imsreset() {
    need_ims ims-queues || return
    for store in $stores; do
        order "$store" reset "${number:-100}"
        say_ims imsreset "$store"
    done
}

# imspound:RINGS of queue 0 without pause, while the others come and go
job_imspound() {
    need_ims ims-queues || return
    for store in $stores; do
        times=0
        order "$store" pound
        until [ "$(result "$store" first_rung)" -ge "${number:-1000}" ] && [ $times -gt 0 ]; do
            order "$store" exercise $((64 * $(nproc)))
            times=$((times + 1))
        done
        order "$store" rest
        say_ims imspound "$store"
        say "imspounded at=$store times=$times"
    done
}

# imstimer:TIMES that every timer is armed
job_imstimer() {
    need_ims ims-timer || return
    for store in $stores; do
        order "$store" run "${number:-10}"
        say_ims imstimer "$store"
    done
}

# bars: BAR 0 of each NVMe controller while its decoding changes. Its first register is Capabilities. Their driver is gone afterwards.
job_bars() {
    for device in "$pci"/devices/*; do
        [ "$(cat "$device/class")" = 0x010802 ] || continue
        [ ! -e "$device/driver" ] || echo "${device##*/}" >"$device/driver/unbind"
        seen=$(bar-accesses "$device" 0 0 2>&1) || { fail "${device##*/}: $seen"; continue; }
        say "bars at=${device##*/} $seen"
    done
}

# lives:SECONDS. An NVMe controller goes through all that a guest can do to a device, in random order: its driver comes and goes, it is
# reset with it and without, its BAR moves and stops decoding, it sleeps in D3hot. Meanwhile doorbells are rung without pause and a
# SATA disk is read.
job_lives() {
    need_doorbells || return
    for at in "$pci"/devices/*; do [ "$(cat "$at/class")" != 0x010802 ] || device=${at##*/}; done
    until_true 20 test -b /dev/sda || { fail 'no sda after 20 s'; return; }
    until_true 20 test -b /dev/nvme0n1 || { fail 'no nvme0n1 after 20 s'; return; }
    for bell in $bells; do order "$bell" grow 8; order "$bell" pound; done
    until [ -e /tmp/lived ]; do part_of /dev/sda; done >/tmp/of-sata &
    RANDOM=${seed:-1} drivers=0 resets=0 bars=0 under=0
    : >/tmp/of-nvme
    read -r now _ </proc/uptime
    end=$((${now%.*} + ${number:-20}))
    while [ "${now%.*}" -lt "$end" ]; do
        case $((RANDOM % 4)) in
        0)
            bind_nvme && part_of /dev/nvme0n1 >>/tmp/of-nvme
            drivers=$((drivers + 1)) ;;
        1)
            echo 1 >"$pci/devices/$device/reset" || fail "$device was not reset"
            resets=$((resets + 1)) ;;
        2)
            unbind_nvme
            seen=$(bar-accesses "$pci/devices/$device" 0 0 2>&1) || fail "$device: $seen"
            case $seen in *wrong=0*saw_others=0*) ;; *) fail "$device: $seen" ;; esac
            bars=$((bars + 1)) ;;
        3)
            bind_nvme && part_of /dev/nvme0n1 >>/tmp/of-nvme &
            reader=$!
            until_true 20 test -b /dev/nvme0n1
            echo 1 >"$pci/devices/$device/reset" || fail "$device was not reset under its driver"
            wait $reader
            under=$((under + 1)) ;;
        esac
        read -r now _ </proc/uptime
    done
    bind_nvme
    : >/tmp/lived
    wait
    for bell in $bells; do order "$bell" rest; order "$bell" shrink 1; say_results "$bell"; done
    say "lives at=$device drivers=$drivers resets=$resets bars=$bars resets_under_driver=$under" \
        "sata_reads=$(wc -l </tmp/of-sata) sata=$(digests /tmp/of-sata) nvme_reads=$(wc -l </tmp/of-nvme) nvme=$(digests /tmp/of-nvme)"
    rm /tmp/lived
}
# seed:NUMBER that the next random numbers start from
job_seed() { seed=$number; }
bind_nvme() {
    [ -e "$pci/devices/$device/driver" ] || echo "$device" >"$pci/drivers/nvme/bind" || fail "nvme does not take $device"
    until_true 20 test -b /dev/nvme0n1 || fail 'nvme0n1 did not come back'
}
unbind_nvme() { [ ! -e "$pci/devices/$device/driver" ] || echo "$device" >"$pci/devices/$device/driver/unbind"; }
# part_of DISK: the digest of its first MiB, past the page cache. digests FILE: those in it, each once.
part_of() { dd if="$1" bs=64k count=16 iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1; }
digests() { sort -u "$1" | tr '\n' ',' | sed 's/,$//'; }

# rom: the expansion ROM of each 82576
job_rom() {
    for device in "$pci"/devices/*; do
        [ "$(cat "$device/vendor"):$(cat "$device/device")" = 0x8086:0x10c9 ] || continue
        [ -e "$device/rom" ] || { say "rom at=${device##*/} bytes=0"; continue; }
        # A driver has turned on memory decoding already, and the kernel refuses this then.
        echo 1 2>/dev/null >"$device/enable"
        echo 1 >"$device/rom"
        cat "$device/rom" >/tmp/rom || fail "${device##*/}: its ROM cannot be read"
        say "rom at=${device##*/} bytes=$(wc -c </tmp/rom) sha256=$(sha256sum </tmp/rom | cut -d' ' -f1)"
    done
}

# nvme:MIB, read on every CPU at once and past the page cache, so that every queue works; one digest of all of it.
job_nvme() {
    disk=/dev/nvme0n1
    until_true 20 test -b $disk || { fail 'no nvme0n1 after 20 s'; return; }
    cpus=$(nproc)
    share=$(((${number:-32} * 16 + cpus - 1) / cpus)) # in blocks of 64 KiB
    read -r start _ </proc/uptime
    parts=
    for cpu in $(seq 0 $((cpus - 1))); do
        parts="$parts /tmp/part$cpu"
        taskset "$(printf %x $((1 << cpu)))" \
            dd if=$disk of="/tmp/part$cpu" bs=64k skip=$((cpu * share)) count=$share iflag=direct 2>/dev/null &
    done
    wait
    read -r stop _ </proc/uptime
    digest=$(cat $parts | sha256sum | cut -d' ' -f1)
    bytes=$(cat $parts | wc -c)
    rm -f $parts
    # The driver finds a completion whose interrupt was lost when its time is up, and says so.
    polled=$(dmesg | grep -c 'nvme.*\(completion polled\|timeout\)')
    say "nvme bytes=$bytes sha256=$digest readers=$cpus polled=$polled from=$start to=$stop"
}

# sata:MIB, read on each CPU in turn, with the controller's interrupt sent there first. One digest of all of it.
job_sata() {
    disk=/dev/sda
    until_true 20 test -b $disk || { fail 'no sda after 20 s'; return; }
    controller=$(devices ahci)
    irq=$(ls "$pci/devices/$controller/msi_irqs")
    cpus=$(nproc)
    share=$(((${number:-8} * 16 + cpus - 1) / cpus)) # in blocks of 64 KiB
    rm -f /tmp/whole
    for cpu in $(seq 0 $((cpus - 1))); do
        echo "$cpu" >"/proc/irq/$irq/smp_affinity_list" || fail "irq $irq does not go to CPU $cpu"
        before=$(count_on "$irq" "$cpu")
        dd if=$disk bs=64k skip=$((cpu * share)) count=$share iflag=direct 2>/dev/null >>/tmp/whole
        say "sata_part at=$controller irq=$irq cpu=$cpu count=$(($(count_on "$irq" "$cpu") - before))"
    done
    digest=$(sha256sum </tmp/whole | cut -d' ' -f1)
    timeouts=$(dmesg | grep -c 'ata.*\(timeout\|exception\|lost interrupt\)')
    say "sata bytes=$(wc -c </tmp/whole) sha256=$digest timeouts=$timeouts vectors=$(ls "$pci/devices/$controller/msi_irqs" | wc -l)"
    rm -f /tmp/whole
}

# blk:MIB of noise written to each virtio disk from every CPU at once, flushed, and read past the page cache. A read-only
# disk is read.
job_blk() {
    until_true 20 any_blk || { fail 'no virtio disk after 20 s'; return; }
    cpus=$(nproc)
    share=$(((${number:-8} * 16 + cpus - 1) / cpus)) # in blocks of 64 KiB
    dd if=/dev/urandom of=/tmp/noise bs=64k count=$((share * cpus)) 2>/dev/null
    for disk in /sys/block/vd*; do
        at=$(pci_device "$disk") before=$(taken "$(pci_device "$disk")")
        node=/dev/${disk##*/} parts=
        for cpu in $(seq 0 $((cpus - 1))); do
            [ "$(cat "$disk/ro")" = 0 ] || continue
            on_cpu "$cpu" dd if=/tmp/noise of="$node" bs=64k skip=$((cpu * share)) seek=$((cpu * share)) count=$share \
                oflag=direct conv=notrunc,fsync 2>/dev/null || fail "$node is not written" &
        done
        wait
        echo 3 >/proc/sys/vm/drop_caches
        for cpu in $(seq 0 $((cpus - 1))); do
            parts="$parts /tmp/part$cpu"
            on_cpu "$cpu" dd if="$node" of="/tmp/part$cpu" bs=64k skip=$((cpu * share)) count=$share iflag=direct 2>/dev/null &
        done
        wait
        say "blk at=$at serial=$(cat "$disk/serial") ro=$(cat "$disk/ro") queues=$(ls "$disk/mq" | wc -l)" \
            "cache=$(tr ' ' - <"$disk/queue/write_cache") bytes=$(cat $parts | wc -c)" \
            "written=$(sha256sum </tmp/noise | cut -d' ' -f1) sha256=$(cat $parts | sha256sum | cut -d' ' -f1)" \
            "interrupts=$(($(taken "$at") - before))"
        rm -f $parts
    done
    rm -f /tmp/noise
}

# A disk that is open when it goes leaves its name to no other.
any_blk() { ls -d /sys/block/vd* >/dev/null 2>&1; }

# on_cpu CPU COMMAND..
on_cpu() {
    mask=$(printf %x $((1 << $1)))
    shift
    taskset "$mask" "$@"
}

# blkload: reads and writes behind the first 16 MiB of each virtio disk until blkrest, whatever becomes of the disk.
# Each has a node of its own: dd makes a file of a name in /dev that has just gone, and the next disk has no node then.
job_blkload() {
    for disk in /sys/block/vd*; do
        node=/tmp/load-${disk##*/}
        [ "$(cat "$disk/ro")" = 0 ] || continue
        mknod "$node" b $(tr : ' ' <"$disk/dev")
        until [ -e /tmp/rest ]; do
            dd if="$node" of=/dev/null bs=64k skip=256 count=64 iflag=direct 2>/dev/null || usleep 1000
        done &
        until [ -e /tmp/rest ]; do
            dd if=/dev/zero of="$node" bs=64k seek=256 count=64 oflag=direct conv=notrunc 2>/dev/null || usleep 1000
        done &
    done
}
job_blkrest() {
    : >/tmp/rest
    wait
    rm /tmp/rest /tmp/load-*
    say "blkrest hung=$(dmesg | grep -c 'blocked for more than')"
}

# registers:OFFSET. A DWORD of a SATA controller's configuration space is inverted. Its value before and after.
job_registers() {
    for at in $(devices ahci); do
        config=$pci/devices/$at/config dword=$((number / 4))
        register() { dd if="$config" bs=4 count=1 skip=$dword 2>/dev/null | hexdump -v -e '1/4 "%u"'; }
        found=$(register)
        value=$((found ^ 0xffffffff)) bytes=
        for shift in 0 8 16 24; do
            bytes=$bytes$(printf '\\x%02x' $((value >> shift & 255)))
        done
        printf "$bytes" | dd of="$config" bs=4 count=1 seek=$dword conv=notrunc 2>/dev/null
        say "registers at=$at offset=$number found=$found now=$(register)"
    done
}

# interrupts DEVICE: its interrupts that came, and how often.
interrupts() {
    irqs=$(ls "$pci/devices/$1/msi_irqs" 2>/dev/null | tr '\n' ' ')
    [ -n "$irqs" ] || irqs="$(cat "$pci/devices/$1/irq") "
    awk -v at="$1" -v irqs=" $irqs" 'NR == 1 { cpus = NF; next }
        { sub(":", "", $1); sum = 0 }
        index(irqs, " " $1 " ") {
            for (i = 2; i <= cpus + 1; i++) sum += $i
            if (sum) print "guest> interrupt at=" at " irq=" $1 " name=" $NF " count=" sum
        }' /proc/interrupts
}

# taken DEVICE: how many interrupts came, all together.
taken() { interrupts "$1" | awk -F= '{ sum += $NF } END { print sum + 0 }'; }

# timeouts CONTROLLER: how often its driver found a completion only when its time was up.
timeouts() { dmesg | grep -c "nvme $1: .*timeout"; }

# reads:QUEUES, $blocks of 4 KiB at random places of each disk with so many, from every CPU at once, each CPU one at a time
job_reads() {
    for device in $(devices nvme); do
        name=$(ls "$pci/devices/$device/nvme")
        disk=/dev/${name}n1
        until_true 20 test -b "$disk" || { fail "no $disk after 20 s"; continue; }
        queues=$(($(ls "$pci/devices/$device/msi_irqs" | wc -l) - 1))
        [ "$queues" = "${number:-$queues}" ] || continue
        # The pages of the program come, and every queue has worked.
        random-reads "$disk" $((16 * $(nproc))) >/dev/null || fail "$disk cannot be read"
        before=$(taken "$device") timeouts=$(timeouts "$name")
        read="$(random-reads "$disk" "$blocks")" || fail "$disk cannot be read"
        after=$(taken "$device") polled=$(($(timeouts "$name") - timeouts))
        say "reads at=$device queues=$queues $read interrupts=$((after - before)) polled=$polled"
    done
}

# How many vectors each device has: allocated by its driver, and of these the ones with a handler. What came on them.
job_vectors() {
    for device in "$pci"/devices/*; do
        [ -d "$device/msi_irqs" ] || continue
        driver=$(basename "$(readlink "$device/driver")")
        handled=0
        for irq in $(ls "$device/msi_irqs"); do
            [ -z "$(cat "/sys/kernel/irq/$irq/actions")" ] || handled=$((handled + 1))
        done
        say "vectors at=${device##*/} driver=$driver allocated=$(ls "$device/msi_irqs" | wc -l) handled=$handled"
        [ "$driver" = doorbell ] || interrupts "${device##*/}"
    done
}

# lines: of each device that has no message-signalled interrupt, how often its line has interrupted, and what the kernel complains of.
job_lines() {
    for device in "$pci"/devices/*; do
        [ -e "$device/driver" ] && [ ! -d "$device/msi_irqs" ] || continue
        irq=$(cat "$device/irq")
        say "line at=${device##*/} driver=$(basename "$(readlink "$device/driver")") irq=$irq" \
            "count=$(count_of "$irq") unhandled=$(unhandled)"
    done
}
# How often the kernel says that no driver cared for an interrupt.
unhandled() { dmesg | grep -c 'nobody cared\|Disabling IRQ'; }
# count_of IRQ: its interrupts on all CPUs.
count_of() {
    awk -v irq="$1:" '$1 == irq { for (i = 2; $i ~ /^[0-9]+$/; i++) sum += $i } END { print sum + 0 }' /proc/interrupts
}

# ping:COUNT packets between the machine's two network interfaces, each in a network namespace of its own.
job_ping() {
    # Those of an earlier round come back when their namespace has gone.
    until_true 10 has_two_links || { fail 'there are not two network interfaces'; return; }
    set -- $(links)
    # The process that the second namespace lasts as long as.
    unshare -n sleep 1000 &
    peer=$!
    until_true 5 test "$(readlink /proc/self/ns/net)" != "$(readlink /proc/$peer/ns/net)"
    ip link set "$2" netns $peer || fail "$2 does not go to its namespace"
    ip addr flush dev "$1"
    ip addr add 10.0.0.1/24 dev "$1"
    nsenter -n -t $peer ip addr add 10.0.0.2/24 dev "$2"
    ip link set "$1" up || fail "$1 does not come up"
    nsenter -n -t $peer ip link set "$2" up || fail "$2 does not come up"
    until_true 20 ping -q -c 1 -W 1 10.0.0.2 >/dev/null || fail 'no packet goes through'
    ping -q -A -c "${number:-100}" -s 1000 10.0.0.2 >/tmp/ping
    say "ping interfaces=$1,$2 $(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) .*/sent=\1 received=\2/p' /tmp/ping)"
    kill $peer
}
links() { ls -d /sys/class/net/*/device | cut -d/ -f5; }
has_two_links() { [ "$(links | wc -l)" = 2 ]; }

# transfer:PINGS over each network interface to the host at 10.N.0.1, where N counts the interfaces from 1. A file comes from its port
# 5000, and goes back to its port 5001.
job_transfer() {
    link_number=0
    mkfifo /tmp/silent
    for link in $(links); do
        link_number=$((link_number + 1))
        host=10.$link_number.0.1
        ip addr flush dev "$link"
        ip addr add 10.$link_number.0.2/24 dev "$link"
        ip link set "$link" up || fail "$link does not come up"
        until_true 30 ping -q -c 1 -W 1 $host >/dev/null || fail "$link: no packet goes through"
        ping -q -A -c "${number:-20}" -s 1000 $host >/tmp/ping
        # The other end sees the end of the file when its standard input ends, which is never here.
        until_true 5 fetch $host || fail "$link: nothing was fetched"
        until_true 5 send $host || fail "$link: nothing was sent"
        device=$(pci_device /sys/class/net/$link)
        say "transfer link=$link driver=$(basename "$(readlink -f /sys/class/net/$link/device/driver)")" \
            "queues=$(ls -d /sys/class/net/$link/queues/tx-* | wc -l)" \
            "$(sed -n 's/^\([0-9]*\) packets transmitted, \([0-9]*\) .*/sent=\1 received=\2/p' /tmp/ping)" \
            "bytes=$(wc -c </tmp/fetched) sha256=$(sha256sum </tmp/fetched | cut -d' ' -f1) interrupts=$(taken "$device")"
        rm -f /tmp/fetched
    done
    rm -f /tmp/silent
}

fetch() { timeout 100 busybox nc "$1" 5000 <>/tmp/silent >/tmp/fetched; }
send() { timeout 100 busybox nc "$1" 5001 </tmp/fetched >/dev/null; }

# listen:PORT answers connections to this port of the guest, from now on.
job_listen() {
    socket-peer listen "vsock:$number" >/tmp/listening &
    until_true 20 test -s /tmp/listening || fail "nobody listens on port $number"
}

# exchange:PORT sends bytes to a port of the host over the virtio sockets, and gets them back.
job_exchange() {
    until_true 20 any_sockets || { fail 'no virtio sockets after 20 s'; return; }
    exchanged=$(timeout 100 socket-peer exchange "vsock:2:$number" 100000 2>&1) || fail "port $number: $exchanged"
    say "exchange $exchanged interrupts=$(taken "$(pci_device $transport/virtio*)")"
}
transport=/sys/bus/virtio/drivers/vmw_vsock_virtio_transport
any_sockets() { ls -d $transport/virtio* >/dev/null 2>&1; }

# console: the size of hvc0, each time that it has changed, until a line comes from it, which it shows. All of that is on hvc0.
job_console() {
    until_true 20 test -c /dev/hvc0 || { fail 'no hvc0 after 20 s'; return; }
    exec 3<>/dev/hvc0
    size= typed=
    while [ -z "$typed" ]; do
        now=$(stty size <&3)
        [ "$now" = "$size" ] || echo "guest> console size=$now" >&3
        size=$now
        read -r -t 1 typed <&3
    done
    echo "guest> console typed=$typed" >&3
    # The host ends the run.
    sleep 100
}

# modes: loads a network driver that chooses its interrupts (IntMode) with MSI-X, INTx and MSI-X. It raises an interrupt when its
# interface comes up.
job_modes() {
    for mode in 2 0 2; do
        rmmod e1000e || fail 'e1000e does not go'
        insmod /modules/e1000e.ko IntMode=$mode || fail "e1000e does not take IntMode=$mode"
        device=$(devices e1000e)
        link=$(ls "$pci/devices/$device/net")
        before=$(taken_by "$link")
        ip link set "$link" up || fail "$link does not come up"
        until_true 5 more_than "$link" "$before" || fail "no interrupt with IntMode=$mode"
        say "mode IntMode=$mode messages=$(ls "$pci/devices/$device/msi_irqs" 2>/dev/null | wc -l)" \
            "count=$(($(taken_by "$link") - before)) unhandled=$(unhandled)"
        ip link set "$link" down
    done
}
# taken_by NAME: interrupts of all handlers of this name.
taken_by() {
    awk -v name="$1" 'index($0, name) { for (i = 2; $i ~ /^[0-9]+$/; i++) sum += $i } END { print sum + 0 }' /proc/interrupts
}
more_than() { [ "$(taken_by "$1")" -gt "$2" ]; }

hwrng=/sys/devices/virtual/misc/hw_random
# draw KIB from the hardware random number generator that the kernel uses; it is in /tmp/random.
draw() { dd if=/dev/hwrng of=/tmp/random bs=4k count=$(($1 / 4)) iflag=fullblock 2>/dev/null; }

# entropy:KIB. Random bytes do not get smaller when they are packed.
job_entropy() {
    until_true 20 grep -q virtio_rng $hwrng/rng_current || { fail "rng_current: $(cat $hwrng/rng_current)"; return; }
    read -r start _ </proc/uptime
    draw "${number:-1024}"
    read -r stop _ </proc/uptime
    packed=$(gzip -c /tmp/random | wc -c)
    say "entropy current=$(cat $hwrng/rng_current) bytes=$(wc -c </tmp/random) packed=$packed from=$start to=$stop"
    rm -f /tmp/random
}

# count_on IRQ CPU: its interrupts on that CPU.
count_on() { awk -v irq="$1:" -v column="$(($2 + 2))" '$1 == irq { print $column }' /proc/interrupts; }

# affinity:KIB drawn on each CPU in turn, with the vector of the entropy device's queue sent there, and back.
job_affinity() {
    irq=$(awk '/virtio[0-9]*-input/ { sub(":", "", $1); print $1 }' /proc/interrupts)
    [ -n "$irq" ] || { fail 'the entropy device has no vector'; return; }
    for cpu in $(seq 0 $(($(nproc) - 1))) 0; do
        printf %x $((1 << cpu)) >"/proc/irq/$irq/smp_affinity" || fail "IRQ $irq does not go to CPU $cpu"
        # The kernel moves a vector when its next interrupt comes.
        draw 4
        before=$(count_on "$irq" "$cpu")
        draw "${number:-4}"
        say "affinity irq=$irq cpu=$cpu requests=$((${number:-4} * 16)) count=$(($(count_on "$irq" "$cpu") - before))"
    done
}

# pci_device PATH: the address of the PCI function that a device in sysfs belongs to, if it belongs to one.
pci_device() { readlink -f "$1" | grep -o '[0-9a-f]*:..:..\.[0-7]' | tail -n 1; }

# say_work KIND DEVICE FILE BEFORE: the function, how it signals, what was transferred, and the interrupts that took.
say_work() {
    device=$pci/devices/$2
    signals=$(cat "$device"/msi_irqs/* 2>/dev/null | sort -u)
    id=$(cat "$device/vendor"):$(cat "$device/device")
    say "$1 at=$2 id=$id driver=$(basename "$(readlink "$device/driver")") signals=${signals:-intx}" \
        "bytes=$(wc -c <"$3") sha256=$(sha256sum <"$3" | cut -d' ' -f1) interrupts=$(($(taken "$2") - $4))"
    rm -f "$3"
}

any_disk() { for disk in /sys/block/*; do [ -z "$(pci_device "$disk")" ] || return 0; done; return 1; }

# disks:MIB of each disk behind a PCI function, read past the page cache
job_disks() {
    until_true 20 any_disk || { fail 'no disk after 20 s'; return; }
    sleep "${settle:-0}"
    for disk in /sys/block/*; do
        at=$(pci_device "$disk")
        [ -n "$at" ] || continue
        # A path of an NVMe disk (nvme0c0n1) belongs to a function; its node (nvme0n1) is the disk's.
        node=/dev/$(echo "${disk##*/}" | sed 's/^\(nvme[0-9]*\)c[0-9]*/\1/')
        before=$(taken "$at")
        dd if="$node" of=/tmp/read bs=64k count=$((${number:-4} * 16)) iflag=direct 2>/dev/null
        say_work disk "$at" /tmp/read "$before"
    done
}

# links: a file fetched by TFTP from QEMU's user network, through one network function after the other
job_links() {
    for link in /sys/class/net/*; do
        at=$(pci_device "$link")
        [ -n "$at" ] || continue
        name=${link##*/}
        before=$(taken "$at")
        busybox ip link set "$name" up || fail "$name does not come up"
        busybox ip address add 10.0.2.15/24 dev "$name"
        until_true 10 grep -q 1 "$link/carrier" || fail "$name has no carrier"
        timeout 60 busybox tftp -g -b 1428 -r noise -l /tmp/fetched 10.0.2.2 || fail "$name: nothing was fetched"
        [ -e /tmp/fetched ] || : >/tmp/fetched
        say_work link "$at" /tmp/fetched "$before"
        busybox ip address flush dev "$name"
        busybox ip link set "$name" down
    done
}

# serials:BYTES written to each serial port of a PCI function
job_serials() {
    for port in /sys/class/tty/ttyS*; do
        at=$(pci_device "$port/device")
        [ -n "$at" ] || continue
        before=$(taken "$at")
        stty -F "/dev/${port##*/}" raw -echo 115200
        head -c "${number:-4096}" /bin/busybox | od -An -tx1 >/tmp/sent
        timeout 60 cp /tmp/sent "/dev/${port##*/}" || fail "${port##*/} does not take what is written"
        say_work serial "$at" /tmp/sent "$before"
    done
}

# dmas:BYTES to each educational device and back, in pieces of its buffer's size
job_dmas() {
    for at in $(devices edu); do
        buffer=$pci/devices/$at/buffer before=$(taken "$at")
        head -c "${number:-65536}" /dev/urandom >/tmp/sent
        : >/tmp/back
        piece=0
        while [ $((piece * 4096)) -lt "${number:-65536}" ]; do
            dd if=/tmp/sent of="$buffer" bs=4096 count=1 skip=$piece conv=notrunc 2>/dev/null || fail "$at: piece $piece did not go"
            dd if="$buffer" bs=4096 count=1 2>/dev/null >>/tmp/back || fail "$at: piece $piece did not come back"
            piece=$((piece + 1))
        done
        cmp /tmp/sent /tmp/back || fail "$at: the data is not what was sent"
        say_work dma "$at" /tmp/back "$before"
    done
}

# codecs: what each sound controller's driver has read from the codec behind it: a command and an interrupt for each answer
job_codecs() {
    sleep 2
    for card in /proc/asound/card[0-9]*; do
        at=$(pci_device "/sys/class/sound/${card##*/}/device")
        [ -n "$at" ] || continue
        grep -h '^Vendor Id' "$card"/codec#* >/tmp/codec
        say_work codec "$at" /tmp/codec 0
    done
}

# Brings every network interface up: only then do most drivers ask for their interrupts.
job_net() {
    for link in /sys/class/net/*; do
        [ -e "$link/device" ] || continue
        busybox ip link set "${link##*/}" up || fail "${link##*/} does not come up"
    done
    sleep 2
}

job_lspci() {
    times_listed=$((${times_listed:-0} + 1))
    say "begin lspci-$times_listed"
    # It complains of having no /lib/modules.
    /usr/bin/lspci -vvv -nn 2>/dev/null
    say "end lspci-$times_listed"
}

# rebind:TIMES takes the drivers off their devices and puts them back.
job_rebind() {
    times=0
    while [ $times -lt "${number:-10}" ]; do
        for driver in nvme doorbell virtio-pci ims-queues ims-timer; do
            for device in $(devices $driver); do
                echo "$device" >"$pci/drivers/$driver/unbind" || fail "$driver does not let go of $device"
                echo "$device" >"$pci/drivers/$driver/bind" || fail "$driver does not take $device back"
            done
        done
        for bell in $(devices doorbell); do order "$bell" grow "$vectors"; done
        [ -z "$(devices nvme)" ] || until_true 20 test -b /dev/nvme0n1 || fail 'nvme0n1 did not come back'
        times=$((times + 1))
        say "rebound times=$times"
    done
}

# Resets every device that can be reset, with its driver bound.
job_flr() {
    for device in $(devices nvme) $(devices doorbell); do
        [ -s "$pci/devices/$device/reset_method" ] || { say "reset at=$device method=none"; continue; }
        method=$(tr ' ' , <"$pci/devices/$device/reset_method")
        if echo 1 >"$pci/devices/$device/reset"; then
            say "reset at=$device method=$method"
        else
            fail "$device was not reset"
        fi
    done
}

# hostile:OPERATIONS random accesses of each CPU to all that the machine has, by the seed that was set. `random-accesses` is said before.
job_hostile() {
    say "random-accesses seed=${seed:-1}"
    # A random message may cut into what is said.
    echo "${seed:-1} ${number:-1000}" >/sys/module/hostile/parameters/run || fail 'the random accesses did not run'
    say "hostile $(cat /sys/module/hostile/parameters/run)"
}

# Waits until the host sends a line, and does the jobs in it; then waits for the next. An empty one ends that.
job_hold() {
    times_held=$((${times_held:-0} + 1))
    while say "holding times=$times_held"; do
        read -r -t 240 asked || { fail 'nobody said to go on'; return; }
        [ -n "$asked" ] || return
        do_jobs "$asked"
        job=hold
    done
}

job_modules() {
    while read -r module; do
        # Modules may be built in or loaded already.
        insmod "/modules/$module" || fail "$module was not loaded"
    done </modules/order
}

# do_jobs A,B:N,..
do_jobs() {
    for word in $(echo "$1" | tr , ' '); do
        job=${word%%:*}
        number=${word#"$job"}
        number=${number#:}
        if type "job_$job" >/dev/null 2>&1; then "job_$job"; else fail 'there is no such job'; fi
    done
}

do_jobs "modules,$jobs"
say bye
# Waits until the line is out: a kernel that crashes says the rest itself and forgets what waits to be sent.
busybox stty cs8 </dev/console || fail 'the console cannot be drained'
case $end in
reboot) reboot -f ;;
crash) echo c >/proc/sysrq-trigger ;;
*) poweroff -f ;;
esac
