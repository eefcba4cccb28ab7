#!/usr/bin/env bash
# down.sh [FOLDER]: ends the cluster of up.sh, by its pid files and namespaces and nothing else, and removes the folder.
# Without FOLDER: that of the cluster that is up, by the command line of its slurmctld.
set -uo pipefail
for pid in $(pgrep -x slurmctld); do
  conf=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n '/^-f$/{n;p}')
  [[ -s $conf ]] && grep -qx ClusterName=distgan "$conf" && up=${conf%/etc/slurm.conf}
done
lab=${1:-${up:-$(mktemp -d)}}
export SLURM_CONF=$lab/etc/slurm.conf
ours() { [[ -s $1 && $(cat "/proc/$(cat "$1")/comm" 2>/dev/null) == "$2" ]] && cat "$1"; } # pid file, name
finish() {                                                                               # pids
  kill -TERM "$@" 2>/dev/null
  for ((i = 0; i < 80; i++)); do
    kill -0 "$@" 2>/dev/null || return
    sleep 0.1
  done
  kill -KILL "$@" 2>/dev/null
}
if ours "$lab/run/slurmctld.pid" slurmctld >/dev/null; then
  timeout 10 scancel --user root
  for ((i = 0; i < 50; i++)); do
    [[ -z $(timeout 5 squeue --noheader) ]] && break
    sleep 0.2
  done
fi
for node in node1 node2; do pid=$(ours "$lab/run/slurmd.$node.pid" slurmd) && finish "$pid"; done
pid=$(ours "$lab/run/slurmctld.pid" slurmctld) && finish "$pid"
pid=$(ours "$lab/run/munged.pid" munged) && finish "$pid"
for space in dgnode1 dgnode2; do
  ip netns list | grep -qw $space || continue
  for pid in $(ip netns pids $space); do kill -KILL "$pid" 2>/dev/null; done
  ip netns del $space
  rm -rf /etc/netns/$space
done
ip link show dgbr0 &>/dev/null && ip link del dgbr0
rmdir /etc/netns 2>/dev/null
rmdir /local 2>/dev/null
rm -rf "$lab"
