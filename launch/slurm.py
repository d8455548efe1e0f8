"""Experiments on a SLURM cluster, each a job of one array that runs `dvc exp run`.

    python -m launch.slurm -S 'seed=range(0,3)' -S landmarks=10,20 --partition gpu --gpus 1 --hours 24
    uld table --experiments

Submit from the root of a clone that all nodes see; --project studies/NAME runs a study. Each job runs the last commit
in a clone of its own below build/launch, shares the cache of the first one and leaves its result there, as an
experiment. A job whose time is up, or that is preempted, saves the state of its stage and is submitted again: finished
stages are kept, the unfinished one goes on. A job with several GPUs runs its stages in as many processes, unless
`ULD_NPROC` says otherwise.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

PLACE = Path("build/launch")  # the clones; in `logs`, what submitit writes
GRACE = 240  # seconds from the warning to the end of a job's time
SAVING = 150  # those of them for the stage to save its state, more than torchrun gives its processes (`uld.base.ranks`)

app = typer.Typer(add_completion=False)


def heed() -> None:
    """Let a new process be stopped as Ctrl-C does, which what a shell starts in the background ignores."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass
class Experiment:
    """One experiment, as a job that can be interrupted and submitted again.

    root: the clone that it is submitted from. commit: what it runs. settings: `key=value` of params.yaml. linked:
    folders of `root` that are not in Git and that stages may read. gpus: of the job. project: its folder below `root`.
    """

    root: Path
    commit: str
    settings: tuple[str, ...]
    linked: tuple[str, ...] = ("data/raw", "weights")
    gpus: int = 1
    project: Path = Path()
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def folder(self) -> Path:
        """Its own clone."""
        name = re.sub(r"[^\w.=,-]+", "_", " ".join(self.settings)) or "as-committed"
        return self.root / PLACE / "-".join([self.commit[:8], *self.project.parts[-1:], name])

    def __call__(self) -> None:
        """Run it to its end.

        Raises:
            RuntimeError: Git or DVC failed; the message is in the job's log.
        """
        if not self.folder.exists():
            self._clone()
        words = [word for setting in self.settings for word in ("--set-param", setting)]
        self._run([sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", *words], self.folder / self.project)
        self._run(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "push", "--all-commits", "--no-cache", "origin"],
            self.folder,
        )

    def checkpoint(self) -> Any:
        """Stop what runs as Ctrl-C does, or kill it, and say how to go on.

        submitit calls this when the time is nearly up, and afterwards submits the job again.
        """
        from submitit.helpers import DelayedSubmission

        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGINT)
                until = time.monotonic() + SAVING
                while process.poll() is None and time.monotonic() < until:
                    time.sleep(0.1)
                os.killpg(process.pid, signal.SIGKILL)
        return DelayedSubmission(self)

    def _clone(self) -> None:
        part = self.folder.with_name(f".{self.folder.name}.{os.getpid()}")
        self._run(["git", "clone", "--quiet", "--no-checkout", str(self.root), str(part)], self.root)
        self._run(["git", "checkout", "--quiet", self.commit], part)
        (part / ".dvc/config.local").write_text(f"[cache]\n    dir = {self.root / '.dvc/cache'}\n")
        for name in self.linked:
            if (self.root / name).is_dir() and not (part / name).exists():
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).symlink_to(self.root / name)
        part.rename(self.folder)

    def _run(self, command: list[str], folder: Path) -> None:
        # `python` of the stages is this one
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {"ULD_NPROC": str(max(1, self.gpus)), **os.environ, "PATH": path}
        self._process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, preexec_fn=heed)
        # no blocking wait: `checkpoint` is called from within, by a signal
        while self._process.poll() is None:
            time.sleep(0.2)
        if self._process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {self._process.returncode} in {folder}.")


def sweeps(settings: list[str]) -> list[tuple[str, ...]]:
    """Every combination of values, as `dvc exp run --queue` expands them: `seed=range(0,3)`, `landmarks=10,20`."""
    from dvc.utils.hydra import get_hydra_sweeps

    return [tuple(one["params.yaml"]) for one in get_hydra_sweeps({"params.yaml": settings})] if settings else [()]


@app.command()
def submit(
    settings: Annotated[
        list[str] | None, typer.Option("-S", "--set-param", help="As of `dvc exp run --queue`.")
    ] = None,
    project: Annotated[Path, typer.Option(help="The folder of a study.")] = Path(),
    partition: Annotated[str | None, typer.Option(help="SLURM's partition.")] = None,
    gpus: Annotated[int, typer.Option(help="A job.")] = 1,
    cpus: Annotated[int, typer.Option(help="A job.")] = 8,
    memory: Annotated[int, typer.Option(help="GB a job.")] = 32,
    hours: Annotated[float, typer.Option(help="Time limit of a job; it is submitted again when that is up.")] = 24,
    again: Annotated[int, typer.Option(help="How often a job is submitted again, at most.")] = 20,
    at_once: Annotated[int, typer.Option(help="Jobs of the array that run at the same time, at most.")] = 16,
    local: Annotated[bool, typer.Option("--local", help="On this machine, to try it out.")] = False,
) -> None:
    """Submit a job for each combination of values; `uld table --experiments` shows what is finished."""
    try:
        import submitit
    except ImportError:
        print("error: submitting needs submitit: pip install 'uld[slurm]'.", file=sys.stderr)
        raise typer.Exit(2) from None
    root = Path.cwd()
    if not (root / project / "dvc.yaml").is_file():
        print("error: there is no dvc.yaml here: submit from the repository's root.", file=sys.stderr)
        raise typer.Exit(2)
    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if dirty:
        print(f"note: jobs run the last commit, and these files differ from it:\n{dirty}", file=sys.stderr)
    try:
        executor = submitit.AutoExecutor(
            root / PLACE / "logs/%j", "local" if local else "slurm", slurm_max_num_timeout=again
        )
    except RuntimeError as error:
        print(f"error: {error} (--local runs on this machine)", file=sys.stderr)
        raise typer.Exit(2) from error
    executor.update_parameters(
        name="uld",
        timeout_min=round(60 * hours),
        gpus_per_node=gpus,
        cpus_per_task=cpus,
        mem_gb=memory,
        slurm_partition=partition,
        slurm_signal_delay_s=GRACE,
        slurm_array_parallelism=at_once,
    )
    experiments = [Experiment(root, commit, one, gpus=gpus, project=project) for one in sweeps(settings or [])]
    for one, job in zip(experiments, executor.submit_array(experiments), strict=True):
        print(f"{job.job_id}: {one.folder.relative_to(root)}, log {job.paths.stdout.relative_to(root)}")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    app()
