#!/bin/bash
# A SLURM cluster of two nodes on this machine's loopback, in one folder, without services of the system:
#
#   tests/cluster/slurm.sh start /tmp/cluster     # start munge, the controller and two node daemons; wait until the nodes are idle
#   . /tmp/cluster/environment                    # let sbatch, squeue and the rest find it
#   tests/cluster/slurm.sh node /tmp/cluster 2    # start node 2 again, whose daemon has died
#   tests/cluster/slurm.sh stop /tmp/cluster      # end every job and daemon of it
#
# Needs root (a node daemon starts jobs in the name of their owners) and Debian's slurmctld, slurmd, slurm-client and munge.
# Partitions: main, and urgent, whose jobs preempt (requeue) those of main. Accounting is off, as on many small clusters.
set -euo pipefail
doing=${1:?start, node or stop} folder=${2:?a folder}
nodes="127.0.0.1 127.0.0.2" # a node's name must lead to it, as on a real cluster
cpus=${CLUSTER_CPUS:-2}     # of each node, whatever the machine has

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

node() {
    local name
    name=$(echo "$nodes" | cut -d ' ' -f "$1")
    slurmd -N "$name" -f "$folder/slurm.conf"
}

start() {
    local controller port1 port2
    mkdir -p "$folder" && cd "$folder" && chmod 755 . && mkdir -p state spool-127.0.0.1 spool-127.0.0.2
    controller=$(free_port) port1=$(free_port) port2=$(free_port)
    (umask 077 && head -c 1024 /dev/urandom > munge.key)
    munged --force --num-threads=2 --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munge.pid" \
        --log-file="$folder/munge.log" --seed-file="$folder/munge.seed" 2> munge.err
    cat > slurm.conf << CONF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort=$controller
SlurmctldPidFile=$folder/slurmctld.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmdLogFile=$folder/slurmd-%n.log
SlurmdSpoolDir=$folder/spool-%n
StateSaveLocation=$folder/state
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=5,bf_interval=5,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SlurmdTimeout=15
InactiveLimit=0
KillWait=5
MinJobAge=${CLUSTER_FORGETS_S:-60}
OverTimeLimit=0
ReturnToService=2
NodeName=127.0.0.1 NodeAddr=127.0.0.1 NodeHostname=$(hostname -s) Port=$port1 CPUs=$cpus State=UNKNOWN
NodeName=127.0.0.2 NodeAddr=127.0.0.1 NodeHostname=$(hostname -s) Port=$port2 CPUs=$cpus State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
CONF
    echo "export SLURM_CONF=$folder/slurm.conf" > environment
    . ./environment
    trap stop ERR # a daemon that does not start leaves no other
    slurmctld -f slurm.conf
    node 1
    node 2
    for _ in $(seq 60); do
        if [ "$(sinfo --noheader --Node --partition=main --format=%T 2> /dev/null | grep -c '^idle$')" = 2 ]; then return; fi
        sleep 0.5
    done
    echo "the nodes are not idle after 30 s; see the logs in $folder" >&2
    sinfo --Node --long >&2 || true
    tail -n 5 ./*.log >&2
    stop
    exit 1
}

stop() {
    local file pid
    . "$folder/environment"
    scancel --me --signal=KILL 2> /dev/null || true
    scancel --me 2> /dev/null || true
    for _ in $(seq 20); do
        [ -n "$(squeue --noheader 2> /dev/null)" ] || break
        sleep 0.5
    done
    for file in "$folder"/slurmd-*.pid "$folder/slurmctld.pid" "$folder/munge.pid"; do
        if [ -f "$file" ] && pid=$(cat "$file") && kill "$pid" 2> /dev/null; then
            for _ in $(seq 40); do
                kill -0 "$pid" 2> /dev/null || break
                sleep 0.1
            done
            kill -KILL "$pid" 2> /dev/null || true
        fi
    done
}

folder=$(realpath -m "$folder")
case $doing in
    start) start ;;
    node) node "${3:?1 or 2}" ;;
    stop) stop ;;
    *) echo "start, node or stop, not $doing" >&2 && exit 2 ;;
esac
