#!/bin/bash
# The whole story on a real logical volume: back up, change, back up what
# changed, look at it, attach both states as disks, compare. Runs as root in a
# machine of its own with an empty disk, /dev/vda, and /in/blkbak; `make demo`
# provides one.
set -euo pipefail

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
run() { printf '\033[36m$ %s\033[0m\n' "$*"; eval "$*"; }

hostname demo 2>/dev/null || echo demo >/proc/sys/kernel/hostname
cp /in/blkbak /usr/bin/
mkdir -p /srv /mnt/{data,now,before}
{
	pvcreate -q /dev/vda
	vgcreate -q vg /dev/vda
	lvcreate -q -y -L 128M -n data vg
	mkfs.ext4 -q /dev/vg/data
	mount /dev/vg/data /mnt/data
} >/dev/null
modprobe nbd

say 'A logical volume with a filesystem, in use'
run 'cp -r /usr/sbin /mnt/data/programs'
run "sqlite3 /mnt/data/shop.db 'create table orders (n integer primary key, what text); insert into orders (what) values (\"first\")'"
run 'df -h /mnt/data | tail -n 1'

say 'The first restore point takes everything. An LVM snapshot stays with the volume'
run 'blkbak snapshot vg/data'
run 'lvs -o lv_name,lv_size,origin,data_percent vg'

say 'The volume goes on changing'
run "sqlite3 /mnt/data/shop.db 'insert into orders (what) values (\"second\"), (\"third\")'"
run 'rm /mnt/data/programs/mkfs.btrfs && echo "new today" > /mnt/data/note && sync'

say 'The next point reads only what the snapshot lists: no scan of files or of the disk'
run 'blkbak snapshot vg/data --tag why=demo'
run 'blkbak list'
run 'blkbak diff vg/data@~1 vg/data@latest'

say 'Each point is a complete disk. Both are attached through the kernel'"'"'s NBD client'
run 'blkbak serve --listen unix:/run/blkbak.sock &'
server=$!
for _ in $(seq 100); do [ -S /run/blkbak.sock ] && break; sleep 0.1; done
run 'nbd-client -unix /run/blkbak.sock -N vg/data@~1 /dev/nbd0 >/dev/null 2>&1'
run 'nbd-client -unix /run/blkbak.sock -N vg/data@latest /dev/nbd1 >/dev/null 2>&1'
run 'e2fsck -fn /dev/nbd0 | tail -n 1'
run 'mount -o ro /dev/nbd0 /mnt/before && mount -o ro /dev/nbd1 /mnt/now'
run "sqlite3 'file:/mnt/before/shop.db?immutable=1' 'select count(*) from orders'"
run "sqlite3 'file:/mnt/now/shop.db?immutable=1' 'select count(*) from orders'"
run 'diff -rq /mnt/before /mnt/now' || true # it differs, as it should

say 'The newest point against the kernel'"'"'s own snapshot of the same moment, byte by byte'
base=$(lvs --noheadings -o lv_path -S 'lv_tags=blkbak' vg | tr -d ' ')
run "cmp /dev/nbd1 $base && echo equal"
umount /mnt/before /mnt/now
nbd-client -d /dev/nbd0 >/dev/null && nbd-client -d /dev/nbd1 >/dev/null
kill $server && wait $server

say 'Is everything in the repository what it should be?'
run 'blkbak check --read-data'
run 'du -sh --apparent-size /var/lib/blkbak | cut -f 1'
