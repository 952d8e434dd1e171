"""`mrcnn slurm`: submits a training to Slurm, requeues it before its time limit and resumes it.

Examples:
    mrcnn slurm --partition gpu --time 1-00:00 --nodes 2 --gpus-per-node 8 -- \\
        --config-file mask_rcnn_R101_C4.yaml OUTPUT_DIR output/r101
    mrcnn slurm --cluster local --tasks-per-node 2 -- --config-file mask_rcnn_shapes_C4.yaml

What follows `--` are the arguments of `mrcnn train`. --resume is always added, so that every start
of the job continues the run in OUTPUT_DIR. `pip install submitit` installs what this needs.
"""

import argparse
import importlib.util
import re
import shutil
import signal
import sys
from collections.abc import Sequence

from ..errors import RunError, one_sentence
from . import train


class Training:
    """The function that submitit pickles, and calls in every process of the job.

    submitit requeues a job within the handler of its signal. Here the training saves a checkpoint
    first, as it does on SIGTERM, and the job is requeued afterwards.
    """

    def __init__(self, arguments: Sequence[str]):
        """`arguments` are those of `mrcnn train`."""
        self.arguments = list(arguments)

    def __call__(self) -> None:
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        environment = JobEnvironment()
        if environment.num_tasks > 1:
            # The local rank selects the GPU, of all GPUs of the machine.
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        requeue = _Requeue(getattr(signal, f"SIG{environment.USR_SIG}"))
        try:
            status = one_sentence("mrcnn slurm", train.main, self.arguments)
        except SystemExit as stop:
            if requeue.is_requested:
                requeue.finish(is_main_process=environment.global_rank == 0)
            status = stop.code
        if status:
            sys.exit(status)

    def checkpoint(self):
        """The job that submitit queues instead: the same, as it resumes the run in OUTPUT_DIR."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Requeue:
    """Ends the training when submitit's signal arrives, and delays submitit's own handler."""

    def __init__(self, number: signal.Signals):
        self.is_requested = False
        self._number = number
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._submitit = signal.signal(number, self._stop_training)

    def _stop_training(self, _number, _frame) -> None:
        self.is_requested = True
        if signal.getsignal(signal.SIGTERM) == self._sigterm:
            raise SystemExit(1)  # the trainer does not handle signals yet: there is nothing to save
        signal.raise_signal(signal.SIGTERM)

    def finish(self, *, is_main_process: bool) -> None:
        """Requeue the job and exit. The other processes exit without a result for submitit."""
        if is_main_process:
            self._submitit(self._number, None)
        sys.exit(0)


def minutes(text: str) -> int:
    """A time limit as sbatch accepts it, rounded up to minutes.

    The forms are M, M:S, H:M:S, D-H, D-H:M and D-H:M:S.
    """
    days, dash, clock = text.rpartition("-")
    parts = clock.split(":")
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write minutes, 12:00:00 or 1-12:00")
    if dash:
        parts = [*parts, "0", "0"][:3]
    elif len(parts) < 3:
        parts = ["0", *parts, "0"][:3]
    hours, mins, seconds = map(int, parts)
    return max(1, int(days or 0) * 1440 + hours * 60 + mins + (seconds + 59) // 60)


def argument_parser() -> argparse.ArgumentParser:
    """The options of the job, which are before `--`."""
    parser = argparse.ArgumentParser(
        usage="mrcnn slurm [options of the job] -- [arguments of mrcnn train]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cluster", choices=("slurm", "local", "debug"), default="slurm", help="local: processes "
        "on this machine; debug: in this process (default: slurm)")  # fmt: skip
    add("--folder", default="output/slurm/%j", help="of the job's output; %%j is its id "
        "(default: output/slurm/%%j)")  # fmt: skip
    add("--name", default="mrcnn", help="of the job")
    add("--time", type=minutes, default=1440, help="limit after which the job is requeued: minutes "
        "or as in sbatch (default: 1-00:00)")  # fmt: skip
    add("--signal-delay", type=int, default=300, metavar="SECONDS", help="the training stops this "
        "long before the limit, and must save a checkpoint in it (default: 300)")  # fmt: skip
    add("--max-timeouts", type=int, default=100, help="number of requeues after which the job ends "
        "(default: 100)")  # fmt: skip
    add("--partition")
    add("--account")
    add("--nodes", type=int, default=1)
    add("--gpus-per-node", type=int, default=0)
    add("--tasks-per-node", type=int, help="processes (default: one per GPU)")
    add("--cpus-per-task", type=int, help="a process needs DATALOADER.NUM_WORKERS + 1")
    add("--mem-gb", type=float, help="memory per node")
    add("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="any other option of "
        "sbatch, such as --sbatch qos=high")  # fmt: skip
    return parser


def make_executor(args: argparse.Namespace):
    """submitit's executor for the parsed options of the job.

    Raises:
        RunError: submitit or Slurm's commands are missing, or an option is malformed.
    """
    if importlib.util.find_spec("submitit") is None:
        raise RunError("submitit, which submits the job, is missing. Run: pip install submitit")
    if args.cluster == "slurm" and shutil.which("srun") is None:
        raise RunError(
            "there is no command srun here. Run this on a machine of the cluster that can submit "
            "jobs, or pass --cluster local to run the job on this machine."
        )
    malformed = [text for text in args.sbatch if "=" not in text]
    if malformed:
        raise RunError(f"--sbatch {malformed[0]} has no '='; expected KEY=VALUE")
    import submitit

    timeouts = {f"{cluster}_max_num_timeout": args.max_timeouts for cluster in ("slurm", "local")}
    executor = submitit.AutoExecutor(args.folder, cluster=args.cluster, **timeouts)
    executor.update_parameters(
        name=args.name,
        timeout_min=args.time,
        nodes=args.nodes,
        gpus_per_node=args.gpus_per_node,
        tasks_per_node=args.tasks_per_node or max(1, args.gpus_per_node),
        cpus_per_task=args.cpus_per_task,
        mem_gb=args.mem_gb,
        stderr_to_stdout=True,
        slurm_partition=args.partition,
        slurm_account=args.account,
        slurm_signal_delay_s=args.signal_delay,
        slurm_additional_parameters=dict(text.split("=", 1) for text in args.sbatch),
        # By default the other processes wait when one has failed.
        slurm_srun_args=["--kill-on-bad-exit=1"],
    )
    return executor


def train_arguments(arguments: Sequence[str]) -> list[str]:
    """The checked arguments of `mrcnn train`, with --resume."""
    args = train.argument_parser().parse_args(arguments)
    if args.num_gpus != 1 or args.num_machines != 1:
        raise RunError(
            "--num-gpus and --num-machines start processes, which Slurm does here. Pass --nodes "
            "and --gpus-per-node before the --."
        )
    return list(arguments) if args.resume else ["--resume", *arguments]


def main(argv: Sequence[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argument_parser()
    args = parser.parse_args(argv[:end])
    if end == len(argv):
        parser.error("there is no `--`, after which the arguments of `mrcnn train` are expected")
    training = Training(train_arguments(argv[end + 1 :]))
    job = make_executor(args).submit(training)
    print(f"mrcnn slurm: job {job.job_id}, output in {job.paths.stdout}", flush=True)
    if args.cluster != "slurm" and job.exception() is not None:
        raise RunError(f"the job has failed; its output is in {job.paths.stdout}")
