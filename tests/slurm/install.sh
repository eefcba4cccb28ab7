#!/usr/bin/env bash
# Debian's SLURM for the tests, and none of its services started. Does nothing where it is there already.
set -euo pipefail
missing=()
for program in slurmctld slurmd sbatch munged ip; do # each by itself: of several names one is enough for `command -v`
  command -v $program >/dev/null || missing+=("$program")
done
((${#missing[@]})) || exit 0
[[ $(id -u) == 0 ]] || { echo "SLURM's packages: need root; missing: ${missing[*]}" >&2 && exit 1; }
command -v apt-get >/dev/null || { echo "SLURM's packages: no apt-get here; missing: ${missing[*]}" >&2 && exit 1; }
policy=/usr/sbin/policy-rc.d # called by packages before they start a service; 101 is no
if [[ ! -e $policy ]]; then
  trap 'rm -f $policy' EXIT
  printf '#!/bin/sh\nexit 101\n' >$policy
  chmod +x $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends munge slurmctld slurmd slurm-client iproute2 >/dev/null
