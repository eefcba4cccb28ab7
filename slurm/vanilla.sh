#!/bin/bash
# The GAN of the 2023 report: sbatch slurm/vanilla.sh [FLAGS OF distgan train]. docs/slurm.md
#SBATCH --job-name=vanilla
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.out
trap '' USR1 # until _run.sh sets its handler
# SLURM runs a copy of this file: its original path is in the job's record, else in DISTGAN_ROOT.
from="$(scontrol show job "${SLURM_JOB_ID:-none}" 2>/dev/null | sed -n 's/^ *Command=//p' | head -n 1) "
from=${from%%/slurm/vanilla.sh *}
[[ -r $from/slurm/_run.sh ]] || from=${DISTGAN_ROOT:-${SLURM_SUBMIT_DIR:-.}}
[[ -r $from/slurm/_run.sh ]] || {
  echo "distgan: DISTGAN_ROOT: no slurm/_run.sh in it ($from). Expected: the folder of a clone" >&2
  exit 2
}
source "$from/slurm/_run.sh" train --model vanilla "$@"
