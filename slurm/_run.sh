# shellcheck shell=bash
# Sourced by slurm/*.sh in an allocation, as `source _run.sh KIND FLAGS...`: starts one process for each GPU of all nodes,
# forwards stop signals to them, and requeues the job until its run is done. docs/slurm.md lists all variables.
set -uo pipefail # not -e: a `wait` that a signal interrupts is no error

# A job may be preempted before its step has started.
stop_requested=0 stop_time=0 term_received=0 # stop_time: of the last request, in SECONDS
trap stop_requested=1 USR1
trap term_received=1 TERM

# -- site setup: DISTGAN_SETUP, before python starts ---------------------------------------------------------------

source_site() { # the site's file may set, shift and cd: so it is sourced before this script's variables are set
  local -r distgan_here=$PWD
  set +u
  # shellcheck source=/dev/null
  source "$DISTGAN_SETUP" || setup_error="DISTGAN_SETUP: fails with exit code $? ($DISTGAN_SETUP). Expected: a file that bash can source"
  set +efx -u -o pipefail
  IFS=$' \t\n'
  cd -- "$distgan_here" || setup_error="current folder: does not exist on $(hostname) ($distgan_here). Expected: a folder on all machines"
}
setup_error=
if [[ -n ${DISTGAN_SETUP:-} ]]; then
  if [[ -r $DISTGAN_SETUP ]]; then
    source_site
  else
    setup_error="DISTGAN_SETUP: not readable on $(hostname) ($DISTGAN_SETUP). Expected: a file that bash can source"
  fi
fi

# -- the job -------------------------------------------------------------------------------------------------------

fail() {
  printf 'distgan: %s\n' "$*" >&2
  exit 2
}
say() { printf '[%(%F %T)T %s #%s] %s\n' -1 "$SLURM_JOB_NAME-$job" "$restarts" "$*"; }
time_left() { squeue --noheader --job "$job" --format %L 2>/dev/null | head -n 1; }
require_int() { # NAME DEFAULT MIN: check the variable NAME, and set it to a plain integer
  local value=${!1:-$2}
  { [[ $value =~ ^[0-9]{1,6}$ ]] && ((10#$value >= $3)); } || fail "$1: invalid environment variable ($value). Expected: an integer, $3 or more"
  printf -v "$1" %d "$((10#$value))"
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "SLURM_JOB_ID: not set. Expected: submission by sbatch, as sbatch slurm/cgan.sh"
kind=$1 # train, bench or convergence
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# From SLURM's record: the environment may be that of another job, which called sbatch. The last task of an array has the
# array's id as SLURM_JOB_ID; requeueing that would requeue all tasks.
job_record=$(scontrol show job --oneliner "$SLURM_JOB_ID" | grep -m 1 "^JobId=$SLURM_JOB_ID ")
job_field() { sed -n "s/.* $1=\([0-9]*\).*/\1/p" <<<"$job_record"; }
job=$(job_field ArrayJobId) seed=$(job_field ArrayTaskId)
job=${job:+${job}_$seed}
job=${job:-$SLURM_JOB_ID}
restarts=$(job_field Restarts)
restarts=${restarts:-${SLURM_RESTART_COUNT:-0}} # 0: the first attempt of this job
nodes=$SLURM_JOB_NUM_NODES gpus=${SLURM_GPUS_ON_NODE:-0}
[[ ${SLURM_GPUS_PER_NODE:-} == 0 ]] && gpus=0 # none requested, though --exclusive allocates all
trap 'stop_requested=1 stop_time=$SECONDS; say "USR1, $(time_left) left: requesting the run to save"' USR1
trap 'term_received=1; say "TERM: SLURM ends this attempt"' TERM
require_int DISTGAN_PROCESSES_PER_NODE 1 1
require_int DISTGAN_GRACE 120 1
require_int DISTGAN_MAX_CRASHES 3 0
require_int DISTGAN_MAX_IDLE 3 1

# -- the run's folder: the same in every attempt of this job, and not used by other jobs ----------------------------

out_flag=
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --out=*) out_flag=${!i#--out=} ;;
    --out) next=$((i + 1)) && out_flag=${!next:-} ;;
    --seeds | --seeds=* | --first-seed | --first-seed=*)
      [[ $kind != convergence ]] || fail "${!i}: not supported in an array, where each task has one seed. Expected: sbatch --array=0-4 for five"
      ;;
  esac
done
out_flag=${out_flag/#\~\//$HOME/} # the shell does not expand --out=~/mine
runs=${DISTGAN_RUNS:-runs}
run=${out_flag:-$runs/$SLURM_JOB_NAME-$job} array_dir=
case $kind in
  train)
    # At the first attempt a folder of this name is from before the cluster's job ids restarted.
    resume=auto && [[ $restarts == 0 && -z $out_flag ]] && resume=never
    if [[ $restarts == 0 ]]; then set -- train --resume $resume "$@"; else set -- train "$@" --resume auto; fi
    ;;
  bench)
    benchmark=throughput
    case ${1:-} in throughput | scaling | plan | convergence) benchmark=$1 && shift ;; esac
    set -- bench "$benchmark" "$@"
    ;;
  convergence)
    [[ -n $seed ]] || fail "SLURM_ARRAY_TASK_ID: not set. Expected: a job array, whose indices are the seeds (sbatch --array=0-9)"
    array_dir=${out_flag:-$runs/$SLURM_JOB_NAME-${job%_*}}
    run=$array_dir/seed-$seed
    set -- bench convergence "$@" --seeds 1 --first-seed "$seed"
    ;;
esac
# A line per start and end of an attempt: time, job, restart, outcome, last checkpoint, whether that is new. realpath: --out
# may name the folder in several ways.
attempts=$(realpath -m -- "$run").attempts
unwritable="DISTGAN_RUNS, --out: not writable ($attempts). Expected: a writable folder"

newest_checkpoint() { # of the run, "" if there is none after step 0
  find -L "$run" -type d -regex '.*/checkpoints/step-[0-9]*[1-9][0-9]*' -printf '%T@ %f\n' 2>/dev/null | sort -n | tail -n 1 | cut -d ' ' -f 2
}
record() {
  local now moved=idle
  now=$(newest_checkpoint)
  [[ $now != "$before" ]] && moved=moved
  # Without the record a job could requeue itself for ever.
  printf '%(%FT%T)T\t%s\t%s\t%s\t%s\t%s\n' -1 "$job" "$restarts" "$1" "${now:--}" $moved >>"$attempts" || fail "$unwritable"
}
job_lines() { # the lines of this job, without those of an older job with the same id
  awk -F '\t' -v job="$job" '$2 == job { if ($3 == 0 && $4 == "began") n = 0; line[n++] = $0 } END { for (i = 0; i < n; i++) print line[i] }' "$attempts"
}
# Number of attempts of this job that crashed, and of consecutive last ones that left no new checkpoint.
count_crashes() { job_lines | awk -F '\t' '$4 == "crashed"' | wc -l; }
count_idle() { job_lines | awk -F '\t' '$4 != "began" { n = $6 == "idle" ? n + 1 : 0 } END { print n + 0 }'; }
folder_owner() { # the first recorded job that has not ended, the same for two jobs that start together
  local jobs active
  jobs=$(awk -F '\t' '$4 == "began" && !seen[$2]++ { print $2 }' "$attempts")
  active=$(squeue --noheader --array --job "$(paste -sd , <<<"$jobs")" --states PENDING,RUNNING,COMPLETING,SUSPENDED --format %i 2>/dev/null)
  grep -m 1 -xF -f <(printf '%s\n' "$job" "$active" | grep .) <<<"$jobs"
}
run_state() { # the state in status.json, if this attempt wrote it
  [[ -n $(find "$run/status.json" -newermt "@$start_time" 2>/dev/null) ]] || return
  sed -n 's/^ *"state": "\([a-z]*\)".*/\1/p' "$run/status.json"
}
summarise() { # the seeds of the array that are done; the last task to end has all
  [[ $kind == convergence ]] && compgen -G "$array_dir/*/results.json" >/dev/null || return 0
  (
    flock 9
    "${python[@]}" -m distgan bench convergence --join "$array_dir"
    (($? < 2)) # 1: a run failed, and is in the summary
  ) 9>"$array_dir/join.lock" || { say "no summary in $array_dir" && return 1; }
}
requeue() { # and exit
  say "requeue: $1"
  scontrol requeue "$job" && exec sleep 60 # until SLURM kills it
  say "SLURM did not requeue the job; to resume by hand: the same sbatch with --out ${array_dir:-$run}"
  exit 75
}
handle_crash() { # EXIT_CODE: requeue, or print why not
  record crashed
  if [[ $restarts == 0 && $1 == 2 ]]; then
    say "not requeued: usage error, see above"
  elif [[ $restarts == 0 && $(newest_checkpoint) == "$before" ]]; then
    say "not requeued: it failed before its first checkpoint"
  elif (($(count_crashes) <= DISTGAN_MAX_CRASHES)); then
    requeue "crash $(count_crashes) of at most $DISTGAN_MAX_CRASHES"
  else
    say "not requeued: crash $(count_crashes), more than $DISTGAN_MAX_CRASHES"
  fi
}
fail_on_node() { # a usage error, or in a later attempt a problem of this machine only
  printf 'distgan: %s\n' "$*" >&2
  handle_crash 2
  exit 2
}

before=$(newest_checkpoint)
{ mkdir -p "$(dirname "$attempts")" && : >>"$attempts"; } || fail "$unwritable"
[[ $restarts == 0 && -z $out_flag && -s $attempts ]] &&
  fail "DISTGAN_RUNS: the folder has an older job with this job's id ($attempts). Expected: another folder, or --out"
if [[ $restarts != 0 && $(job_lines | tail -n 1 | cut -f 4) == finished ]]; then
  say "done already: $run"
  exit 0
fi
record began
start_time=$(stat --format %.Y -- "$attempts") # by the file server's clock
owner=$(folder_owner)
if [[ $owner != "$job" ]]; then
  record refused
  fail "--out: in use by job $owner ($run). Expected: another folder, or this one when that job has ended"
fi
# Of the benchmarks only convergence can be resumed.
[[ $kind == bench && $benchmark != convergence && $restarts != 0 ]] && run=$run-$restarts

# -- python --------------------------------------------------------------------------------------------------------

[[ -z $setup_error ]] || fail_on_node "$setup_error"
venv=${DISTGAN_VENV:-}
[[ -z $venv && -x $root/.venv/bin/python ]] && venv=$root/.venv
python=(python3) chosen_by=DISTGAN_VENV
if [[ -n ${DISTGAN_CONTAINER:-} ]]; then # a command prefix, as: apptainer exec --nv image.sif
  chosen_by=DISTGAN_CONTAINER
  read -ra python <<<"$DISTGAN_CONTAINER"
  python+=(python3)
elif [[ -n $venv ]]; then
  python=("$venv/bin/python")
  [[ -x ${python[0]} ]] ||
    fail_on_node "DISTGAN_VENV: no bin/python on $(hostname) ($venv). Expected: a virtual environment visible to all nodes"
elif [[ -n ${DISTGAN_SETUP:-} ]]; then
  chosen_by=DISTGAN_SETUP
fi
if [[ -d $root/distgan ]]; then # a clone; a wheel is installed
  [[ $root != *:* ]] || fail_on_node "DISTGAN_ROOT: a colon can't be in PYTHONPATH ($root). Expected: a clone in another folder"
  export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
fi
missing=$("${python[@]}" -c '
import importlib.util, sys
names = ("distgan", "torch", "torchvision", "accelerate", "pydantic", "safetensors", "rich", "psutil")
print("Python", sys.version.split()[0], "without", *[n for n in names if not importlib.util.find_spec(n)])') ||
  fail_on_node "$chosen_by: python does not start on $(hostname) (${python[*]}). Expected: a Python with distgan's dependencies, by DISTGAN_VENV, DISTGAN_SETUP or DISTGAN_CONTAINER"
[[ $missing == *without ]] ||
  fail_on_node "$chosen_by: dependencies are missing on $(hostname) (${python[*]}: $missing). Expected: a Python with distgan's dependencies, by DISTGAN_VENV, DISTGAN_SETUP or DISTGAN_CONTAINER"

# -- the step -------------------------------------------------------------------------------------------------------

unset SLURM_EXPORT_ENV # set by sbatch --export=NONE, it would leave the step without PATH
unset SLURM_MEM_PER_CPU SLURM_MEM_PER_GPU SLURM_MEM_PER_NODE # of a job that called sbatch; the step may use all memory of this job
per_node=$gpus && ((gpus == 0)) && per_node=$DISTGAN_PROCESSES_PER_NODE
if [[ $kind == train ]]; then
  ((gpus)) && set -- "$1" --device cuda "${@:2}"
else
  per_node=1 nodes=1 # a benchmark starts its processes itself
fi
cpus=$((${SLURM_CPUS_ON_NODE:-1} / per_node))
((cpus)) || fail_on_node "--cpus-per-task: too few CPUs on each machine for $per_node processes (${SLURM_CPUS_ON_NODE:-1}). Expected: $per_node or more"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$cpus}
if [[ $kind == train ]]; then
  set -- "$1" --threads "$cpus" "${@:2}"
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
  ((nodes == 1)) && first=127.0.0.1
  export MASTER_ADDR=${DISTGAN_MASTER_ADDR:-$first}
  # Below the ephemeral ports; another one in each attempt.
  export MASTER_PORT=${DISTGAN_MASTER_PORT:-$((20000 + (SLURM_JOB_ID + 997 * restarts) % 12000))}
  export WORLD_SIZE=$((nodes * per_node)) LOCAL_WORLD_SIZE=$per_node
fi
set -- "$@" --out "$run"

revision=$(unset "${!GIT_@}"; git -c safe.directory="$root" -C "$root" describe --always --dirty 2>/dev/null)
say "$SLURM_JOB_NUM_NODES nodes ($SLURM_JOB_NODELIST) with $gpus GPUs and ${SLURM_CPUS_ON_NODE:-?} CPUs each, $((nodes * per_node)) processes of $cpus threads, partition ${SLURM_JOB_PARTITION:-?}, $(time_left) left"
say "distgan ${revision:-of a wheel} in $root, ${missing% without} of ${python[*]}"
say "command: distgan $(printf '%q ' "$@")"

# The script of each task. Signals are ignored until python has its handlers; there is nothing to save before. Ranks that stop
# on request exit with 0, or SLURM would kill the others while they save; a benchmark has one task.
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
step_start=$SECONDS code=75 # if it is preempted before the step starts
if ((stop_requested + term_received == 0)); then
  srun --kill-on-bad-exit=1 --nodes="$nodes" --ntasks=$((nodes * per_node)) --ntasks-per-node="$per_node" --cpus-per-task="$cpus" \
    bash -c "$task" distgan "$kind" "${python[@]}" -u -m distgan "$@" &
  step=$!
  while kill -0 $step 2>/dev/null; do
    if ((stop_requested)); then
      # srun forwards it to all tasks. Repeatedly: a signal before python has its handler is ignored.
      ((SECONDS - step_start > 1)) && kill -USR1 $step 2>/dev/null
      if ((SECONDS > stop_time + DISTGAN_GRACE)); then
        record stuck
        (($(count_idle) < DISTGAN_MAX_IDLE)) && requeue "nothing was saved within $DISTGAN_GRACE s; it resumes from the previous checkpoint"
        say "not requeued: the last $(count_idle) attempts left no new checkpoint"
        kill $step # srun ends all tasks
        summarise
        exit 75
      fi
      sleep $((SECONDS - step_start > 1 ? 10 : 2)) &
      sleeper=$!
      wait -n $step $sleeper
      kill $sleeper 2>/dev/null
    else
      wait $step
    fi
  done
  wait $step
  code=$?
  say "the step ended with $code after $((SECONDS - step_start)) s, its newest checkpoint: $(newest_checkpoint)"
fi

# -- outcome --------------------------------------------------------------------------------------------------------

state=$(run_state) # of a training; empty for --help
if [[ $code == 0 && ($kind != train || $state == "done" || (-z $state && $((stop_requested + term_received)) == 0)) ]]; then
  record finished
  summarise || exit 1
  exit 0
fi
if ((term_received)) && [[ $(squeue --noheader --job "$job" --format %T 2>/dev/null) != RUNNING ]]; then
  # Cancelled, preempted or out of time: SLURM requeues it or not.
  record ended
  exit $((code ? code : 143))
fi
case $code in 0 | 75 | 130 | 138 | 140 | 143) stop_requested=1 ;; esac
if ((stop_requested)); then
  record stopped
  (($(count_idle) < DISTGAN_MAX_IDLE)) && requeue "stopped, $(newest_checkpoint | grep . || echo "no checkpoint yet")"
  say "not requeued: the last $(count_idle) attempts left no new checkpoint"
else
  handle_crash "$code"
fi
summarise
exit $((code ? code : 75))
