# shellcheck shell=bash
# Sourced by slurm/*.sh in an allocation, as `source _run.sh KIND FLAGS...`: starts one process for each GPU of all nodes,
# hands on what asks them to stop, and requeues the job until its run is done. docs/slurm.md has every variable.
set -uo pipefail # not -e: a `wait` that a signal cuts short is no error

# A job may be told to make way before it has begun.
asked=0 ended=0
trap asked=1 USR1
trap ended=1 TERM

# -- the site: what this machine needs before python starts --------------------------------------------------------

site() { # a file of others, who may set, shift and cd as they like: so it comes before any name of ours
  local -r distgan_here=$PWD
  set +u
  # shellcheck source=/dev/null
  source "$DISTGAN_SETUP" || broken="DISTGAN_SETUP=$DISTGAN_SETUP: ended with $?"
  set +efx -u -o pipefail
  IFS=$' \t\n'
  cd -- "$distgan_here" || broken="$distgan_here: is gone from $(hostname)"
}
broken=
if [[ -n ${DISTGAN_SETUP:-} ]]; then
  if [[ -r $DISTGAN_SETUP ]]; then site; else broken="DISTGAN_SETUP=$DISTGAN_SETUP: can't be read on $(hostname); allowed: a file of bash"; fi
fi

# -- the job -------------------------------------------------------------------------------------------------------

fail() {
  printf 'distgan: %s\n' "$*" >&2
  exit 2
}
say() { printf '[%(%F %T)T %s #%s] %s\n' -1 "$SLURM_JOB_NAME-$job" "$start" "$*"; }
time_left() { squeue --noheader --job "$job" --format %L 2>/dev/null | head -n 1; }
whole() { # NAME DEFAULT LOWEST: the variable of that name is an integer from here on
  local value=${!1:-$2}
  { [[ $value =~ ^[0-9]{1,6}$ ]] && ((10#$value >= $3)); } || fail "$1=$value: allowed: an integer, $3 or more"
  printf -v "$1" %d "$((10#$value))"
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "SLURM_JOB_ID: is not set; allowed: by sbatch, as sbatch slurm/cgan.sh"
kind=$1 # train, bench or convergence
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# From SLURM's own record: the environment may be that of another job, which called sbatch. The last task of an array has the
# array's number as SLURM_JOB_ID: to requeue that would requeue all of them.
facts=$(scontrol show job --oneliner "$SLURM_JOB_ID" | grep -m 1 "^JobId=$SLURM_JOB_ID ")
field() { sed -n "s/.* $1=\([0-9]*\).*/\1/p" <<<"$facts"; }
job=$(field ArrayJobId) seed=$(field ArrayTaskId)
job=${job:+${job}_$seed}
job=${job:-$SLURM_JOB_ID}
start=$(field Restarts)
start=${start:-${SLURM_RESTART_COUNT:-0}} # 0: the first attempt of this job
nodes=$SLURM_JOB_NUM_NODES gpus=${SLURM_GPUS_ON_NODE:-0}
[[ ${SLURM_GPUS_PER_NODE:-} == 0 ]] && gpus=0 # none is asked for, though --exclusive gives all
trap 'asked=$((SECONDS + 1)); say "USR1, $(time_left) left: the run is asked to save"' USR1
trap 'ended=1; say "TERM: SLURM ends this attempt"' TERM
whole DISTGAN_PROCESSES_PER_NODE 1 1
whole DISTGAN_GRACE 120 1
whole DISTGAN_MAX_CRASHES 3 0
whole DISTGAN_MAX_IDLE 3 1

# -- the run's folder, the same in every attempt of this job, and no other job's ------------------------------------

asked_out=
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --out=*) asked_out=${!i#--out=} ;;
    --out) next=$((i + 1)) && asked_out=${!next:-} ;;
    --seeds | --seeds=* | --first-seed | --first-seed=*)
      [[ $kind != convergence ]] || fail "${!i}: each task of the array has one seed; allowed: sbatch --array=0-4 for five"
      ;;
  esac
done
asked_out=${asked_out/#\~\//$HOME/} # of --out=~/mine, which the shell leaves as it is
runs=${DISTGAN_RUNS:-runs}
run=${asked_out:-$runs/$SLURM_JOB_NAME-$job} together=
case $kind in
  train)
    # A folder of this name at the first attempt is that of another life of the cluster, with the same numbers.
    resume=auto && [[ $start == 0 && -z $asked_out ]] && resume=never
    if [[ $start == 0 ]]; then set -- train --resume $resume "$@"; else set -- train "$@" --resume auto; fi
    ;;
  bench)
    what=throughput
    case ${1:-} in throughput | scaling | plan | convergence) what=$1 && shift ;; esac
    set -- bench "$what" "$@"
    ;;
  convergence)
    [[ -n $seed ]] || fail "SLURM_ARRAY_TASK_ID: is not set; allowed: a job array, whose numbers are seeds (sbatch --array=0-9)"
    together=${asked_out:-$runs/$SLURM_JOB_NAME-${job%_*}}
    run=$together/seed-$seed
    set -- bench convergence "$@" --seeds 1 --first-seed "$seed"
    ;;
esac
# A line for each: when, job, restart, what it came to, its last checkpoint, whether that is new. However --out names the folder.
attempts=$(realpath -m -- "$run").attempts
unwritable="$attempts: can't be written; allowed: a place that can, by DISTGAN_RUNS or --out"

newest() { # its last checkpoint; the one before the first step is nothing to resume from
  find -L "$run" -type d -regex '.*/checkpoints/step-[0-9]*[1-9][0-9]*' -printf '%T@ %f\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2
}
record() {
  local now moved=idle
  now=$(newest)
  [[ $now != "$before" ]] && moved=moved
  # What is not counted could continue for ever.
  printf '%(%FT%T)T\t%s\t%s\t%s\t%s\t%s\n' -1 "$job" "$start" "$1" "${now:--}" $moved >>"$attempts" || fail "$unwritable"
}
mine() { # what is recorded of this job, and of none that had its number before
  awk -F '\t' -v job="$job" '$2 == job { if ($3 == 0 && $4 == "began") n = 0; line[n++] = $0 } END { for (i = 0; i < n; i++) print line[i] }' "$attempts"
}
# How many attempts of this job crashed, and how many of the last ones ended without a new checkpoint.
crashes() { mine | awk -F '\t' '$4 == "crashed"' | wc -l; }
idle() { mine | awk -F '\t' '$4 != "began" { n = $6 == "idle" ? n + 1 : 0 } END { print n + 0 }'; }
holder() { # of the folder: the first job of the record that is not over. Two that begin together both find the same one.
  local jobs there
  jobs=$(awk -F '\t' '$4 == "began" && !seen[$2]++ { print $2 }' "$attempts")
  there=$(squeue --noheader --array --job "$(paste -sd , <<<"$jobs")" --states PENDING,RUNNING,COMPLETING,SUSPENDED --format %i 2>/dev/null)
  grep -m 1 -xF -f <(printf '%s\n' "$job" "$there" | grep .) <<<"$jobs"
}
state() { # what this attempt made of the run; status.json may be that of one before
  [[ -n $(find "$run/status.json" -newermt "@$born" 2>/dev/null) ]] || return
  sed -n 's/^ *"state": "\([a-z]*\)".*/\1/p' "$run/status.json"
}
summarise() { # what there is of the array's seeds; the last task that ends has them all
  [[ $kind == convergence ]] && compgen -G "$together/*/results.json" >/dev/null || return 0
  (
    flock 9
    "${python[@]}" -m distgan bench convergence --join "$together"
    (($? < 2)) # 1: it tells of a run that failed
  ) 9>"$together/join.lock" || { say "no summary in $together" && return 1; }
}
requeue() { # ends this script
  say "requeue: $1"
  scontrol requeue "$job" && exec sleep 60 # until SLURM ends it
  say "SLURM did not requeue the job; to resume by hand: the same sbatch with --out ${together:-$run}"
  exit 75
}
crash() { # CODE of this attempt: tries again, or says why not
  record crashed
  if [[ $start == 0 && $1 == 2 ]]; then
    say "not requeued: a mistake, told above"
  elif [[ $start == 0 && $(newest) == "$before" ]]; then
    say "not requeued: it failed before it had anything to resume from"
  elif (($(crashes) <= DISTGAN_MAX_CRASHES)); then
    requeue "crash $(crashes) of $DISTGAN_MAX_CRASHES that are tried again"
  else
    say "not requeued: crash $(crashes) is one too many"
  fi
}
refuse() { # later than in the first attempt it may be this machine's fault alone
  printf 'distgan: %s\n' "$*" >&2
  crash 2
  exit 2
}

before=$(newest)
{ mkdir -p "$(dirname "$attempts")" && : >>"$attempts"; } || fail "$unwritable"
[[ $start == 0 && -z $asked_out && -s $attempts ]] &&
  fail "$attempts: is of another job that had this one's number; allowed: another place, by DISTGAN_RUNS or --out"
if [[ $start != 0 && $(mine | tail -n 1 | cut -f 4) == finished ]]; then
  say "done already: $run"
  exit 0
fi
record began
born=$(stat --format %.Y -- "$attempts") # by the clock of the machine that has the file
owner=$(holder)
if [[ $owner != "$job" ]]; then
  record refused
  fail "--out $run: job $owner writes in it; allowed: another folder, or this one when that job has ended"
fi
# Of the benchmarks only convergence can be resumed.
[[ $kind == bench && $what != convergence && $start != 0 ]] && run=$run-$start

# -- python --------------------------------------------------------------------------------------------------------

[[ -z $broken ]] || refuse "$broken"
venv=${DISTGAN_VENV:-}
[[ -z $venv && -x $root/.venv/bin/python ]] && venv=$root/.venv
python=(python3)
if [[ -n ${DISTGAN_CONTAINER:-} ]]; then # words before the command, as: apptainer exec --nv image.sif
  read -ra python <<<"$DISTGAN_CONTAINER"
  python+=(python3)
elif [[ -n $venv ]]; then
  python=("$venv/bin/python")
  [[ -x ${python[0]} ]] ||
    refuse "DISTGAN_VENV=$venv: holds no bin/python on $(hostname); allowed: a virtual environment that all nodes see"
fi
if [[ -d $root/distgan ]]; then # a clone; a wheel is installed
  [[ $root != *:* ]] || refuse "$root: has a colon, which PYTHONPATH can't hold; allowed: a clone in another folder"
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
fi
missing=$("${python[@]}" -c '
import importlib.util, sys
names = ("distgan", "torch", "torchvision", "accelerate", "pydantic", "safetensors", "rich", "psutil")
print("Python", sys.version.split()[0], "without", *[n for n in names if not importlib.util.find_spec(n)])') ||
  refuse "${python[*]}: does not start on $(hostname); allowed: DISTGAN_VENV, or a python3 by DISTGAN_SETUP"
[[ $missing == *without ]] ||
  refuse "${python[*]}: is $missing; allowed: one with distgan's dependencies, by DISTGAN_VENV or DISTGAN_SETUP"

# -- the step -------------------------------------------------------------------------------------------------------

unset SLURM_EXPORT_ENV # of sbatch --export=NONE: the step would have no PATH either
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE # of a job that called sbatch; the step has all of this one's
each=$gpus && ((gpus == 0)) && each=$DISTGAN_PROCESSES_PER_NODE
if [[ $kind == train ]]; then
  ((gpus)) && set -- "$1" --device cuda "${@:2}"
else
  each=1 nodes=1 # it starts processes of its own
fi
cpus=$((${SLURM_CPUS_ON_NODE:-1} / each))
((cpus)) || refuse "--cpus-per-task: ${SLURM_CPUS_ON_NODE:-1} CPUs on each machine for $each processes; allowed: $each or more"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
if [[ $kind == train ]]; then
  set -- "$1" --threads "$cpus" "${@:2}"
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  ((nodes == 1)) && first=127.0.0.1
  export MASTER_ADDR=${DISTGAN_MASTER_ADDR:-$first}
  # Below the ports that systems give away by themselves; another one in each attempt.
  export MASTER_PORT=${DISTGAN_MASTER_PORT:-$((20000 + (SLURM_JOB_ID + 997 * start) % 12000))}
  export WORLD_SIZE=$((nodes * each)) LOCAL_WORLD_SIZE=$each
fi
set -- "$@" --out "$run"

revision=$(unset "${!GIT_@}"; git -c safe.directory="$root" -C "$root" describe --always --dirty 2>/dev/null)
say "$SLURM_JOB_NUM_NODES nodes ($SLURM_JOB_NODELIST) with $gpus GPUs and ${SLURM_CPUS_ON_NODE:-?} CPUs each, $((nodes * each)) processes of $cpus threads, partition ${SLURM_JOB_PARTITION:-?}, $(time_left) left"
say "distgan ${revision:-of a wheel} in $root, ${missing% without} of ${python[*]}"
say "command: distgan $(printf '%q ' "$@")"

# Each task of the step. Signals are ignored by what has no handler yet: python's first seconds, in which there is nothing to
# save. Ranks that stop in good order end with 0, or SLURM would kill the others while they save; a benchmark has one task.
read -r -d '' task <<'TASK'
if [[ $1 != train ]]; then
  trap : USR1 USR2 TERM
  shift
  "$@"
  exit
fi
trap '' USR1 USR2 TERM
export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID
shift
"$@"
code=$?
case $code in 75 | 130 | 138 | 140 | 143) exit 0 ;; esac
exit $code
TASK
began=$SECONDS code=75 # of a job that is told to make way before it begins
if ((asked + ended == 0)); then
  srun --kill-on-bad-exit=1 --nodes="$nodes" --ntasks=$((nodes * each)) --ntasks-per-node="$each" --cpus-per-task="$cpus" \
    bash -c "$task" distgan "$kind" "${python[@]}" -u -m distgan "$@" &
  step=$!
  while kill -0 $step 2>/dev/null; do
    if ((asked)); then
      # srun hands it on to all tasks. Again and again: one that comes too early is lost.
      ((SECONDS - began > 1)) && kill -USR1 $step 2>/dev/null
      if ((SECONDS >= asked + DISTGAN_GRACE)); then
        record stuck
        (($(idle) < DISTGAN_MAX_IDLE)) && requeue "nothing was saved within $DISTGAN_GRACE s, it resumes from the checkpoint before"
        say "not requeued: the last $(idle) attempts left no new checkpoint"
        kill $step # srun ends all tasks
        summarise
        exit 75
      fi
      sleep $((SECONDS - began > 1 ? 10 : 2)) &
      nap=$!
      wait -n $step $nap
      kill $nap 2>/dev/null
    else
      wait $step
    fi
  done
  wait $step
  code=$?
  say "the step ended with $code after $((SECONDS - began)) s, its newest checkpoint: $(newest)"
fi

# -- what it came to ------------------------------------------------------------------------------------------------

became=$(state) # of a training; none of --help
if [[ $code == 0 && ($kind != train || $became == "done" || (-z $became && $((asked + ended)) == 0)) ]]; then
  record finished
  summarise || exit 1
  exit 0
fi
if ((ended)) && [[ $(squeue --noheader --job "$job" --format %T 2>/dev/null) != RUNNING ]]; then
  # Cancelled, preempted or out of time: whether it comes back is SLURM's to say.
  record ended
  exit $((code ? code : 143))
fi
case $code in 0 | 75 | 130 | 138 | 140 | 143) asked=1 ;; esac
if ((asked)); then
  record stopped
  (($(idle) < DISTGAN_MAX_IDLE)) && requeue "stopped, $(newest | grep . || echo "no checkpoint yet")"
  say "not requeued: the last $(idle) attempts left no new checkpoint"
else
  crash "$code"
fi
summarise
exit $((code ? code : 75))
