"""What a run is: its identity, folder, lock, records, provenance and the runs it needs.

Imports nothing of the package but `errors`, and never torch: commands that only read runs start at once.
"""
