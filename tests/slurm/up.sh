#!/usr/bin/env bash
# up.sh FOLDER: a real SLURM cluster of two "machines" on this one, for tests. Each is a network, host name and mount
# namespace with an address, a /dev/shm and its own /local and one slurmd; slurmctld and munged run outside of them.
# Called again, it starts what has died. down.sh FOLDER ends it. Needs root; nothing else of the system is changed but
# /etc/netns/dgnode* and a bridge.
set -euo pipefail
lab=$1 bridge=dgbr0 net=10.78.0 nodes=(node1 node2) gpus=2 cpus=16
mkdir -p "$lab"/{etc,run,log,state,munge,gpu,spool,local}
chmod 755 "$lab"
export SLURM_CONF=$lab/etc/slurm.conf
alive() { [[ -s $1 && $(cat "/proc/$(cat "$1")/comm" 2>/dev/null) == "$2" ]]; } # pid file, name

chmod 700 "$lab/munge"
[[ -s $lab/munge/key ]] || (umask 077 && head -c 1024 /dev/urandom >"$lab/munge/key")
# --force: it warns of a folder below one that all may write to, as /tmp is.
alive "$lab/run/munged.pid" munged ||
  munged --force --key-file="$lab/munge/key" --socket="$lab/run/munge.socket" --pid-file="$lab/run/munged.pid" \
    --log-file="$lab/log/munged.log" --seed-file="$lab/munge/seed" 2>>"$lab/log/munged.err"

if ! ip link show $bridge &>/dev/null; then
  ip link add $bridge type bridge
  ip addr add $net.254/24 dev $bridge
  ip link set $bridge up
fi
hosts="127.0.0.1 localhost"$'\n'"$net.254 $(hostname -s)"$'\n'
for i in 1 2; do hosts+="$net.$i node$i"$'\n'; done
for i in 1 2; do
  space=dgnode$i
  mkdir -p /etc/netns/$space "$lab/local/node$i" "$lab/spool/node$i"
  printf '%s' "$hosts" >/etc/netns/$space/hosts
  echo 'hosts: files' >/etc/netns/$space/nsswitch.conf # gloo looks up the name of every peer: 5 s for each without DNS
  : >/etc/netns/$space/resolv.conf
  ip netns list | grep -qw $space && continue
  ip netns add $space
  ip link add dgv$i type veth peer name eth0 netns $space
  ip link set dgv$i master $bridge up
  ip -n $space addr add $net.$i/24 dev eth0
  ip -n $space link set lo up
  ip -n $space link set eth0 up
  ip -n $space route add default via $net.254
done

# GPUs that can't compute: SLURM wants device nodes, and these are like /dev/null.
for ((i = 0; i < gpus; i++)); do [[ -c $lab/gpu/gpu$i ]] || mknod -m 666 "$lab/gpu/gpu$i" c 1 3; done
cat >"$lab/etc/slurm.conf" <<CONF
ClusterName=distgan
SlurmctldHost=$(hostname -s)($net.254)
SlurmctldPort=6837
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# How long the credential of a job lives is also how long a requeued one waits: 120 s unless said otherwise.
AuthInfo=socket=$lab/run/munge.socket,cred_expire=5
StateSaveLocation=$lab/state
SlurmdSpoolDir=$lab/spool/%n
SlurmctldPidFile=$lab/run/slurmctld.pid
SlurmdPidFile=$lab/run/slurmd.%n.pid
SlurmctldLogFile=$lab/log/slurmctld.log
SlurmdLogFile=$lab/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
# More cores and memory than there are.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
GresTypes=gpu
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
EnforcePartLimits=ALL
JobRequeue=1
KillWait=10
SlurmdTimeout=20
MinJobAge=3600
NodeName=DEFAULT CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=64000 Gres=gpu:$gpus
NodeName=node1 NodeAddr=$net.1
NodeName=node2 NodeAddr=$net.2
PartitionName=DEFAULT Nodes=node[1-2] DefaultTime=10 MaxTime=INFINITE State=UP
PartitionName=gpu Default=YES PriorityTier=10
PartitionName=grace PriorityTier=10 GraceTime=30
PartitionName=short PriorityTier=10 MaxTime=30
PartitionName=urgent PriorityTier=100 PreemptMode=OFF
CONF
printf 'AutoDetect=off\nNodeName=node[1-2] Name=gpu File=%s/gpu/gpu[0-%d]\n' "$lab" $((gpus - 1)) >"$lab/etc/gres.conf"
printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >"$lab/etc/cgroup.conf"

alive "$lab/run/slurmctld.pid" slurmctld || slurmctld -f "$SLURM_CONF"
for node in "${nodes[@]}"; do
  alive "$lab/run/slurmd.$node.pid" slurmd && continue
  # slurmd wants a file system of cgroups even where no plugin of it uses one; an empty one will do.
  # shellcheck disable=SC2016
  ip netns exec dg"$node" unshare --uts --mount --propagation private bash -c '
    hostname "$1" && mount -t tmpfs -o size=2g tmpfs /dev/shm && mount -t tmpfs tmpfs /sys/fs/cgroup
    mkdir -p /local && mount --bind "$2/local/$1" /local
    exec slurmd -f "$2/etc/slurm.conf"' bash "$node" "$lab"
done
for ((i = 0; i < 150; i++)); do
  up=$(sinfo -h -N -p gpu -o '%N %t' 2>/dev/null | grep -cE ' (idle|mix|alloc|comp)$' || true)
  [[ $up == "${#nodes[@]}" ]] && exit 0
  sleep 0.2
done
sinfo -R >&2
tail -n 5 "$lab"/log/slurm*.log >&2
exit 1
