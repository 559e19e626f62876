"""Runs a program from its start to its end, and says as JSON what it used.

    python -I -S whole.py FILE COMMAND...

What the program prints goes to FILE. Linux counts the most memory of a process from before it became the program, when
it was still its parent: this parent is therefore small.
"""

import os
import sys
import time

output, *command = sys.argv[1:]
opened = [(os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
start = time.perf_counter()
process = os.posix_spawn(command[0], command, os.environ, file_actions=opened)
_, status, used = os.wait4(process, 0)
seconds = time.perf_counter() - start
cpu = used.ru_utime + used.ru_stime
code = os.waitstatus_to_exitcode(status)
print(f'{{"code": {code}, "seconds": {seconds}, "cpu": {cpu}, "peak": {used.ru_maxrss * 1024}}}')
