# SPDX-License-Identifier: Apache-2.0
"""The command's entry point: exit codes, and how errors are shown."""

import os
import signal
import sys

from xdpscope.errors import XdpscopeError


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 failed, 2 wrong usage or configuration, 3 this host can never do it.
    """
    # Until a command takes its own measures an interrupt just ends the process, without
    # a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from xdpscope import log
    from xdpscope.cli.parser import dispatch, parse

    arguments = parse(argv)
    log.configure(arguments.log_level or "warning", arguments.log_format or "auto")
    try:
        return dispatch(arguments)
    except BrokenPipeError:
        # The reader has closed the pipe; keep the interpreter from reporting that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except XdpscopeError as error:
        print(f"xdpscope: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
