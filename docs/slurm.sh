#!/usr/bin/env bash
# A study on SLURM: sbatch docs/slurm.sh STUDY [flags of tune.py]
#SBATCH --job-name=lsx
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -euo pipefail

study=$1
shift
shared=${LSX_SHARED:?set LSX_SHARED to a folder that all nodes see}
port=6379
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(openssl rand -hex 32)

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --node-ip-address="$address" --port=$port &
sleep 15
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
        ray start --block --address="$address:$port" &
    sleep 15
fi

# In the background, so that the shell gets SLURM's signal and can hand it on.
python tune.py --study "$study" --address "$address:$port" \
    --storage "$shared/checkpoints" --folder "$shared/studies" "$@" &
tune=$!
trap 'kill -TERM $tune' TERM
status=0
wait $tune || status=$?
while kill -0 $tune 2> /dev/null; do wait $tune || status=$?; done
if [ $status -eq 130 ]; then # stopped with everything kept
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
