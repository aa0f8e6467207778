"""The machine and the process: files, hardware, threads, precision, ranks."""
