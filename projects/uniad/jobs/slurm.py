"""Slurm: https://slurm.schedmd.com/sbatch.html. The tree's own folder is the shared storage."""

from __future__ import annotations

from collections.abc import Sequence

from uniad.jobs.job import SECONDS_TO_SAVE, Job


def words(job: Job, flags: Sequence[str] = ()) -> list[str]:
    """The call of sbatch. ``flags`` come last of its options, so that they win."""
    return [
        "sbatch",
        f"--job-name={job.name}",
        f"--nodes={job.machines}",
        "--ntasks-per-node=1",
        *([f"--gpus-per-node={job.gpus}"] if job.gpus else []),
        *([f"--time={job.minutes}"] if job.minutes else []),
        f"--signal=TERM@{SECONDS_TO_SAVE}",
        # A lost node puts the job back into the queue; what it then writes follows what it has written.
        *(["--requeue", "--open-mode=append"] if job.restarts else ["--no-requeue"]),
        *flags,
        "tools/slurm_job.sh",
        *job.command()[2:],
    ]
