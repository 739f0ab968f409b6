"""One way for all suites to run their cases and to report them: the Test Anything Protocol."""
import os
import subprocess
import sys
import time
import traceback

SKIPPED = 77  # meson: the whole program was skipped


class Skip(Exception):
    """Raised in a case that cannot run here; its text is the reason."""


def skip_all(why):
    """Ends the program: nothing of it can run here. A run that must be complete fails."""
    print(f"1..0 # SKIP {why}")
    sys.exit(1 if os.environ.get("POSTERN_MUST_RUN") == "1" else SKIPPED)


def check(condition, what):
    if not condition:
        raise AssertionError(what)


def wait_until(condition, what, seconds=60):
    """Waits for a state that must come; `what` says it, or is a function that does. The time is for a machine that stalls:
    what is right comes sooner, and what is wrong never."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(what() if callable(what) else what)
        time.sleep(0.02)


def title_of(function):
    """The first line of the case's documentation, or its name as words."""
    text = (function.__doc__ or "").strip()
    return text.splitlines()[0] if text else function.__name__.replace("_", " ")


def reason(error):
    """What a failed check said, or the traceback of anything else."""
    text = str(error) if isinstance(error, AssertionError) and str(error) else traceback.format_exc()
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        text += error.stderr if isinstance(error.stderr, str) else error.stderr.decode(errors="replace")
    return text


class Report:
    """Points, one after the other, and the plan at the end."""

    def __init__(self):
        self.count = self.failed = self.skipped = 0

    def point(self, good, title, note=""):
        self.count += 1
        self.failed += not good
        title = title.replace("#", "\\#")
        print(f"{'ok' if good else 'not ok'} {self.count} - {title}")
        if not good:
            self.say(note)
        sys.stdout.flush()

    def skip(self, title, why):
        self.count += 1
        self.skipped += 1
        print(f"ok {self.count} - {title} # SKIP {why}", flush=True)

    @staticmethod
    def say(note):
        print("".join(f"# {line}\n" for line in note.splitlines()), end="", flush=True)

    def end(self):
        """The exit status of the program."""
        print(f"1..{self.count}", flush=True)
        return 1 if self.failed or self.count == 0 else 0


def run(cases, chosen=(), call=lambda function: function(), after=lambda: None, on_failure=lambda: None, timed=False):
    """Runs the cases whose name is in `chosen` (all if that is empty); returns the program's exit status.

    call(function): how a case is started.     after(): checks what every case must leave behind it.
    on_failure(): cleans up after a case that failed, so that it does not spoil the next.
    """
    unknown = set(chosen) - {function.__name__ for function in cases}
    if unknown:
        sys.exit(f"no such case: {' '.join(sorted(unknown))}")
    report = Report()
    for function in cases:
        if chosen and function.__name__ not in chosen:
            continue
        begun = time.monotonic()
        try:
            call(function)
            after()
            report.point(True, title_of(function))
        except Skip as why:
            report.skip(title_of(function), why)
        except Exception as error:  # noqa: BLE001: a case's own mistake is a failure too
            report.point(False, title_of(function), reason(error))
            on_failure()
        if timed:
            report.say(f"{time.monotonic() - begun:.1f} s")
    return report.end()
