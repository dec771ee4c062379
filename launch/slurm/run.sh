# What every job of the templates does: run the tasks, and queue the job again where they stopped after a save.
# PYTHON: the interpreter of the nodes, .venv/bin/python unless set.

trap : TERM USR1 # the tasks get these too, and save; the script waits for them
# Not --kill-on-bad-exit: a task that has saved and ended would take along those that are about to.
srun --kill-on-bad-exit=0 --wait=60 "${PYTHON:-.venv/bin/python}" "$@"
code=$?
if [ "$code" -eq 75 ] || [ "$code" -eq 138 ]; then # 138: by USR1, before it could listen
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
