"""What a server is to its machine: a process with signals, ports, a configuration that is read again, and systemd."""
