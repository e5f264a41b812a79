#!/bin/busybox sh
# First program of the Linux guest, also on the bare machine. What it does is said on the kernel
# command line (beeline.*); lines that start with GUEST are read by `cargo xtask run`.
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
read -r up _ < /proc/uptime
echo "GUEST up uptime=$up"
/bin/busybox --install -s /bin

word() { # word NAME DEFAULT: the value of the last NAME=value on the kernel command line
    value=$2
    for w in $(cat /proc/cmdline); do
        case $w in "$1"=*) value=${w#*=} ;; esac
    done
    echo "$value"
}

leave() {
    echo "GUEST $1"
    stty sane < /dev/console # returns when the serial line has sent all
    sleep 0.1
    case $(word beeline.exit power-off) in power-off) ;; *) window exit "$(word beeline.exit)" ;; esac
    poweroff -f
}

drivers() { # loads the kernel's modules that are here
    while read -r module; do
        insmod "/lib/modules/$module" || leave "failed insmod $module"
    done < /lib/modules/order
}

wait_for() { # wait_for SECONDS WHAT: until WHAT sets `found`
    tries=$(($1 * 5))
    while ! "$2"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.2
    done
}

network() {
    for found in /sys/class/net/*; do
        [ -e "$found/device/driver" ] && found=${found##*/} && return 0
    done
    return 1
}

disk() {
    for found in /dev/nvme*n1; do
        [ -b "$found" ] && return 0
    done
    # A virtual function that its owner had not brought online yet has lost its driver.
    for function in $([ $((tries % 10)) = 0 ] && grep -l 0x010802 /sys/bus/pci/devices/*/class); do
        function=${function%/class}
        [ -e "$function/driver" ] || echo "${function##*/}" > /sys/bus/pci/drivers/nvme/bind
    done
    return 1
}

carrier() {
    [ "$(cat "/sys/class/net/$network/carrier" 2> /dev/null)" = 1 ]
}

export PATH=/bin
mkdir -p /dev/shm /dev/pts /tmp
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
uname -a
cd /sys/devices/system || leave "failed no /sys/devices/system"
events= modes=
for c in clockevents/clockevent[0-9]*/current_device; do
    read -r device < "$c" && events="$events,$device"
done
# The mode of each CPU's tick device: 0 and 1 are shutdown and periodic ticks, 3 is one-shot.
modes=$(awk '/^Per CPU device:/ { p = 1 } /^Broadcast device/ { p = 0 } p && /^ mode:/ { print $2 }' /proc/timer_list | sort -u | tr '\n' ',')
resolution=$(awk '/\.resolution:/ { print $2 }' /proc/timer_list | sort -u | tr '\n' ',')
read -r source < clocksource/clocksource0/current_clocksource
idle=none
[ -r cpu/cpuidle/current_driver ] && read -r idle < cpu/cpuidle/current_driver
# Without a driver it is the kernel's own routine that matters.
case $(dmesg | grep -c 'using mwait in idle') in 0) idle=$idle/hlt ;; *) idle=$idle/mwait ;; esac
read -r online < cpu/online
read -r release < /proc/sys/kernel/osrelease
echo "GUEST facts kernel=$release clocksource=$source clockevent=${events#,} mode=${modes%,} resolution=${resolution%,} idle=$idle online=$online"

[ "$(word beeline.run '')" = report ] && {
    grep -m 1 -E '^flags' /proc/cpuinfo
    grep -m 1 -E '^bugs' /proc/cpuinfo
    grep . cpu/vulnerabilities/*
    dmesg
    leave done
}

# Real-time throttling would put a 50 ms hole into a busy FIFO thread.
echo -1 > /proc/sys/kernel/sched_rt_runtime_us

case $(word beeline.run cyclictest) in
cyclictest)
    cpus=$(word beeline.cpus 0) loops=$(word beeline.loops 1000) interval=$(word beeline.interval 1000)
    threads=$(echo "$cpus" | tr ',' '\n' | wc -l)
    offset=$(word beeline.offset 0)
    # All threads start at a full second plus the offset: the same distance from the kernel's tick
    # wherever this runs, and long after the last program started. Under -M cyclictest's main thread
    # sleeps until there is a new maximum; else it wakes every 10 ms on a measured CPU.
    window run --threads "$threads" --loops "$loops" --interval-us "$interval" --offset-us "$offset" --output /tmp/log -- \
        cyclictest -m -p 90 -i "$interval" -l "$loops" -q -M -N -t "$threads" -a "$cpus" --mainaffinity=0 \
        --secaligned="$offset" -h "$(word beeline.buckets 60000)" --histfile=/tmp/histogram || { cat /tmp/log; leave "failed cyclictest"; }
    window histogram /tmp/histogram "$cpus" || leave "failed histogram"
    grep -E 'LOC|IPI|RES|CAL|NMI' /proc/interrupts
    leave done
    ;;
boot)
    leave done
    ;;
kexec)
    # The last word of a name counts.
    window kexec /next/vmlinuz /next/initramfs "$(cat /proc/cmdline) beeline.run=boot"
    leave "failed kexec"
    ;;
devices)
    cd / || leave "failed no /"
    drivers
    address=$(word beeline.address 10.0.2.15/24) neighbour=$(word beeline.neighbour 10.0.2.2)
    wait_for 60 network && network=$found || leave "failed no network interface with a driver after 60 s"
    wait_for 60 disk && disk=$found || leave "failed no NVMe disk after 60 s"
    ip addr add "$address" dev "$network" && ip link set "$network" up || leave "failed ip $network"
    wait_for 30 carrier || leave "failed $network has no link after 30 s"
    ping -q -c 1 -w 30 "$neighbour" > /dev/null || leave "failed $neighbour does not answer on $network"
    window devices "$disk" "$network" "$neighbour" "$(word beeline.reads 5000)" "$(word beeline.span-ms 3000)" ||
        leave "failed window"
    grep -vE ' 0 .* 0 |^ *[A-Z]+: +0 +0' /proc/interrupts
    leave done
    ;;
shell)
    cd /
    [ -r /lib/modules/order ] && drivers
    echo "GUEST shell"
    echo "The shell of the Linux guest. 'exit' switches the machine off."
    stty -F /dev/ttyS0 sane 2> /dev/null
    setsid -c sh -c 'exec sh -i < /dev/ttyS0 > /dev/ttyS0 2>&1'
    leave done
    ;;
*)
    leave "failed unknown beeline.run=$(word beeline.run '')"
    ;;
esac
