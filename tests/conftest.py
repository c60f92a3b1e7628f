"""A shell's background job is born deaf to Ctrl-C, and so are its children: tests that press it need it heard."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
