#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first half of a run inside the guest: builds the file system the command sees, then runs it.
#
# virtme-ng mounts the host's root uncached, and Python then starts three to ten times slower. So the
# host's root is mounted a second time, cached, below a memory overlay: everything is writable and
# nothing is kept. Only the work tree on top of it is the host's own.
#
# Orders come through the share vm.orders: `layout` (shell assignments), `command` (a shell script,
# complete with its environment), and `status`, which this script writes; a run without it has died.
set -eu

share() { # TAG DIRECTORY OPTIONS
    # In old kernels a request takes a buffer of msize, zeroed each time: small is far faster there.
    mount -t 9p -o "$3,version=9p2000.L,trans=virtio,access=any,msize=65536" "$1" "$2"
}

vm=/run/vm
root=$vm/root
mkdir $vm
mount -t tmpfs vm $vm
mkdir $vm/host $vm/orders $vm/kept $vm/upper $vm/work $root

share vm.orders $vm/orders rw
# WORK: the work tree. MODULES: the kernel's. One a line, KEPT: directories below WORK or /tmp to be
# read cached; FORWARD: PORT:PORT, from eth0 to the loopback.
WORK='' MODULES='' KEPT='' FORWARD=''
. $vm/orders/layout
share vm.host $vm/host ro,cache=loose
mount -t overlay -o "lowerdir=$vm/host,upperdir=$vm/upper,workdir=$vm/work" root $root

IFS='
'
number=0
for directory in $KEPT; do
    number=$((number + 1))
    mkdir "$vm/kept/$number"
    mount --bind "$root$directory" "$vm/kept/$number"
done
mount -t tmpfs -o mode=1777 tmp $root/tmp
mkdir -p "$root$WORK"
share vm.work "$root$WORK" rw,cache=mmap
number=0
for directory in $KEPT; do
    number=$((number + 1))
    mkdir -p "$root$directory"
    mount --bind "$vm/kept/$number" "$root$directory"
done

mount -t proc proc $root/proc
mount --rbind /sys $root/sys
mount --rbind /dev $root/dev
mount -t tmpfs -o mode=0755 run $root/run
mount -t bpf bpf $root/sys/fs/bpf
mkdir -p $root/lib/modules $root/run/vm $root/run/old
ln -sfn "$MODULES" "$root/lib/modules/$(uname -r)"
mount --move $vm/orders $root/run/vm

# A real root, not a chroot: `ip netns` and the like remount "/".
cd $root
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old

# A network manager would rename and readdress the interfaces that tests make.
busybox killall systemd-udevd 2>/dev/null || true
ip link set lo up
echo 1 >/proc/sys/net/core/bpf_jit_enable
mkdir -p /dev/net
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200 # opening it loads the driver

if [ -n "$FORWARD" ]; then
    modprobe virtio_net
    ip link set eth0 up
    ip address add 10.0.2.15/24 dev eth0
    ip route add default via 10.0.2.2
    # The emulator reaches eth0 only; a relay hands on to the loopback, which every server listens to.
    for pair in $FORWARD; do
        busybox nc -ll -p "${pair%:*}" -e busybox nc 127.0.0.1 "${pair#*:}" \
            </dev/null >/dev/null 2>&1 &
    done
fi
unset IFS

# Of a machine that dies or hangs the console is all there is: stalls and hung tasks are said there.
busybox dmesg -n 5
echo "-- command starts --" >/dev/console # what the kernel prints after this is not its start
status=0
# By its path: busybox would run a shell of its own, with tools of its own in place of the host's.
/bin/sh /run/vm/command </dev/null || status=$?
sync
echo $status >/run/vm/status
