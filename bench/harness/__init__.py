"""What the benchmark scripts share: tools built on demand, processes, rounds, tables.

Linux only (readings come from /proc). Nothing here contacts any address but 127.0.0.1, except
pip when a peer that you named with --peers is not installed yet.
"""
