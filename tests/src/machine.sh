# What a machine has when it is switched on; then its service manager, as process 1.
# The file system is the host's, but for what is in DISK, which outlives a reboot, and for what is written
# elsewhere, which does not.
set -eu
disk=$1 agent=$2

mount --make-rprivate /
mount -t proc proc /proc
# Who looks for cgroup2 among the mounts shall find one.
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
# As in any container: limits of the kernel are none of the machine's.
mount --bind /proc/sys /proc/sys
mount -o bind,remount,ro /proc/sys
mount -t tmpfs -o mode=0755 tmpfs /dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 0666 "/dev/${device%:*}" c 1 "${device#*:}"
done
mount -t tmpfs -o mode=0755 tmpfs /run
for directory in etc usr/bin; do
    scratch=/run/scratch/$directory
    mkdir -p "$scratch/upper" "$scratch/work"
    mount -t overlay -o "lowerdir=/$directory,upperdir=$scratch/upper,workdir=$scratch/work" overlay "/$directory"
done
# One that has none takes this for its first boot, and enables every unit.
echo 5ea15ea15ea15ea15ea15ea15ea15ea1 >/etc/machine-id
mkdir -p /etc/sealwire /etc/systemd
mount --bind "$disk/etc/sealwire" /etc/sealwire
mount --bind "$disk/etc/systemd" /etc/systemd
mount --bind "$disk/var" /var
touch /usr/bin/sealwire-agent
mount --bind "$agent" /usr/bin/sealwire-agent

# No unit but those of DISK: Debian's would set the host's clock, its kernel's limits and more.
export container=other SYSTEMD_UNIT_PATH=/etc/systemd/system
export SYSTEMD_GENERATOR_PATH=/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none
exec /lib/systemd/systemd --unit=multi-user.target --show-status=no --log-target=journal
