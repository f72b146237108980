"""The databases that can hold a vault: one file each, behind the protocol of `store.py`."""
