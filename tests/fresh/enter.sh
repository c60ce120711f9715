#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command in a root file system; in mount and process namespaces that the caller has made.
#
#     enter.sh ROOT USER HOME DIRECTORY COMMAND [HERE=THERE...]
#
# HERE=THERE: HERE is mounted at THERE in ROOT; USER owns what is below USER's home.
set -euo pipefail
root=$1 user=$2 home=$3 directory=$4 command=$5
shift 5

mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=0755 run "$root/run"
for pair; do
	here=${pair%=*} there=$root${pair##*=}
	if [ -d "$here" ]; then mkdir -p "$there"; else touch "$there"; fi
	mount --bind "$here" "$there"
	case $there in
	*/.cache/pip) chroot "$root" chown "$user:" "${there#"$root"}" ;;
	*/apt/archives) ;;
	*) mount -o remount,bind,ro "$there" ;;
	esac
done
if [ -d "$root$home/.cache" ]; then
	chroot "$root" chown "$user:" "$home/.cache"
	if [ -d "$root$home/.cache/xdpscope" ]; then chroot "$root" chown "$user:" "$home/.cache/xdpscope"; fi
fi

path=/usr/local/bin:/usr/bin:/bin
if [ "$user" = root ]; then path=/usr/local/sbin:/usr/sbin:/sbin:$path; fi
exec chroot --userspec="$user:" "$root" env -i \
	HOME="$home" USER="$user" TERM=dumb PATH="$path" \
	bash -c 'cd "$1" && eval "$2"' bash "$directory" "$command"
