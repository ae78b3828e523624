#!/bin/bash
#SBATCH --job-name=repscope
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
#SBATCH --requeue
#SBATCH --signal=B:TERM@300
# A Ray cluster on the machines of this job, for one run of a study. Options of sbatch overrule those above:
#
#     sbatch --nodes=4 --gpus-per-node=4 slurm.sh
#
# Five minutes before the time is up the run is ended and the job queued again; it goes on from what the store holds.
set -euo pipefail

study={{study}}
store={{store}}
port=6379

export RAY_USAGE_STATS_ENABLED=0
# Other users of these machines must not get in: a token for this job alone, which srun passes on.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_TOKEN

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{ print $1 }')
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT

srun --nodes=1 --ntasks=1 --nodelist="$head" --cpus-per-task="$SLURM_CPUS_ON_NODE" \
    ray start --head --block --node-ip-address="$address" --port="$port" \
    --num-cpus="$SLURM_CPUS_ON_NODE" --dashboard-host=127.0.0.1 &
for ((try = 1; ; try++)); do
    if ray status --address="$address:$port" > /dev/null 2>&1; then break; fi
    if ((try == 60)); then
        echo "expected Ray to start on $head within 3 minutes; found no answer at $address:$port." >&2
        exit 1
    fi
    sleep 3
done

workers=$((SLURM_JOB_NUM_NODES - 1))
if ((workers > 0)); then
    # They are used as soon as they have joined, so nobody waits for them.
    srun --nodes="$workers" --ntasks="$workers" --exclude="$head" --cpus-per-task="$SLURM_CPUS_ON_NODE" \
        ray start --block --address="$address:$port" --num-cpus="$SLURM_CPUS_ON_NODE" &
fi

repscope run "$study" --store "$store" --address "$address:$port" &
run=$!
ending=
trap 'ending=1; kill -TERM "$run"' TERM
code=0
wait "$run" || code=$?
if [[ -n $ending ]]; then
    # The first wait ended with the signal, and not with the run.
    wait "$run" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
