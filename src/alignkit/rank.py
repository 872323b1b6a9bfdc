"""One of several processes of a run: `python -m alignkit.rank JOB`, started by `processes`."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from pathlib import Path
from typing import Any

from alignkit import processes
from alignkit.console import Voice, logged_to
from alignkit.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER, Interrupted, RunFailed, UserError
from alignkit.importing import importing, own_process


def main() -> int:
    """Run the pickled job; how it ends is written down for the launcher, which alone speaks of it."""
    own_process()
    processes.end_with_parent()
    processes.announce()
    job = pickle.loads(Path(sys.argv[1]).read_bytes())
    folder, number = Path(os.environ[processes.FOLDER]), os.environ["RANK"]
    log = job.run.log_path if processes.is_main() else folder / f"rank-{number}.log"
    try:
        with logged_to(log) as warned:
            say = Voice() if processes.is_main() else Voice.silent()
            say(f"loading the libraries in {processes.world_size()} processes")
            with importing():
                worker: Any = importlib.import_module("alignkit.worker")
            worker.train(job, say, warned.messages)
    except (UserError, RunFailed, Interrupted, KeyboardInterrupt) as ending:
        processes.tell(Interrupted("stopped") if isinstance(ending, KeyboardInterrupt) else ending)
        codes = {UserError: EXIT_USER, RunFailed: EXIT_FAILED}
        return codes.get(type(ending), EXIT_INTERRUPTED)
    except BaseException as error:
        processes.tell(RunFailed(f"{type(error).__name__}: {error}"))
        raise
    processes.tell(None)
    return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a process group whose other end is gone must not hold this one up
